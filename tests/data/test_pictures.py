import io

import numpy as np
import pytest
from made_sources import picture, write_files
from picture_bytes import PictureBytes
from PIL import Image

from truepair.data.pairs import Pictures
from truepair.data.pictures import ChosenPictures, PictureFiles, SourcePictures, patches
from truepair.errors import DataError
from truepair.sources.folders import FolderSource
from truepair.sources.picture_files import UnreadablePictureError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def flat(colour: object, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    return encoded(Image.new(mode, size, colour))


def test_patches_are_the_pixels_of_a_tiny_picture_in_reading_order():
    # 4 × 4 pixels, red = 10·row + column, green and blue 255 and 0: with grid 2 and pixels 2 nothing is resized.
    red = np.array([[10 * row + column for column in range(4)] for row in range(4)], dtype=np.uint8)
    colours = np.stack([red, np.full_like(red, 255), np.zeros_like(red)], axis=-1)
    found = patches(encoded(Image.fromarray(colours)), grid=2, pixels=2)
    reds = [[0, 1, 10, 11], [2, 3, 12, 13], [20, 21, 30, 31], [22, 23, 32, 33]]  # [patch, pixel]
    expected = [[value for r in patch for value in (r / 255 - 0.5, 0.5, -0.5)] for patch in reds]
    np.testing.assert_allclose(found, np.array(expected, dtype=np.float32), atol=1e-6)


def test_patches_of_a_picture_of_one_colour_are_that_colour_at_any_size():
    found = patches(flat((255, 0, 51), size=(37, 11)), grid=3, pixels=5)
    assert found.shape == (9, 75)
    np.testing.assert_allclose(found.reshape(-1, 3), np.tile([0.5, -0.5, -0.3], (225, 1)), atol=1e-6)


@pytest.mark.parametrize("largest", [16, 15])
def test_patches_of_a_huge_picture_are_refused(largest):
    if largest == 16:
        assert patches(flat("white"), most_pixels=16).shape == (36, 192)
    else:
        with pytest.raises(UnreadablePictureError, match="4 × 4 pixels are more than 15"):
            patches(flat("white"), most_pixels=largest)


@pytest.mark.parametrize("broken", [b"", b"GIF89a", flat("white")[:40]])
def test_patches_of_broken_bytes_are_a_data_error(broken):
    with pytest.raises(DataError, match="cannot be decoded"):
        patches(broken)


def test_patches_of_grey_16_bit_and_transparent_pictures_are_what_is_seen():
    grey = encoded(Image.fromarray(np.array([[0, 60_000], [60_000, 0]], dtype=np.uint16)))
    found = patches(grey, grid=2, pixels=1)
    np.testing.assert_allclose(found[:, 0], [-0.5, 0.5, 0.5, -0.5], atol=1e-6)
    nothing = patches(flat((0, 0, 0, 0), mode="RGBA"), grid=1, pixels=2)
    assert (nothing == 0.5).all()


def test_picture_files_are_read_when_asked_for(tmp_path):
    pictures = PictureFiles([tmp_path / "a.png", tmp_path / "gone.png"])
    (tmp_path / "a.png").write_bytes(b"abc")
    assert len(pictures) == 2
    assert pictures[0] == b"abc"
    assert pictures.reference(1) == str(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"gone\.png: missing picture"):
        pictures[1]


def test_chosen_pictures_are_renumbered():
    chosen = ChosenPictures(PictureBytes([b"a", b"b", b"c"]), [2, 0])
    assert len(chosen) == 2
    assert [chosen[0], chosen[1]] == [b"c", b"a"]
    assert chosen.reference(1) == "picture 0"


class Opened:
    """A source that counts how often it was opened."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0

    def __call__(self):
        self.count += 1
        return FolderSource(self.folder)


def test_pictures_of_a_source_open_it_once_when_the_first_is_looked_at(tmp_path):
    write_files(tmp_path, {f"{name}.png": picture(place) for place, name in enumerate("abc")})
    opening = Opened(tmp_path)
    pictures = SourcePictures(["c.png", "a.png"], opening)
    assert isinstance(pictures, Pictures)
    assert (len(pictures), pictures.reference(0), opening.count) == (2, "c.png", 0)
    assert [pictures[0], pictures[1]] == [picture(2), picture(0)]
    assert opening.count == 1
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="missing picture"):
        pictures[1]
