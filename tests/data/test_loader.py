from dataclasses import fields, replace

import pytest
import torch

from truepair.data.batch import Batch
from truepair.data.loader import Loaders
from truepair.errors import ConfigError, DataError

CPU = torch.device("cpu")


def ids(batches):
    return [batch.pair.tolist() for batch in batches]


def flat(batches):
    return [pair for batch in ids(batches) for pair in batch]


def same(a: Batch, b: Batch):
    return (
        torch.equal(a.pair, b.pair)
        and torch.equal(a.images.values, b.images.values)
        and torch.equal(a.captions.values, b.captions.values)
        and torch.equal(a.captions.lengths, b.captions.lengths)
    )


def test_the_order_depends_on_seed_and_epoch_only(world, loaders):
    torch.manual_seed(1)
    first = ids(loaders.train(0))
    torch.manual_seed(2)
    ids(loaders.train(5))
    assert ids(loaders.train(0)) == first
    assert ids(Loaders(world, 8, 0, CPU).train(0)) == first
    assert ids(loaders.train(1)) != first
    assert ids(Loaders(world, 8, 1, CPU).train(0)) != first


def test_an_epoch_has_every_pair_once(loaders):
    batches = list(loaders.train(3))
    assert sorted(flat(batches)) == list(range(40))
    assert len(batches) == loaders.batches_per_epoch() == 5
    assert flat(batches) != sorted(flat(batches))


def test_a_batch_holds_each_caption_with_the_image_it_is_paired_with(world):
    noisy = replace(world, image_of_caption=world.image_of_caption.flip(0))
    for batch in Loaders(noisy, 8, 0, CPU).train(0):
        expected = noisy.images.take(noisy.image_of_caption[batch.pair])
        assert torch.equal(batch.images.values, expected.values)
        assert torch.equal(batch.captions.lengths, noisy.caption_inputs.take(batch.pair).lengths)


def test_a_batch_holds_no_ground_truth(loaders):
    batch = next(iter(loaders.train(0)))
    assert [field.name for field in fields(batch)] == [
        *("pair", "images", "captions", "counts", "encode_at_once", "number", "lost")
    ]
    assert {field.name for side in (batch.images, batch.captions) for field in fields(side)} == {
        "values",
        "lengths",
        "vectors",
        "places",
    }


def test_ground_truth_changes_no_batch(world, loaders):
    blind = Loaders(replace(world, true_image_of_caption=None), 8, 0, CPU)
    assert all(same(a, b) for a, b in zip(blind.train(0), loaders.train(0), strict=True))


def test_a_smaller_last_batch_is_kept(world):
    loaders = Loaders(world, 12, 0, CPU)
    assert [len(batch) for batch in loaders.train(0)] == [12, 12, 12, 4]
    assert loaders.batches_per_epoch() == 4


def test_a_single_pair_left_over_sits_out_another_one_each_epoch(world):
    loaders = Loaders(world, 13, 0, CPU)
    assert loaders.batches_per_epoch() == 3
    missing = []
    for epoch in range(6):
        batches = ids(loaders.train(epoch))
        assert [len(batch) for batch in batches] == [13, 13, 13]
        missing += set(range(40)) - {pair for batch in batches for pair in batch}
    assert len(missing) == 6
    assert len(set(missing)) > 1


def test_chosen_pairs_only(loaders):
    chosen = torch.tensor([3, 5, 8, 13, 21, 34, 39])
    assert sorted(flat(loaders.train(0, chosen))) == chosen.tolist()
    assert flat(loaders.train(0, chosen)) != flat(loaders.train(1, chosen))
    assert loaders.batches_per_epoch(len(chosen)) == 1
    assert flat(loaders.train(0, torch.tensor([7]))) == []
    assert loaders.batches_per_epoch(1) == 0
    assert loaders.batches_per_epoch(0) == 0


@pytest.mark.parametrize("pairs", range(2, 30))
def test_batches_are_counted_right(world, pairs):
    loaders = Loaders(world.select(torch.arange(pairs)), 5, 0, CPU)
    assert len(list(loaders.train(0))) == loaders.batches_per_epoch()


def test_reading_draws_nothing_from_the_global_generator(loaders):
    before = torch.random.get_rng_state()
    list(loaders.train(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_worker_process_reads_the_same_batches(world, loaders):
    worker = Loaders(world, 8, 0, CPU, workers=1)
    assert all(same(a, b) for a, b in zip(worker.train(4), loaders.train(4), strict=True))


def test_too_small_a_batch_is_refused(world):
    with pytest.raises(ConfigError, match=r"batch_size is 1.*at least 2"):
        Loaders(world, 1, 0, CPU)


def test_a_single_pair_is_refused(world):
    with pytest.raises(DataError, match=r"has 1 pair.*at least 2"):
        Loaders(world.select(torch.tensor([0])), 8, 0, CPU)


def test_captions_without_inputs_are_refused(world):
    with pytest.raises(DataError, match=r"no inputs yet.*Vocabulary\.encode"):
        Loaders(replace(world, caption_inputs=None), 8, 0, CPU)
