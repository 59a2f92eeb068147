from dataclasses import replace

import numpy as np
import torch
from picture_bytes import PictureBytes

from truepair.data.features import Features
from truepair.data.noise import inject_noise
from truepair.data.pairs import Pairs, Splits, Subset
from truepair.data.pictures import ChosenPictures
from truepair.data.splitting import split_by_name
from truepair.data.text import tokenised
from truepair.data.whole import every_pair, in_order_of_names


def _splits(world: Pairs) -> Splits:
    names = [("train", "dev", "test")[image % 3] for image in world.image_of_caption.tolist()]
    return split_by_name(replace(world, pictures=PictureBytes([bytes([i]) for i in range(20)])), names, "animals")


def test_joined_splits_hold_every_pair_once_with_its_image_picture_and_words(world):
    whole = every_pair(_splits(world))
    assert len(whole) == 40
    assert len(whole.images) == 20
    for pair, name in enumerate(whole.caption_ids):
        original = world.caption_ids.index(name)
        image, before = int(whole.image_of_caption[pair]), int(world.image_of_caption[original])
        assert whole.captions[pair] == world.captions[original]
        assert whole.image_ids[image] == world.image_ids[before]
        assert whole.pictures[image] == bytes([before])
        taken, expected = whole.images.take(torch.tensor([image])), world.images.take(torch.tensor([before]))
        assert torch.equal(taken.values, expected.values)
        words, same = (p.caption_inputs.take(torch.tensor([i])) for p, i in ((whole, pair), (world, original)))
        assert torch.equal(words.values, same.values)


def test_rows_of_several_splits_come_in_the_order_asked_for(world):
    whole = every_pair(_splits(world))
    rows = torch.tensor([39, 0, 20, 5, 39])
    together = whole.caption_inputs.take(rows)
    for place, row in enumerate(rows.tolist()):
        alone = whole.caption_inputs.take(torch.tensor([row]))
        length = int(alone.lengths[0])
        assert int(together.lengths[place]) == length
        assert torch.equal(together.values[place, :length], alone.values[0, :length])


def test_ids_that_two_splits_share_get_the_splits_name(world):
    whole = every_pair(Splits(world, world, world, "thrice"))
    assert len(set(whole.caption_ids)) == 120
    assert whole.caption_ids[40] == "dev/caption 0"
    assert int(whole.image_of_caption[40]) == 20


def test_truth_is_known_only_if_it_is_in_every_split(world):
    clean = replace(world, true_image_of_caption=None)
    assert every_pair(Splits(inject_noise(clean, 0.2, 0), clean, clean, "x")).is_clean is None


def test_vectors_beside_words_are_those_of_the_caption(world, vocabulary):
    numbered = replace(world, caption_inputs=Features(np.arange(40, dtype=np.float32)[:, None]))
    whole = every_pair(_splits(tokenised(numbered, vocabulary, beside_features=True)))
    taken = whole.caption_inputs.take(torch.arange(39, -1, -1))
    names = [whole.caption_ids[row] for row in range(39, -1, -1)]
    assert [f"caption {int(vector)}" for vector in taken.vectors[:, 0]] == names


def test_pairs_in_the_order_of_names_do_not_depend_on_the_order_that_they_came_in(world):
    noisy = inject_noise(replace(world, pictures=PictureBytes([bytes([i]) for i in range(20)])), 0.2, 0)
    images, captions = torch.randperm(20), torch.randperm(40)
    mixed = noisy.select(captions)
    other = replace(
        mixed,
        images=Subset(mixed.images, images),
        image_ids=[mixed.image_ids[image] for image in images.tolist()],
        image_of_caption=images.argsort()[mixed.image_of_caption],
        true_image_of_caption=images.argsort()[mixed.true_image_of_caption],
        pictures=ChosenPictures(mixed.pictures, images.tolist()),
    )
    (one, place), (two, placed) = in_order_of_names(noisy), in_order_of_names(other)
    assert one.image_ids == two.image_ids == sorted(one.image_ids)
    assert one.captions == two.captions
    assert one.caption_ids == two.caption_ids
    assert [noisy.caption_ids[pair] for pair in place.tolist()] == one.caption_ids
    assert [other.caption_ids[pair] for pair in placed.tolist()] == one.caption_ids
    for name in ("image_of_caption", "true_image_of_caption", "is_clean"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    rows = torch.arange(20)
    assert torch.equal(one.images.take(rows).values, two.images.take(rows).values)
    assert [one.pictures[image] for image in range(20)] == [two.pictures[image] for image in range(20)]
    assert torch.equal(one.caption_inputs.take(rows).values, two.caption_inputs.take(rows).values)
