from dataclasses import replace

import pytest
import torch

from truepair.data.features import Features
from truepair.data.pairs import Inputs, Subset
from truepair.errors import DataError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_of_caption": torch.arange(39), "true_image_of_caption": None},
            "image_of_caption has 39 entries but there are 40 captions",
        ),
        ({"caption_ids": ["a"]}, "caption_ids has 1 entries but there are 40 captions"),
        ({"image_ids": ["a"]}, "image_ids has 1 entries but there are 20 images"),
        (
            {"image_of_caption": torch.full((40,), 20)},
            "out of range at 40 of 40 captions.*caption 0 points to image 20",
        ),
        ({"true_image_of_caption": torch.arange(40) // 2 - 1}, "out of range at 2 of 40 .*points to image -1"),
    ],
)
def test_what_does_not_line_up_is_refused(world, change, message):
    with pytest.raises(DataError, match=message):
        replace(world, **change)


def test_captions_and_their_inputs_are_counted(world, vector_world):
    some = world.select(torch.arange(3))
    with pytest.raises(DataError, match="caption_inputs has 40 entries but there are 3 captions"):
        replace(some, caption_inputs=vector_world.caption_inputs)


def test_no_pairs_at_all_are_refused(world):
    with pytest.raises(DataError, match="no pairs"):
        world.select(torch.arange(0))


def test_selected_pairs_keep_their_image_their_truth_and_their_inputs(world):
    noisy = replace(world, image_of_caption=world.image_of_caption.flip(0))
    chosen = torch.tensor([7, 3, 30])
    some = noisy.select(chosen)
    assert len(some) == 3
    assert some.captions == [world.captions[i] for i in (7, 3, 30)]
    assert some.caption_ids == ["caption 7", "caption 3", "caption 30"]
    assert some.image_of_caption.tolist() == [16, 18, 4]
    assert some.true_image_of_caption.tolist() == [3, 1, 15]
    assert some.images is world.images
    rows = torch.tensor([2, 0])
    expected = world.caption_inputs.take(chosen[rows])
    assert torch.equal(some.caption_inputs.take(rows).values, expected.values)
    assert torch.equal(some.select(rows).caption_inputs.take(torch.tensor([0, 1])).values, expected.values)


def test_pairs_without_truth_or_inputs_can_be_selected_from_too(world):
    bare = replace(world, true_image_of_caption=None, caption_inputs=None).select(torch.tensor([1]))
    assert bare.caption_inputs is None
    assert bare.true_image_of_caption is None
    assert bare.is_clean is None
    assert bare.realised_noise_rate is None


def test_a_pair_is_clean_where_caption_and_image_belong_together(world):
    image_of_caption = world.image_of_caption.clone()
    image_of_caption[:10] = 19 - image_of_caption[:10]
    noisy = replace(world, image_of_caption=image_of_caption)
    assert noisy.is_clean.tolist() == [False] * 10 + [True] * 30
    assert noisy.realised_noise_rate == 0.25
    assert world.realised_noise_rate == 0


def test_subset_renumbers_rows():
    features = Features(torch.arange(8.0).reshape(4, 2).numpy())
    subset = Subset(features, torch.tensor([3, 1]))
    assert isinstance(subset, Inputs)
    assert len(subset) == 2
    assert subset.take(torch.tensor([1, 0, 1])).values.tolist() == [[2, 3], [6, 7], [2, 3]]
