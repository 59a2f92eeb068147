import io

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from truepair.sources.decoding import decoded, thumbnail
from truepair.sources.picture_files import UnreadablePictureError


def encoded(picture, kind="PNG", **options):
    written = io.BytesIO()
    picture.save(written, kind, **options)
    return written.getvalue()


def flat(colour, size=(4, 4), mode="RGB"):
    return encoded(Image.new(mode, size, colour))


def scene(width=40, height=30):
    """Coarse noise in colour."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def greys(picture):
    """The red channel of a picture, as an array."""
    assert picture.mode == "RGB"
    return np.asarray(picture)[:, :, 0]


def farthest(one, other):
    """The largest difference of two pictures' values."""
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


# One channel of more than 8 bits


def ramp(dtype, low, high):
    return np.linspace(low, high, 16 * 16).reshape(16, 16).astype(dtype)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (ramp(np.uint16, 0, 65_535), "PNG"),
        (ramp(np.uint16, 0, 4_095), "PNG"),  # 12 bits in 16, as cameras and scanners store them
        (ramp(np.uint16, 300, 700), "TIFF"),
        (ramp(np.int32, -100_000, 100_000), "TIFF"),
        (ramp(np.float32, 0, 1), "TIFF"),
        (ramp(np.float32, -3e5, 2e5), "TIFF"),
    ],
)
def test_one_channel_of_more_than_8_bits_is_scaled_by_its_own_range(values, kind):
    found = greys(decoded(encoded(Image.fromarray(values), kind)))
    assert (found.min(), found.max()) == (0, 255)
    assert (np.diff(found.flatten().astype(int)) >= 0).all()
    assert len(np.unique(found)) > 200


def test_values_of_a_float_picture_that_are_no_numbers_are_black():
    values = ramp(np.float32, 1, 2)
    values[0, 0], values[3, 3], values[5, 5] = np.nan, np.inf, -np.inf
    found = greys(decoded(encoded(Image.fromarray(values), "TIFF")))
    assert found[0, 0] == found[3, 3] == found[5, 5] == 0
    assert found.max() == 255


@pytest.mark.parametrize("value", [0, 7, 60_000])
def test_a_plain_picture_of_16_bits_is_plain(value):
    found = greys(decoded(encoded(Image.fromarray(np.full((8, 8), value, dtype=np.uint16)))))
    assert len(np.unique(found)) == 1


def test_a_float_picture_without_any_number_is_plain():
    found = greys(decoded(encoded(Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)), "TIFF")))
    assert len(np.unique(found)) == 1


# Colours


def test_lab_is_its_colour():
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    picture = Image.new("RGB", (16, 16), (200, 40, 90))
    data = encoded(ImageCms.applyTransform(picture, to_lab), "TIFF")
    assert Image.open(io.BytesIO(data)).mode == "LAB"
    assert farthest(decoded(data), picture) <= 6


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L", "1", "P"])
def test_pictures_of_other_modes_are_their_colours(mode):
    grey = Image.new("RGB", (16, 16), (255, 255, 255))
    grey.paste((0, 0, 0), (0, 0, 8, 16))
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    data = encoded(grey.convert(mode), kind, **({"quality": 95} if kind == "JPEG" else {}))
    assert farthest(decoded(data), grey) <= 12


def test_transparent_pixels_are_white():
    assert decoded(flat((255, 0, 0, 0), mode="RGBA")).getpixel((0, 0)) == (255, 255, 255)
    assert decoded(flat((255, 0, 0, 255), mode="RGBA")).getpixel((0, 0)) == (255, 0, 0)
    picture = Image.new("RGBA", (4, 4), (0, 0, 255, 255))
    picture.putpixel((0, 0), (255, 0, 0, 128))
    assert decoded(encoded(picture)).getpixel((0, 0)) == (255, 127, 127)


def test_what_is_white_on_nothing_is_shown_on_black_and_what_is_black_on_white():
    for colour, ground in (("white", (0, 0, 0)), ("black", (255, 255, 255)), ("red", (255, 255, 255))):
        sign = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
        sign.paste(colour, (8, 8, 24, 24))
        for data in (encoded(sign), encoded(sign, "WEBP", lossless=True), encoded(sign.quantize(4))):
            found = decoded(data)
            assert found.getpixel((0, 0)) == ground
            assert found.getpixel((16, 16)) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))


def test_grey_with_transparency_and_a_transparent_colour_are_on_white():
    sign = Image.new("LA", (16, 16), (0, 0))
    sign.paste((60, 255), (4, 4, 12, 12))
    found = decoded(encoded(sign))
    assert (found.getpixel((0, 0)), found.getpixel((8, 8))) == ((255, 255, 255), (60, 60, 60))
    picture = Image.new("RGB", (16, 16), (1, 2, 3))
    picture.paste((90, 80, 70), (4, 4, 12, 12))
    found = decoded(encoded(picture, transparency=(1, 2, 3)))
    assert (found.getpixel((0, 0)), found.getpixel((8, 8))) == ((255, 255, 255), (90, 80, 70))


def test_a_picture_without_anything_visible_is_white_all_over():
    assert decoded(flat((255, 255, 255, 0), mode="RGBA")).getextrema() == ((255, 255),) * 3


# Turned, moving, tiny, huge


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (19, 9)), (6, (9, 0)), (8, (0, 19))])
def test_a_picture_turned_by_exif_is_upright(orientation, corner):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.new("RGB", (20, 10), "black")
    picture.putpixel((0, 0), (255, 255, 255))
    found = decoded(encoded(picture, "PNG", exif=exif))
    assert found.size == ((20, 10) if orientation in (1, 3) else (10, 20))
    assert found.getpixel(corner) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_a_moving_picture_the_first_frame_is_shown(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {} if kind in ("TIFF", "MPO") else {"duration": 50}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert farthest(decoded(data), frames[0]) <= 12


@pytest.mark.parametrize("size", [(1, 1), (6000, 2), (2, 6000)])
def test_pictures_of_odd_sizes_are_decoded(size):
    for kind in ("PNG", "JPEG"):
        assert decoded(encoded(Image.new("RGB", size, "red"), kind)).size == size
    assert max(Image.open(io.BytesIO(thumbnail(encoded(Image.new("RGB", size, "red")), 64))).size) == min(64, max(size))


@pytest.mark.parametrize(
    "kind", ["BMP", "ICO", "TGA", "PPM", "WEBP", "TIFF", "GIF", *(["AVIF"] if features.check("avif") else [])]
)
def test_pictures_of_many_formats_are_decoded_whatever_they_are_called(kind):
    assert (
        farthest(
            decoded(encoded(Image.new("RGB", (16, 16), (200, 30, 40)), kind)), Image.new("RGB", (16, 16), (200, 30, 40))
        )
        <= 16
    )


def test_a_progressive_jpeg_is_decoded():
    assert farthest(decoded(encoded(scene(), "JPEG", quality=95, progressive=True)), scene()) <= 60


def test_a_huge_picture_is_not_decoded_and_the_reason_is_one_of_its_own():
    bomb = encoded(Image.new("1", (20_000, 15_000)))
    with pytest.raises(
        UnreadablePictureError, match=r"20,000 × 15,000 pixels are more than 250,000,000 \(--largest-pi"
    ) as huge:
        decoded(bomb)
    assert huge.value.reason == "huge picture"
    small = flat("white", size=(40, 40))
    assert decoded(small, most_pixels=1_600).size == (40, 40)
    with pytest.raises(UnreadablePictureError) as huge:
        decoded(small, most_pixels=1_599)
    assert huge.value.reason == "huge picture"


def test_pillows_own_limit_is_off_while_a_picture_is_opened_and_on_again_behind(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns above it and raises above twice as much
    assert decoded(flat("white", size=(40, 40))).size == (40, 40)
    assert Image.MAX_IMAGE_PIXELS == 100


# Broken


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_pictures_are_unreadable(kind):
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), kind)
    with pytest.raises(UnreadablePictureError, match="bytes cannot be decoded") as broken:
        decoded(whole[: len(whole) // 2])
    assert broken.value.reason == "unreadable picture"


def test_a_png_with_a_wrong_checksum_is_unreadable():
    whole = bytearray(encoded(scene()))
    place = whole.index(b"IDAT")
    whole[place + 30] ^= 0xFF
    with pytest.raises(UnreadablePictureError):
        decoded(bytes(whole))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no known picture format"),
        (b"GIF89a", "."),
        (b"<html>404</html>", "no known picture format"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "vector graphics, SVG, are not read"),
        (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg></svg>', "vector graphics, SVG, are not read"),
        (b"<?xml version='1.0'?><html></html>", "no known picture format"),
    ],
)
def test_bytes_that_are_no_picture_say_what_they_are(data, why):
    with pytest.raises(UnreadablePictureError, match=f"{len(data)} bytes cannot be decoded .*{why}"):
        decoded(data)


def test_a_picture_of_a_phone_is_decoded_if_the_extra_is_there_and_names_it_otherwise(monkeypatch):
    from truepair.sources import decoding

    heif = b"\0\0\0\x18ftypheic" + b"\0" * 100  # the header alone
    monkeypatch.setattr(decoding, "_register_heif", lambda: None)
    with pytest.raises(UnreadablePictureError, match=r"HEIC is read with pillow-heif: pip install 'truepair\[heic\]'"):
        decoded(heif)
    with pytest.raises(UnreadablePictureError):
        thumbnail(heif, 32)


# Thumbnails


def test_a_thumbnail_is_a_small_webp_of_the_same_shape():
    small = Image.open(io.BytesIO(thumbnail(flat("green", size=(400, 200)), side=64)))
    assert small.format == "WEBP"
    assert small.size == (64, 32)


def test_a_thumbnail_never_enlarges_and_carries_no_exif():
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    small = Image.open(io.BytesIO(thumbnail(encoded(Image.new("RGB", (8, 6)), "JPEG", exif=exif), side=64)))
    assert small.size == (8, 6)
    assert not small.getexif()


def test_a_hint_of_the_side_makes_a_jpeg_smaller_but_not_below_the_hint():
    data = encoded(scene(1600, 1200), "JPEG")
    assert decoded(data).size == (1600, 1200)
    small = decoded(data, largest_side=200).size
    assert 200 <= min(small) < 1200
