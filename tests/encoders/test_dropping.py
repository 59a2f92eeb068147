import pytest
import torch

from truepair.data.batch import Padded
from truepair.encoders.dropping import RegionDropping, WordDropping, keep_positions
from truepair.encoders.regions import RegionEncoder
from truepair.encoders.words import WordEncoder

MASK = 4


def tokens(captions=4000, words=20, vocabulary=1000):
    """Ids from 5: none of them special."""
    generator = torch.Generator().manual_seed(0)
    return Padded(torch.randint(5, vocabulary, (captions, words), generator=generator), torch.full((captions,), words))


def numbered(lengths):
    """Sequences that count 1, 2, 3 …, so that order shows."""
    lengths = torch.tensor(lengths)
    counts = torch.arange(1, int(lengths.max()) + 1).expand(len(lengths), -1)
    return Padded(torch.where(counts <= lengths[:, None], counts, 0), lengths)


def test_kept_positions_stay_in_order_and_move_to_the_front():
    keep = torch.tensor([[True, False, True, True], [False, True, True, True]])
    kept = keep_positions(numbered([4, 3]), keep)
    assert kept.values.tolist() == [[1, 3, 4], [2, 3, 0]]
    assert kept.lengths.tolist() == [3, 2]


def test_an_item_that_would_lose_everything_keeps_everything():
    kept = keep_positions(numbered([2, 3]), torch.tensor([[False, False, True], [False, True, False]]))
    assert kept.values.tolist() == [[1, 2], [2, 0]]
    assert kept.lengths.tolist() == [2, 1]


def test_vectors_move_as_a_whole():
    values = torch.arange(12.0).reshape(1, 4, 3)
    kept = keep_positions(Padded(values, torch.tensor([4])), torch.tensor([[False, True, False, True]]))
    assert torch.equal(kept.values, values[:, [1, 3]])


def test_a_fifth_of_the_regions_is_left_out():
    torch.manual_seed(0)
    regions = Padded(torch.ones(4000, 36, 1), torch.full((4000,), 36))
    dropped = RegionDropping(0.2)(regions)
    assert abs(dropped.lengths.sum() / (4000 * 36) - 0.8) < 0.005
    assert dropped.lengths.unique().numel() > 10
    assert torch.equal(dropped.values.sum((1, 2)), dropped.lengths.float())


def test_words_are_masked_replaced_and_deleted_at_the_released_rates():
    torch.manual_seed(0)
    before = tokens()
    after = WordDropping(0.2, 1000, MASK)(before)
    n = before.values.numel()
    assert abs(1 - after.lengths.sum() / n - 0.2 * 0.4) < 0.003
    assert abs((after.values == MASK).sum() / n - 0.2 * 0.5) < 0.003
    # Replaced words are what was not there before; counted where nothing was deleted, so that positions line up.
    whole = after.lengths == 20
    changed = (after.values[whole] != before.values[whole]) & (after.values[whole] != MASK)
    assert abs(changed.sum() / changed.numel() - 0.2 * 0.1 / (1 - 0.2 * 0.4)) < 0.003
    assert after.values.max() < 1000


@pytest.mark.parametrize("probability", [0.5, 0.99])
def test_no_item_becomes_empty(probability):
    torch.manual_seed(0)
    words = WordDropping(probability, 1000, MASK)(Padded(torch.full((2000, 3), 7), torch.randint(1, 4, (2000,))))
    regions = RegionDropping(probability)(Padded(torch.ones(2000, 3, 2), torch.randint(1, 4, (2000,))))
    for items in (words, regions):
        assert items.lengths.min() == 1
        assert items.values.shape[1] == items.lengths.max()


def test_padding_is_never_kept_and_never_altered():
    torch.manual_seed(0)
    lengths = torch.randint(1, 20, (500,))
    padded = Padded(tokens(500).values.masked_fill(torch.arange(20) >= lengths[:, None], 0), lengths)
    after = WordDropping(0.5, 1000, MASK)(padded)
    assert (after.lengths <= lengths).all()
    assert (after.values[~after.mask] == 0).all()


def test_evaluation_and_probability_0_alter_nothing():
    words, regions = tokens(10), Padded(torch.randn(3, 4, 2), torch.tensor([4, 2, 3]))
    for dropping, items in (
        (WordDropping(0.9, 1000, MASK).eval(), words),
        (WordDropping(0.0, 1000, MASK), words),
        (RegionDropping(0.9).eval(), regions),
        (RegionDropping(0.0), regions),
    ):
        assert dropping(items) is items


def region_encoder(rows, dropping=0.0):
    torch.manual_seed(0)
    return RegionEncoder(6, 8, dropping=dropping, batch_norm_rows=rows)


def test_both_kinds_of_batch_statistics_agree_when_all_regions_are_there():
    regions = Padded(torch.randn(5, 4, 6), torch.full((5,), 4))
    padded, valid = region_encoder("padded")(regions), region_encoder("valid")(regions)
    torch.testing.assert_close(padded.values, valid.values)


def test_padding_rows_count_in_padded_batch_statistics_only():
    torch.manual_seed(0)
    regions = Padded(torch.randn(5, 4, 6), torch.tensor([4, 1, 2, 3, 1]))
    regions = Padded(regions.values.masked_fill(~regions.mask[..., None], 0), regions.lengths)
    padded, valid = region_encoder("padded"), region_encoder("valid")
    assert not torch.allclose(padded(regions).values[regions.mask], valid(regions).values[regions.mask], atol=1e-3)
    rows = regions.values[regions.mask] @ valid.projection.network[0].weight.T + valid.projection.network[0].bias
    momentum = valid.projection.network[1].momentum
    torch.testing.assert_close(valid.projection.network[1].running_mean, momentum * rows.mean(0))
    # Evaluation reads no batch statistics: there the two agree wherever a region is.
    padded.load_state_dict(valid.state_dict())
    padded.eval()
    valid.eval()
    torch.testing.assert_close(padded(regions).values[regions.mask], valid(regions).values[regions.mask])


def test_word_encoder_pads_with_zeros_and_starts_from_small_word_vectors():
    torch.manual_seed(0)
    encoder = WordEncoder(1000, MASK, embedding=8, word_size=6).eval()
    assert 0.0999 < encoder.vectors.weight.abs().max() <= 0.1
    states = encoder(Padded(torch.tensor([[5, 6, 0], [7, 8, 9]]), torch.tensor([2, 3])))
    assert states.values.shape == (2, 3, 8)
    assert (states.values[0, 2] == 0).all()


def test_word_dropping_happens_inside_the_encoder_in_training_only():
    torch.manual_seed(0)
    encoder, words = WordEncoder(1000, MASK, embedding=8, word_size=6, dropping=0.5), tokens(50)
    assert encoder(words).lengths.sum() < words.lengths.sum()
    assert encoder.eval()(words).lengths.sum() == words.lengths.sum()


def test_regions_that_keep_their_places_are_blanked_instead():
    torch.manual_seed(0)
    regions = Padded(torch.ones(4000, 36, 2), torch.full((4000,), 36))
    dropped = RegionDropping(0.2, keeps_places=True)(regions)
    assert torch.equal(dropped.lengths, regions.lengths)
    blank = (dropped.values == 1e-10).all(2)
    assert abs(blank.float().mean() - 0.2) < 0.005
    assert (dropped.values[~blank] == 1).all()


def test_the_only_region_of_an_image_is_never_blanked():
    torch.manual_seed(0)
    dropped = RegionDropping(0.9, keeps_places=True)(Padded(torch.ones(100, 1, 2), torch.ones(100, dtype=torch.int64)))
    assert (dropped.values == 1).all()


def test_vectors_beside_words_are_neither_altered_nor_lost():
    torch.manual_seed(0)
    vectors = torch.randn(500, 3)
    words = Padded(tokens(500).values, torch.full((500,), 20), vectors)
    dropped = WordDropping(0.5, 1000, MASK)(words)
    assert dropped.lengths.sum() < words.lengths.sum()
    assert torch.equal(dropped.vectors, vectors)
    kept = keep_positions(words, torch.rand(500, 20) < 0.5)
    assert torch.equal(kept.vectors, vectors)
    assert keep_positions(numbered([4, 3]), torch.ones(2, 4, dtype=torch.bool)).vectors is None
