import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch

from truepair.data.text import Tokens, Vocabulary
from truepair.encoders import word_vectors
from truepair.encoders.word_vectors import _positive_mutual_information, co_occurrence_vectors

CAPTIONS = [
    "a red dog runs",
    "a blue dog runs",
    "a red cat sleeps",
    "a blue cat sleeps",
    "the sun sets sets sets",
    "the sun rises",
]
VOCABULARY = Vocabulary.build(CAPTIONS, minimum_count=1)
TOKENS = VOCABULARY.encode(CAPTIONS)


def by_hand():
    """Positive pointwise mutual information from sets of words."""
    met, often = Counter(), Counter()
    for row in TOKENS.take(torch.arange(len(CAPTIONS))).values.tolist():
        for a, b in permutations(set(row) - {0}, 2):
            met[a, b] += 1
            often[a] += 1
    total = sum(met.values())
    result = np.zeros((len(VOCABULARY), len(VOCABULARY)))
    for (a, b), count in met.items():
        result[a, b] = max(0.0, math.log(count * total / (often[a] * often[b])))
    return result


def test_mutual_information_is_that_of_sets_of_words():
    expected = by_hand()
    assert (expected > 0).sum() > 20
    np.testing.assert_allclose(_positive_mutual_information(TOKENS, len(VOCABULARY)).toarray(), expected)


def test_vectors_are_the_leading_singular_ones():
    vectors = co_occurrence_vectors(TOKENS, len(VOCABULARY), 4)
    left, values, _ = np.linalg.svd(by_hand())
    expected = torch.from_numpy(left[:, :3] * np.sqrt(values[:3])).float()
    gram, wanted = vectors[:, :3] @ vectors[:, :3].T, expected @ expected.T
    torch.testing.assert_close(gram / gram.norm(), wanted / wanted.norm(), atol=1e-3, rtol=0)
    assert vectors.std(correction=0).item() == pytest.approx(0.3 / 3**0.5, rel=1e-4)


def test_the_same_captions_give_the_same_vectors_and_padding_none():
    one, other = (co_occurrence_vectors(TOKENS, len(VOCABULARY), 5) for _ in range(2))
    assert torch.equal(one, other)
    assert (one[0] == 0).all()


def test_words_of_like_captions_are_alike():
    vectors = torch.nn.functional.normalize(co_occurrence_vectors(TOKENS, len(VOCABULARY), 5), dim=1)
    runs, sets, rises = (vectors[VOCABULARY.id_of[word]] for word in ("runs", "sets", "rises"))
    assert sets @ rises > 0.5 > runs @ rises


def test_more_dimensions_than_words_stay_zero():
    vectors = co_occurrence_vectors(TOKENS, len(VOCABULARY), 100)
    assert vectors.shape == (len(VOCABULARY), 100)
    assert (vectors[:, len(VOCABULARY) - 1 :] == 0).all()


def tokens(*captions):
    ids = [word for caption in captions for word in caption]
    ends = np.cumsum([0, *map(len, captions)])
    return Tokens(torch.tensor(ids, dtype=torch.int32), torch.from_numpy(ends))


def test_captions_are_counted_a_block_at_a_time(monkeypatch):
    whole = co_occurrence_vectors(TOKENS, len(VOCABULARY), 5)
    monkeypatch.setattr(word_vectors, "_CAPTIONS_AT_A_TIME", 2)  # blocks differ in width, too
    np.testing.assert_allclose(_positive_mutual_information(TOKENS, len(VOCABULARY)).toarray(), by_hand())
    assert torch.equal(co_occurrence_vectors(TOKENS, len(VOCABULARY), 5), whole)


def test_a_word_that_stands_alone_has_no_vector():
    captions = tokens([1, 2], [1, 3], [4, 5], [6], [6, 6])
    vectors = co_occurrence_vectors(captions, 8, 4)
    assert (vectors[[0, 6, 7]] == 0).all()  # padding, alone, never seen
    assert (vectors[1:6].norm(dim=1) > 0).all()


def test_repeated_words_count_once_a_caption():
    once = co_occurrence_vectors(tokens([1, 2], [1, 3], [4, 5], [2, 3, 4]), 6, 4)
    often = co_occurrence_vectors(tokens([1, 2, 2, 2], [1, 3], [5, 4, 5, 4], [2, 3, 4, 3]), 6, 4)
    assert torch.equal(once, often)
    assert not torch.equal(once, co_occurrence_vectors(tokens([1, 2], [1, 3], [4, 5], [2, 3]), 6, 4))


@pytest.mark.parametrize("captions", [tokens([1], [2], [3, 3]), tokens([1, 2], [1, 2])])
def test_captions_that_tell_nothing_give_finite_vectors(captions):
    vectors = co_occurrence_vectors(captions, 4, 3)
    assert vectors.shape == (4, 3)
    assert vectors.isfinite().all()
    assert (vectors[3] == 0).all()
