import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from truepair.data.karpathy import load_karpathy
from truepair.data.pairs import Pairs
from truepair.errors import DataError

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


def write(folder: Path, images: object) -> Path:
    path = folder / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def write_features(folder: Path, images: int = 5) -> Path:
    np.save(folder / "f.npy", np.arange(images, dtype=np.float32).repeat(6).reshape(images, 2, 3))
    return folder / "f.npy"


def first_values(pairs: Pairs) -> list[float]:
    return pairs.images.take(torch.arange(len(pairs.images))).values[:, 0, 0].tolist()


def test_splits_ids_captions_and_features_follow_the_file_and_restval_is_trained_on(tmp_path):
    splits = load_karpathy(write(tmp_path, entries()), image_features=write_features(tmp_path))
    assert splits.name == "dataset_coco"
    assert [first_values(pairs) for pairs in (splits.train, splits.dev, splits.test)] == [[1.0, 2.0, 4.0], [0.0], [3.0]]
    assert splits.train.image_ids == [
        "train2014/COCO_000000000001.jpg",
        "val2014/COCO_000000000002.jpg",
        "train2014/COCO_000000000004.jpg",
    ]
    assert splits.train.image_of_caption.tolist() == [0] * 6 + [1] * 4 + [2] * 7
    assert splits.train.caption_ids == [str(sentid) for sentid in (*range(105, 115), *range(120, 127))]
    assert splits.dev.captions == [f"Image 0, caption {place}." for place in range(5)]
    assert splits.train.pictures is None


def test_the_first_captions_of_each_image_can_be_kept_alone(tmp_path):
    path = write(tmp_path, entries())
    splits = load_karpathy(path, captions_per_image=5, image_features=write_features(tmp_path))
    assert splits.train.image_of_caption.tolist() == [0] * 5 + [1] * 4 + [2] * 5
    assert splits.train.caption_ids[:6] == ["105", "106", "107", "108", "109", "111"]
    with pytest.raises(DataError, match="captions_per_image is 0, but each image keeps at least 1 caption"):
        load_karpathy(path, captions_per_image=0, image_features=write_features(tmp_path))


def test_flickr_files_have_no_filepath(tmp_path):
    images = [{key: value for key, value in image.items() if key != "filepath"} for image in entries()]
    splits = load_karpathy(write(tmp_path, images), image_features=write_features(tmp_path))
    assert splits.test.image_ids == ["COCO_000000000003.jpg"]


@pytest.mark.parametrize("is_beside_the_file", [True, False])
def test_pictures_lie_under_filepath_and_filename(tmp_path, picture_file, is_beside_the_file):
    root = tmp_path if is_beside_the_file else tmp_path / "pictures"
    for image in entries():
        picture_file(root / image["filepath"] / image["filename"])
    splits = load_karpathy(write(tmp_path, entries()), image_root=None if is_beside_the_file else root)
    assert splits.train.images.take(torch.tensor([2])).values.shape == (1, 36, 192)
    assert splits.test.pictures[0] == (root / "val2014" / "COCO_000000000003.jpg").read_bytes()
    with_features = load_karpathy(write(tmp_path, entries()), image_root=root, image_features=write_features(tmp_path))
    assert with_features.test.pictures[0] == splits.test.pictures[0]
    assert first_values(with_features.test) == [3.0]


@pytest.fixture
def picture_file():
    from PIL import Image

    def write_picture(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(path.name), 0, 0)).save(path)

    return write_picture


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
        (changed(1, sentences=[]), r"image 1 \('train2014/COCO_000000000001.jpg'\) has no sentences"),
        (changed(4, filename="COCO_000000000001.jpg"), "two images are called 'train2014/COCO_000000000001.jpg'"),
        (changed(1, sentences=[{"raw": " \n", "sentid": 7}]), r"row 6 \('7'\) has an image but no caption"),
        (
            changed(1, sentences=[{"raw": "", "sentid": 7}]),
            r"row 6 \('7'\) has .* 'raw' is empty\); write one or leave",
        ),
        (changed(1, sentences=[{"raw": 3, "sentid": 7}]), "row 6 of column 'raw' holds 3, which is not text"),
        (changed(1, sentences=[{"raw": "a dog", "sentid": 100}]), "rows 1 and 6 have the same caption id '100'"),
        (changed(1, split="holdout"), "row 6 is in split 'holdout'"),
        (changed(0, split="train"), r"dataset_coco has no pairs in split dev \(there are: train, test\)"),
        ([], "dataset_coco.json lists no images"),
        ({"a.jpg": 1}, "dataset_coco.json is not a Karpathy split file: a JSON object with a list of 'images'"),
    ],
)
def test_a_faulty_file_is_refused_with_the_place(tmp_path, images, message):
    with pytest.raises(DataError, match=message):
        load_karpathy(write(tmp_path, images), image_features=write_features(tmp_path))


def test_what_is_not_json_is_refused(tmp_path):
    path = tmp_path / "dataset_coco.json"
    path.write_text('{"images": [')
    with pytest.raises(DataError, match=r"dataset_coco.json cannot be read as JSON .*; download it again"):
        load_karpathy(path)


def test_features_of_another_count_are_refused_with_both(tmp_path):
    with pytest.raises(DataError, match=r"f.npy has 4 rows but there are 5 distinct images in .*dataset_coco.json"):
        load_karpathy(write(tmp_path, entries()), image_features=write_features(tmp_path, 4))


def test_missing_pictures_name_the_folder_they_were_looked_for_in(tmp_path):
    with pytest.raises(DataError, match=r"all pictures are unreadable.*image_root is '.*'; is that where they are"):
        load_karpathy(write(tmp_path, entries()), skipped=[])
