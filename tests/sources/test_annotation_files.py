import json
from pathlib import Path
from typing import Any

import pytest
from made_sources import check, opened, picture, reasons, samples, skipped, write_files

from truepair.errors import DataError
from truepair.sources.opening import open_source

# COCO captions


def coco(images: int = 3, **changes: object) -> dict[str, Any]:
    """Two captions an image; ids are numbers, out of order, as COCO has them."""
    document = {
        "info": {"year": 2014},
        "licenses": [],
        "images": [{"id": 1000 - number, "file_name": f"{number}.jpg", "height": 9} for number in range(images)],
        "annotations": [
            {"id": 10 * number + place, "image_id": 1000 - number, "caption": f"caption {place} of {number}"}
            for place in range(2)
            for number in range(images)
        ],
    }
    return document | changes


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def pictures(folder: Path, *names: str) -> None:
    write_files(folder, {name: picture(number, "JPEG") for number, name in enumerate(names)})


@pytest.mark.parametrize("place", ["", "images", "../train2014", "../val2017"])
def test_coco_captions_are_read_with_their_pictures_in_the_usual_places(place, tmp_path):
    path = write(tmp_path / "annotations" / "captions_train.json", coco())
    pictures(tmp_path / "annotations" / place, "0.jpg", "1.jpg", "2.jpg")
    source = open_source(path)
    assert source.kind == "coco"
    found = check(source)
    assert [sample.image_id for sample in found] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [sample.caption_ids for sample in found] == [("0", "1"), ("10", "11"), ("20", "21")]
    assert found[2].captions == ("caption 0 of 2", "caption 1 of 2")
    assert [sample.picture for sample in found] == [picture(number, "JPEG") for number in range(3)]
    assert bool(source.notes) == bool(place)


def test_pictures_of_coco_lie_where_the_image_root_says(tmp_path):
    path = write(tmp_path / "captions.json", coco())
    pictures(tmp_path / "far" / "away", "0.jpg", "1.jpg", "2.jpg")
    source = opened(path, image_root=str(tmp_path / "far" / "away"))
    assert len(check(source)) == 3
    assert not source.notes


def test_what_coco_annotations_lack_is_a_fault_of_the_row(tmp_path):
    document = coco()
    document["annotations"][0]["image_id"] = 7
    document["annotations"][1]["caption"] = " "
    document["annotations"][2]["caption"] = 3
    path = write(tmp_path / "captions.json", document)
    pictures(tmp_path, "0.jpg", "1.jpg", "2.jpg")
    assert [sample.captions for sample in check(open_source(path))] == [(f"caption 1 of {n}",) for n in (1, 2, 0)]
    assert reasons(open_source(path)) == ["damaged row", "empty caption", "caption is not text"]
    assert skipped(open_source(path))[0].detail == "image_id 7 is not among the images"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (coco(images=1) | {"images": [{"id": 1}]}, r"image 0 \(counted from 0\) needs an id and a file_name"),
        (
            coco() | {"annotations": [{"id": 1, "bbox": [0, 0, 1, 1]}]},
            "annotation 0 .* boxes and keypoints are not capt",
        ),
        (coco() | {"annotations": ["a dog"]}, "annotation 0 .* needs image_id and caption"),
        (
            coco() | {"annotations": [{"id": 1, "image_id": [7], "caption": "a dog"}]},
            r"annotation 0 .* has \[7\] as an id, which is a number or a text",
        ),
    ],
)
def test_json_that_is_nearly_coco_is_refused_by_the_place(document, message, tmp_path):
    with pytest.raises(DataError, match=message):
        open_source(write(tmp_path / "captions.json", document))


def test_coco_without_annotations_has_nothing_to_read(tmp_path):
    source = open_source(write(tmp_path / "captions.json", coco() | {"annotations": []}))
    assert (samples(source), reasons(source)) == ([], [])


# Karpathy's splits

SPLITS = ("val", "train", "restval", "test", "train")
CAPTIONS_OF = (5, 6, 4, 5, 7)


def entries() -> list[dict[str, Any]]:
    """Five images as dataset_coco.json has them, with 4 to 7 captions each."""
    found, sentid = [], 100
    for number, (split, captions) in enumerate(zip(SPLITS, CAPTIONS_OF, strict=True)):
        sentences = []
        for place in range(captions):
            raw = f"Image {number}, caption {place}."
            tokens = raw.lower().replace(",", "").rstrip(".").split()
            sentences.append({"tokens": tokens, "raw": raw, "imgid": number, "sentid": sentid})
            sentid += 1
        found.append(
            {
                "filepath": "val2014" if split != "train" else "train2014",
                "sentids": [sentence["sentid"] for sentence in sentences],
                "filename": f"COCO_{number:012d}.jpg",
                "imgid": number,
                "split": split,
                "sentences": sentences,
                "cocoid": 1000 + number,
            }
        )
    return found


def write_karpathy(folder: Path, images: object) -> Path:
    return write(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})


def test_splits_ids_and_captions_follow_the_file(tmp_path):
    pictures(tmp_path, *(f"{image['filepath']}/{image['filename']}" for image in entries()))
    source = open_source(write_karpathy(tmp_path, entries()))
    assert source.kind == "karpathy"
    found = check(source)
    assert [sample.image_id for sample in found] == [f"{image['filepath']}/{image['filename']}" for image in entries()]
    assert [sample.split for sample in found] == list(SPLITS)
    assert found[0].captions == tuple(f"Image 0, caption {place}." for place in range(5))
    assert [name for sample in found for name in sample.caption_ids] == [str(number) for number in range(100, 127)]
    assert found[3].picture == picture(3, "JPEG")


def test_flickr_files_have_no_filepath_and_pictures_in_a_folder_beside(tmp_path):
    images = [{key: value for key, value in image.items() if key != "filepath"} for image in entries()]
    pictures(tmp_path / "flickr30k-images", *(image["filename"] for image in images))
    source = open_source(write_karpathy(tmp_path, images))
    assert [sample.image_id for sample in check(source)] == [image["filename"] for image in images]
    assert source.notes == [f"pictures are looked for in {tmp_path / 'flickr30k-images'} (--image-root for another)"]


def changed(image: int, **values: object) -> list[dict[str, Any]]:
    images = entries()
    images[image] |= values
    return images


def without(image: int, key: str) -> list[dict[str, Any]]:
    images = entries()
    del images[image][key]
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (without(2, "filename"), r"image 2 \(counted from 0\) is not as expected \(KeyError\('filename'\)\); it needs"),
        (without(1, "split"), r"image 1 \(counted from 0\) is not as expected \(KeyError\('split'\)"),
        (changed(1, sentences=[{"tokens": ["a"], "sentid": 7}]), r"image 1 .* \(KeyError\('raw'\)"),
        (changed(1, sentences=["a dog"]), "image 1 .*TypeError"),
        (["a.jpg"], "image 0 .*AttributeError"),
        (changed(4, filename="COCO_000000000001.jpg"), "two images are called 'train2014/COCO_000000000001.jpg'"),
        (changed(1, sentences=[{"raw": "a dog", "sentid": 100}]), "two captions have the id '100'"),
        ([], "dataset_coco.json lists no images"),
        ({"a.jpg": 1}, "dataset_coco.json is an object with 'images', 'dataset'; a JSON file is read as"),
    ],
)
def test_a_faulty_split_file_is_refused_with_the_place(images, message, tmp_path):
    with pytest.raises(DataError, match=message):
        open_source(write_karpathy(tmp_path, images))


def test_sentences_that_are_blank_or_no_text_are_left_out_and_told(tmp_path):
    sentences = [{"raw": raw, "sentid": number} for number, raw in enumerate([" \n", "", 3, "a dog"])]
    images = changed(1, sentences=sentences)
    pictures(tmp_path, *(f"{image['filepath']}/{image['filename']}" for image in images))
    source = open_source(write_karpathy(tmp_path, images))
    assert check(source)[1].captions == ("a dog",)
    assert [(skip.where, skip.reason) for skip in skipped(source)] == [
        (f"{source.path}: 0", "empty caption"),
        (f"{source.path}: 1", "empty caption"),
        (f"{source.path}: 2", "caption is not text"),
    ]


def test_what_is_not_json_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"dataset_coco.json is not JSON \("):
        open_source(write(tmp_path / "dataset_coco.json", '{"images": ['))


# Token files

TOKENS = "".join(f"{image}.jpg#{number}\tA dog , {image} {number} .\n" for image in (2, 1) for number in range(3))


@pytest.mark.parametrize("name", ["Flickr8k.token.txt", "results_20130124.token"])
@pytest.mark.parametrize("place", ["", "Images", "Flicker8k_Dataset", "flickr30k-images"])
def test_a_token_file_is_read_with_its_pictures_in_the_usual_places(name, place, tmp_path):
    path = write(tmp_path / name, TOKENS)
    pictures(tmp_path / place, "1.jpg", "2.jpg")
    source = open_source(path)
    assert source.kind == "tokens"
    found = check(source)
    assert [(sample.image_id, sample.caption_ids) for sample in found] == [
        ("2.jpg", ("2.jpg#0", "2.jpg#1", "2.jpg#2")),
        ("1.jpg", ("1.jpg#0", "1.jpg#1", "1.jpg#2")),
    ]
    assert found[1].captions == tuple(f"A dog , 1 {number} ." for number in range(3))


def test_a_folder_with_a_token_file_is_that_token_file(tmp_path):
    write(tmp_path / "Flickr8k.token.txt", TOKENS)
    pictures(tmp_path / "Flicker8k_Dataset", "1.jpg", "2.jpg")
    assert [sample.image_id for sample in check(open_source(tmp_path))] == ["2.jpg", "1.jpg"]


def test_the_copy_of_flickr8k_on_kaggle_is_a_table_called_txt(tmp_path):
    write(tmp_path / "captions.txt", 'image,caption\n1.jpg,"A dog , running ."\n1.jpg,A dog .\n2.jpg,A man .\n')
    pictures(tmp_path / "Images", "1.jpg", "2.jpg")
    for path in (tmp_path, tmp_path / "captions.txt"):
        source = open_source(path)
        assert source.kind == "table"
        assert [sample.captions for sample in check(source)] == [("A dog , running .", "A dog ."), ("A man .",)]


def test_a_copy_number_is_no_part_of_an_image_but_of_its_captions(tmp_path):
    pictures(tmp_path, "1.jpg")
    (sample,) = check(open_source(write(tmp_path / "t.token", "1.jpg.1#0\ta\n1.jpg.1#1\tb\n")))
    assert (sample.image_id, sample.caption_ids) == ("1.jpg", ("1.jpg.1#0", "1.jpg.1#1"))


def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    pictures(tmp_path, "1.jpg", "2.jpg")
    plain = samples(open_source(write(tmp_path / "t.token", TOKENS)))
    (tmp_path / "t.token").write_bytes(b"\xef\xbb\xbf" + TOKENS.replace("\n", "\r\n").encode())
    assert check(open_source(tmp_path / "t.token")) == plain


@pytest.mark.parametrize("line", ["1.jpg#0 a dog", "1.jpg\ta dog", "#0\ta dog"])
def test_a_line_of_another_form_is_a_fault_of_its_own(line, tmp_path):
    pictures(tmp_path, "1.jpg", "2.jpg")
    source = open_source(write(tmp_path / "t.token", f"{TOKENS}{line}\n\n"))
    assert len(check(source)) == 2
    (fault,) = skipped(source)
    assert fault.reason == "damaged row"
    assert fault.detail == f"{line!r}, but 'name.jpg#0', a tab, a caption is expected"


def test_captions_that_are_empty_are_left_out_and_ids_are_unique(tmp_path):
    pictures(tmp_path, "1.jpg", "2.jpg")
    source = open_source(write(tmp_path / "t.token", TOKENS + "1.jpg#3\t\n1.jpg#4\t  \n"))
    assert len(check(source)) == 2
    assert reasons(source) == ["empty caption", "empty caption"]
    with pytest.raises(DataError, match=r"two captions have the id '1.jpg#0'"):
        open_source(write(tmp_path / "t.token", TOKENS + "1.jpg#0\tagain\n"))


def test_text_that_is_neither_tokens_nor_a_table_says_what_it_should_be(tmp_path):
    for text in ("", "a dog\na cat\n", "\n"):
        with pytest.raises(DataError, match=r"neither a table with a header nor a token file .*: rename it to .csv"):
            open_source(write(tmp_path / "notes.txt", text))
