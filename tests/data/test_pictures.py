import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from truepair.data.pictures import (
    ChosenPictures,
    PictureBytes,
    PictureColumn,
    PictureFiles,
    decoded,
    patch_features,
    patches,
    thumbnail,
)
from truepair.errors import DataError


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    written = io.BytesIO()
    picture.save(written, kind, **options)
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


def test_patch_features_have_one_row_a_picture_and_name_the_unreadable_ones():
    found = patch_features(PictureBytes([flat("white"), b"no picture", flat("black")]), grid=2, pixels=2)
    assert list(found.unreadable) == [1]
    assert "10 bytes cannot be decoded" in found.unreadable[1]
    values = found.features.take(torch.tensor([2, 0, 1])).values
    assert values.shape == (3, 4, 12)
    assert values[:, 0, 0].tolist() == [-0.5, 0.5, 0.0]


def test_patch_features_written_to_a_file_equal_those_in_memory(tmp_path):
    pictures = PictureBytes([flat((i, 2 * i, 250 - i), size=(9, 7)) for i in range(5)])
    in_memory = patch_features(pictures, grid=3, pixels=2).features
    on_disk = patch_features(pictures, grid=3, pixels=2, file=tmp_path / "patches.npy").features
    rows = torch.arange(5)
    assert torch.equal(in_memory.take(rows).values, on_disk.take(rows).values)
    assert np.load(tmp_path / "patches.npy").dtype == np.float16


def test_transparent_pixels_become_white():
    assert decoded(flat((255, 0, 0, 0), mode="RGBA")).getpixel((0, 0)) == (255, 255, 255)
    assert decoded(flat((255, 0, 0, 255), mode="RGBA")).getpixel((0, 0)) == (255, 0, 0)


def test_a_picture_turned_by_exif_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn by 90°
    data = encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)
    assert decoded(data).size == (10, 20)


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


def test_broken_bytes_are_a_data_error():
    whole = encoded(Image.effect_noise((64, 64), 50), "PNG")
    for broken in (b"", b"GIF89a", whole[: len(whole) // 2]):
        with pytest.raises(DataError, match="cannot be decoded"):
            thumbnail(broken, side=16)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
    data = flat("white", size=(40, 40))
    for limit in (1_000, 100):  # Pillow warns above the limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match="decompression bomb"):
            thumbnail(data, side=16)


def test_picture_files_are_read_when_asked_for(tmp_path):
    pictures = PictureFiles([tmp_path / "a.png", tmp_path / "gone.png"])
    (tmp_path / "a.png").write_bytes(b"abc")
    assert len(pictures) == 2
    assert pictures[0] == b"abc"
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        pictures[1]


def test_chosen_pictures_are_renumbered():
    chosen = ChosenPictures(PictureBytes([b"a", b"b", b"c"]), [2, 0])
    assert len(chosen) == 2
    assert [chosen[0], chosen[1]] == [b"c", b"a"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.struct({"bytes": pa.binary(), "path": pa.string()})])
def test_a_picture_column_reads_any_row_across_row_groups(tmp_path: Path, kind: pa.DataType):
    cells = [f"picture {row}".encode() for row in range(10)]
    values = cells if kind == pa.binary() else [{"bytes": cell, "path": None} for cell in cells]
    path = tmp_path / "pictures.parquet"
    pq.write_table(pa.table({"image": pa.array(values, type=kind)}), path, row_group_size=3)
    column = PictureColumn(path, "image")
    assert len(column) == 10
    assert [column[row] for row in range(10)] == cells
    assert [column[row] for row in (9, 0, 5)] == [cells[9], cells[0], cells[5]]


def test_an_empty_cell_of_a_picture_column_is_an_error_with_its_row(tmp_path):
    path = tmp_path / "pictures.parquet"
    pq.write_table(pa.table({"image": pa.array([b"a", None], type=pa.binary())}), path)
    with pytest.raises(DataError, match="row 2 has no picture in column 'image'"):
        PictureColumn(path, "image")[1]
