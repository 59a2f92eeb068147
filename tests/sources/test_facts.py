import hashlib
import io

import numpy as np
import pytest
from embedding_samples import encoded, picture
from PIL import Image

from truepair.sources.decoding import decoded
from truepair.sources.facts import difference_hash, facts_of, is_blank


def bits_apart(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def test_a_picture_that_darkens_to_the_right_has_all_bits_and_its_mirror_none():
    darkening = np.tile(np.linspace(240, 16, 9, dtype=np.uint8), (8, 1))
    picture = Image.fromarray(darkening).convert("RGB")
    assert difference_hash(picture) == 2**64 - 1
    assert difference_hash(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0


def test_bits_stand_row_by_row_with_the_first_the_highest():
    grey = np.zeros((8, 9), dtype=np.uint8)
    grey[0, 0] = 200  # brighter than its right neighbour: the first of 64 bits
    grey[7, 7] = 200  # the last
    assert difference_hash(Image.fromarray(grey).convert("RGB")) == 2**63 + 1


@pytest.mark.parametrize("quality", [95, 40])
def test_a_smaller_compressed_copy_is_near_and_other_pictures_are_far(quality):
    with Image.open(io.BytesIO(encoded(picture(0, 400, 300), "JPEG", quality=quality))) as copy:
        near = difference_hash(copy.convert("RGB").resize((120, 90)))
    original = difference_hash(picture(0, 400, 300))
    assert bits_apart(original, near) <= 4
    assert all(bits_apart(original, difference_hash(picture(seed, 400, 300))) > 12 for seed in range(1, 6))


def test_facts_of_a_picture():
    data = encoded(picture(0))
    seen = facts_of(data, picture(0))
    assert (seen.width, seen.height, seen.is_blank) == (40, 30, False)
    assert seen.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 30)), (3, (40, 30)), (6, (30, 40)), (8, (30, 40))])
def test_the_size_is_that_of_the_upright_picture(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(0), "JPEG", exif=exif)
    seen = facts_of(data, decoded(data))
    assert (seen.width, seen.height) == size


def test_blank_is_a_plain_surface_in_any_colour_even_compressed():
    for colour in ("white", "black", (200, 30, 90)):
        plain = Image.new("RGB", (64, 64), colour)
        assert is_blank(plain)
        with Image.open(io.BytesIO(encoded(plain, "JPEG", quality=50))) as compressed:
            assert is_blank(compressed.convert("RGB"))
    dotted = Image.new("RGB", (64, 64), "white")
    dotted.putpixel((10, 10), (255, 240, 255))
    assert not is_blank(dotted)


@pytest.mark.parametrize("colour", ["white", "black"])
def test_what_stands_white_or_black_on_nothing_is_not_blank_and_nothing_at_all_is(colour):
    sign = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert is_blank(decoded(encoded(sign)))
    sign.paste(colour, (16, 16, 48, 48))
    assert not is_blank(decoded(encoded(sign)))


def test_a_plain_surface_of_any_transparency_is_blank():
    for colour in ((255, 255, 255, 255), (0, 0, 0, 255), (255, 255, 255, 90), (10, 200, 30, 40)):
        assert is_blank(decoded(encoded(Image.new("RGBA", (32, 32), colour))))
