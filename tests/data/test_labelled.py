from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch

from truepair.data.labelled import LabelledPairs
from truepair.data.noise import inject_noise
from truepair.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture
def noisy(world):
    return inject_noise(world, 0.5, 0)


@pytest.fixture
def labelled(dev_world, noisy):
    return LabelledPairs(dev_world.select(torch.arange(10)), noisy, 0, CPU)


def test_there_are_as_many_mismatched_pairs_as_trusted_ones_and_none_of_them_is_true(labelled, noisy):
    for key in range(200):  # by chance, one image in 20 would be the right one
        draw = labelled.draw(key)
        assert len(draw.matched) == len(draw.mismatched) == 10
        assert (draw.mismatched.image_of_caption != draw.mismatched.true_image_of_caption).all()
        paired = dict(zip(noisy.caption_ids, noisy.image_of_caption.tolist(), strict=True))
        images = draw.mismatched.image_of_caption.tolist()
        assert all(paired[caption] != image for caption, image in zip(draw.mismatched.caption_ids, images, strict=True))
        assert len(set(draw.mismatched.caption_ids)) == 10


def test_where_the_truth_is_not_known_what_the_corpus_pairs_is_ruled_out(dev_world, noisy):
    unknown = replace(noisy, true_image_of_caption=None)
    labelled = LabelledPairs(dev_world.select(torch.arange(10)), unknown, 0, CPU)
    paired = dict(zip(noisy.caption_ids, noisy.image_of_caption.tolist(), strict=True))
    for key in range(50):
        mismatched = labelled.draw(key).mismatched
        assert all(paired[c] != i for c, i in zip(mismatched.caption_ids, mismatched.image_of_caption, strict=True))


def test_the_same_key_draws_the_same_and_another_one_something_else(labelled):
    one, same, other = labelled.draw(3), labelled.draw(3), labelled.draw(4)
    assert torch.equal(one.mismatched.image_of_caption, same.mismatched.image_of_caption)
    assert one.mismatched.caption_ids == same.mismatched.caption_ids
    assert one.mismatched.caption_ids != other.mismatched.caption_ids


def test_batches_hold_every_pair_once_a_round_with_its_label(labelled, noisy):
    draw = labelled.draw(0)
    batches = list(islice(draw.endless(8), 3))
    assert [len(batch) for batch, _ in batches] == [8, 8, 4]
    assert torch.cat([labels for _, labels in batches]).sum() == 10
    assert all((batch.pair == -1).all() for batch, _ in batches)
    rows = []
    for batch, labels in batches:
        for k in range(len(batch)):
            pairs = draw.matched if labels[k] else draw.mismatched
            tokens = batch.captions.values[k, : int(batch.captions.lengths[k])]
            image = batch.images.values[k]
            found = [
                (float(labels[k]), row)
                for row in range(10)
                if torch.equal(pairs.caption_inputs.take(torch.tensor([row])).values[0], tokens)
                and torch.equal(pairs.images.take(pairs.image_of_caption[row : row + 1]).values[0], image)
            ]
            assert found
            rows.append(found[0])
    assert len(set(rows)) == 20


def test_batches_go_on_for_ever_in_a_new_order(labelled):
    def images():
        return [batch.images.values for batch, _ in islice(labelled.draw(0).endless(20), 4)]

    batches = images()
    assert [len(batch) for batch in batches] == [20] * 4
    assert all(not torch.equal(one, other) for one, other in pairwise(batches))
    assert all(torch.equal(one, again) for one, again in zip(batches, images(), strict=True))


def test_a_pair_left_alone_sits_the_round_out(labelled):
    assert [len(labels) for _, labels in islice(labelled.draw(0).endless(19), 3)] == [19, 19, 19]


def test_a_batch_may_be_larger_than_all_labelled_pairs(labelled):
    assert [len(labels) for _, labels in islice(labelled.draw(0).endless(64), 2)] == [20, 20]


def test_vectors_work_as_regions_and_words_do(vector_world):
    labelled = LabelledPairs(vector_world.select(torch.arange(4)), vector_world, 0, CPU)
    batch, labels = next(labelled.draw(0).endless(8))
    assert batch.images.lengths is None
    assert batch.images.values.shape[0] == batch.captions.values.shape[0] == len(labels) == 8


@pytest.mark.parametrize("count", [1, 40])
def test_too_few_or_too_many_trusted_pairs_are_an_error(world, count):
    trusted = world.select(torch.arange(count))
    with pytest.raises(DataError, match="as many captions of the training split"):
        LabelledPairs(trusted, world.select(torch.arange(20)), 0, CPU)
