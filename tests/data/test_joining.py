"""Several inputs as one: what their concatenation gives."""

import numpy as np
import pytest
import torch

from truepair.data.features import Features
from truepair.data.joining import JoinedInputs, JoinedPictures
from truepair.data.pixels import PixelsInMemory
from truepair.data.text import Tokens, tokens_of

PIECES = (3, 1, 4)
ROWS = ([7, 0, 3, 3, 2, 5], list(range(8)), [4], [])


def features(*shape):
    values = [np.random.default_rng(count).random((count, *shape), dtype=np.float32) for count in PIECES]
    return [Features(each) for each in values], Features(np.concatenate(values))


def pixels():
    values = [np.random.default_rng(count).random((count, 3, 4, 4), dtype=np.float32) for count in PIECES]
    return [PixelsInMemory(each) for each in values], PixelsInMemory(np.concatenate(values))


def tokens():
    captions = [[row] * (1 + row % 3) for row in range(1, 9)]
    pieces = [captions[:3], captions[3:4], captions[4:]]  # the longest caption of a piece has 3, 1 and 3 words
    return [tokens_of(each) for each in pieces], tokens_of(captions)


@pytest.mark.parametrize("made", [features(5), features(2, 5), pixels(), tokens()])
@pytest.mark.parametrize("rows", ROWS)
def test_joined_inputs_are_their_concatenation_in_any_order_with_repeats(made, rows):
    pieces, whole = made
    if not rows and isinstance(whole, Tokens):
        pytest.skip("no captions have no longest one, joined or not")
    joined, chosen = JoinedInputs(pieces), torch.tensor(rows, dtype=torch.int64)
    taken, expected = joined.take(chosen), whole.take(chosen)
    assert len(joined) == 8
    assert len(taken) == len(expected) == len(rows)
    assert (taken.lengths is None) == (expected.lengths is None)
    if taken.lengths is None:
        assert torch.equal(taken.values, expected.values)
    else:  # padded to the longest of the pieces that rows are from
        assert torch.equal(taken.lengths, expected.lengths)
        for some, wanted, length in zip(taken.values, expected.values, expected.lengths, strict=True):
            assert torch.equal(some[:length], wanted[:length])


@pytest.mark.parametrize("row", [-1, 8])
def test_a_row_that_is_not_there_is_refused(row):
    with pytest.raises(IndexError, match=f"row {row} is out of range: there are 8 rows"):
        JoinedInputs(features(5)[0]).take(torch.tensor([row]))


def test_joined_pictures_are_numbered_through():
    class Numbers:
        def __init__(self, first, count):
            self.first, self.count = first, count

        def __len__(self):
            return self.count

        def __getitem__(self, image):
            return bytes([self.first + image])

        def reference(self, image):
            return f"picture {self.first + image}"

    pictures = JoinedPictures([Numbers(0, 3), Numbers(3, 0), Numbers(3, 2)])
    assert [*pictures] == [bytes([number]) for number in range(5)]
    assert [pictures.reference(image) for image in range(len(pictures))] == [f"picture {image}" for image in range(5)]
    with pytest.raises(IndexError, match="row 5 is out of range: there are 5 rows"):
        pictures.reference(5)
