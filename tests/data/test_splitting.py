import numpy as np
import pytest
import torch
from picture_bytes import PictureBytes

from truepair.data.features import Features
from truepair.data.pairs import Pairs
from truepair.data.splitting import pairs_and_their_images, random_split, split_by_name
from truepair.errors import ConfigError


def five_images(**changes: object) -> Pairs:
    fields = {
        "images": Features(np.arange(5, dtype=np.float32)[:, None]),
        "captions": ["of 4", "of 1", "of 4 again", "of 0"],
        "image_of_caption": torch.tensor([4, 1, 4, 0]),
        "image_ids": ["zero", "one", "two", "three", "four"],
        "caption_ids": list("abcd"),
        "pictures": PictureBytes([b"0", b"1", b"2", b"3", b"4"]),
    }
    return Pairs(**{**fields, **changes})


def test_chosen_pairs_bring_their_images_and_no_others():
    chosen = pairs_and_their_images(five_images(), [2, 3])
    assert chosen.captions == ["of 4 again", "of 0"]
    assert chosen.image_ids == ["zero", "four"]
    assert chosen.image_of_caption.tolist() == [1, 0]
    assert chosen.images.take(torch.arange(2)).values.tolist() == [[0.0], [4.0]]
    assert chosen.pictures is not None
    assert [chosen.pictures[0], chosen.pictures[1]] == [b"0", b"4"]


def test_chosen_pairs_keep_their_truth_even_if_its_image_is_paired_with_no_caption():
    noisy = five_images(true_image_of_caption=torch.tensor([4, 1, 3, 0]))
    chosen = pairs_and_their_images(noisy, [2, 3])
    assert chosen.true_image_of_caption is not None
    assert [chosen.image_ids[i] for i in chosen.true_image_of_caption.tolist()] == ["three", "zero"]
    assert [chosen.image_ids[i] for i in chosen.image_of_caption.tolist()] == ["four", "zero"]
    assert noisy.is_clean is not None
    assert chosen.is_clean is not None
    assert chosen.is_clean.tolist() == noisy.is_clean[2:].tolist()


def test_every_pair_lands_in_its_split():
    splits = split_by_name(five_images(), ["test", "dev", "test", "train"], "five")
    assert splits.train.captions == ["of 0"]
    assert splits.dev.captions == ["of 1"]
    assert splits.test.captions == ["of 4", "of 4 again"]
    assert splits.test.image_of_caption.tolist() == [0, 0]


def test_a_random_split_has_exactly_the_rounded_shares():
    split = random_split(103, development_share=0.1, test_share=0.25, seed=1)
    assert {name: split.count(name) for name in ("train", "dev", "test")} == {"train": 67, "dev": 10, "test": 26}
    with pytest.raises(ConfigError, match="2 images are too few"):
        random_split(2, development_share=0.3, test_share=0.3, seed=1)
