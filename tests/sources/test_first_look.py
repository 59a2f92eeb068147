import json

import pytest
from made_sources import opened, picture, write_files, write_rows, write_tar

from truepair.errors import DataError
from truepair.sources.decoding import MOST_PIXELS
from truepair.sources.first_look import look_first
from truepair.sources.opening import open_source

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def table(folder, *names, name="t.csv"):
    return write_rows(folder / name, [{"image": image, "caption": "c"} for image in names])


def told(source, most_pixels=MOST_PIXELS):
    with pytest.raises(DataError) as refused:
        look_first(source, most_pixels)
    assert len(str(refused.value)) < 2_000
    return str(refused.value)


def test_a_source_with_a_picture_among_its_first_rows_is_let_through(tmp_path):
    write_files(tmp_path, {"0.png": picture(0)})
    look_first(opened(table(tmp_path, *["gone.png"] * 0, *(f"gone {n}.png" for n in range(19)), "0.png")), MOST_PIXELS)
    assert "all of its first 20 rows" in told(opened(table(tmp_path, *(f"gone {n}.png" for n in range(20)), "0.png")))


def test_a_source_without_any_rows_to_read_is_no_matter_of_the_first_look(tmp_path):
    look_first(open_source(write_tar(tmp_path / "0.tar", {})), MOST_PIXELS)


def test_pointers_of_git_lfs_are_told_with_the_command(tmp_path):
    write_files(tmp_path, {f"{number}.jpg": POINTER for number in range(3)})
    message = told(opened(table(tmp_path, "0.jpg", "1.jpg", "2.jpg")))
    assert "no picture can be read of all of its first 3 rows: Git LFS pointer, not a picture" in message
    assert "fetch the pictures with 'git lfs pull' in their folder" in message


def test_pointers_of_git_lfs_in_tar_files_and_in_folders_are_told_too(tmp_path):
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": POINTER.encode(), "a.txt": b"c"})
    folder = write_files(tmp_path / "photos", {"a.jpg": POINTER, "a.txt": "c"})
    for source in (open_source(tar), open_source(folder)):
        assert "no picture can be read of its only row: Git LFS pointer" in told(source)


@pytest.mark.parametrize("address", ["https://example.invalid/0.jpg", "HTTP://example.invalid/a", "s3://bucket/0.jpg"])
def test_addresses_are_told_with_what_to_do(address, tmp_path):
    path = write_rows(tmp_path / "t.csv", [{"url": address, "caption": "c"}] * 2)
    message = told(opened(path))
    assert "picture is an address, which is not fetched" in message
    assert "img2dataset" in message
    assert "--image-col" in message
    assert told(opened(path, image_col="url")) == message


@pytest.mark.parametrize("place", ["pics", "deep/er/pics", "..", "../.."])
def test_the_folder_that_paths_start_from_is_proposed(place, tmp_path):
    folder = tmp_path / "a" / "b"
    write_files(folder / place, {"x/0.png": picture(0)})
    source = opened(table(folder, "x/0.png"))
    message = told(source)
    right = (folder / place).resolve()
    assert f"it is there from another folder on: --image-root {right}" in message
    look_first(opened(source.path, image_root=str(right)), MOST_PIXELS)


def test_backslashes_are_no_hindrance_to_the_proposal(tmp_path):
    write_files(tmp_path / "pics", {"x/0.png": picture(0)})
    assert f"--image-root {tmp_path / 'pics'}" in told(opened(table(tmp_path, "x\\0.png")))


def test_a_picture_that_is_nowhere_is_told_with_where_it_was_looked_for(tmp_path):
    message = told(opened(table(tmp_path, "gone.png", "lost.png")))
    assert f"of all of its first 2 rows: missing picture ({tmp_path / 'gone.png'})" in message
    assert f"relative paths start at {tmp_path}: name the right folder with --image-root" in message


def test_a_cell_that_is_no_path_at_all_is_not_shown_whole(tmp_path):
    for cell in ("a" * 9_999, "aGVsbG8/" * 9_999, "https://example.invalid/" + "x" * 9_999):
        told(opened(table(tmp_path, cell)))


def test_paths_out_of_the_image_root_are_told_with_both_ways_out(tmp_path):
    """lists/p.csv names ../img/0.jpg."""
    write_files(tmp_path / "img", {"0.png": picture(0), "1.png": picture(1)})
    path = table(tmp_path / "lists", "../img/0.png", "../img/1.png")
    message = told(opened(path))
    assert "outside the image root" in message
    assert "--image-root" in message
    assert "--allow-outside" in message
    for options in ({"image_root": str(tmp_path)}, {"allow_outside": True}):
        look_first(opened(path, **options), MOST_PIXELS)


def test_file_names_of_a_picture_folder_that_start_elsewhere_are_told_as_they_should_be(tmp_path):
    write_files(tmp_path / "Images" / "train", {"0.png": picture(0)})
    rows = [{"file_name": "Images/train/0.png", "text": "c"}]
    write_rows(tmp_path / "Images" / "train" / "metadata.jsonl", rows)
    message = told(open_source(tmp_path / "Images"))
    assert "file_name starts at the folder that the file lies in: write '0.png' for 'Images/train/0.png'" in message


def test_pictures_without_captions_are_told_where_captions_are_read_from(tmp_path):
    write_files(tmp_path, {"0.png": picture(0), "1.png": picture(1)})
    assert "captions are read from .txt, .caption or .json files of the same name" in told(open_source(tmp_path))


def test_huge_pictures_are_told_with_the_option(tmp_path):
    write_files(tmp_path, {"0.png": picture(0)})
    message = told(opened(table(tmp_path, "0.png")), most_pixels=10)
    assert "huge picture" in message
    assert "raise --largest-pixels" in message


def test_empty_cells_are_told_with_the_option(tmp_path):
    write_files(tmp_path, {"0.png": picture(0)})
    rows = [{"image": "0.png", "caption": ""}, {"image": "0.png", "caption": " "}]
    assert "name the column of captions with --caption-col" in told(opened(write_rows(tmp_path / "t.csv", rows)))
    rows = [{"image": None, "caption": "c"}]
    assert "name the column of pictures with --image-col" in told(opened(write_rows(tmp_path / "t.jsonl", rows)))


def test_empty_captions_of_sources_without_columns_are_told_where_captions_are_read_from(tmp_path):
    folder = write_files(tmp_path / "folder", {"a.jpg": picture(0, "JPEG"), "a.json": '{"width": 96}'})
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": picture(0, "JPEG"), "a.txt": b" ", "a.json": b'{"caption": ""}'})
    tokens = write_files(tmp_path, {"t.token": "a.jpg#0\t \n"}) / "t.token"
    said = {folder: "captions are the lines of the .txt", tar: "captions are what the .txt", tokens: "is it the right"}
    for path, hint in said.items():
        message = told(open_source(path))
        assert "empty caption" in message
        assert hint in message
        assert "--caption-col" not in message


def test_blanks_behind_a_path_are_no_hindrance_to_the_proposal(tmp_path):
    write_files(tmp_path / "pics", {"x/0.png": picture(0)})
    assert f"--image-root {tmp_path / 'pics'}" in told(opened(table(tmp_path, " x/0.png ")))


def test_vector_graphics_and_broken_bytes_are_told_as_what_they_are(tmp_path):
    write_files(tmp_path, {"a.svg": "<svg></svg>", "b.png": b"broken"})
    assert "vector graphics, SVG, are not read" in told(opened(table(tmp_path, "a.svg")))
    assert "unreadable picture" in told(opened(table(tmp_path, "b.png")))


def test_caption_files_name_the_folder_that_was_looked_in(tmp_path):
    coco = {"images": [{"id": 7, "file_name": "0.png"}], "annotations": [{"id": 1, "image_id": 7, "caption": "c"}]}
    write_files(tmp_path, {"c.json": json.dumps(coco), "elsewhere/0.png": picture(0)})
    assert f"--image-root {tmp_path / 'elsewhere'}" in told(open_source(tmp_path / "c.json"))
