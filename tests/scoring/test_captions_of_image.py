from itertools import combinations, product
from math import exp, log

import numpy as np
import pytest
import torch
from moved_captions import RATE, moved_captions
from one_space import zero_shot

from truepair.evaluation.detection import detection_metrics
from truepair.scoring import captions_of_image
from truepair.scoring.captions_of_image import (
    MOST_TOGETHER,
    Group,
    captions_by_image,
    inferred,
    joint_inference,
    links_of,
    random_links,
)


def own_probabilities(pairs):
    """Of each pair by itself: the cosine against those of mismatched pairs, by its true densities."""
    (fold,) = zero_shot(pairs)
    vectors = (
        pairs.images.take(pairs.image_of_caption).values,
        pairs.caption_inputs.take(torch.arange(len(pairs))).values,
    )
    cosine = (vectors[0] * vectors[1]).sum(1).double()
    good, bad = cosine[pairs.is_clean], cosine[~pairs.is_clean]
    normal = torch.distributions.Normal
    log_odds = normal(good.mean(), good.std()).log_prob(cosine) - normal(bad.mean(), bad.std()).log_prob(cosine)
    return fold, (log_odds + log((1 - RATE) / RATE)).sigmoid().float(), log_odds


@pytest.mark.parametrize(("moved", "together"), [("captions", 0.0), ("images", 1.0)])
def test_captions_of_one_image_find_more_mismatches_and_learn_whether_they_moved_together(moved, together):
    pairs = moved_captions(1500, 5, moved)
    fold, match, log_odds = own_probabilities(pairs)
    found = joint_inference([fold], pairs, match, log_odds, seed=0)
    assert found.images == 1500
    assert found.moved_together == pytest.approx(together, abs=0.05)
    before, after = (detection_metrics(each, pairs.is_clean) for each in (match, found.match))
    assert after.auroc > before.auroc + (0.03 if moved == "captions" else 0.01)
    assert after.average_precision > before.average_precision
    assert after.expected_calibration_error < 0.06
    assert float(found.match.mean()) == pytest.approx(float(match.mean()), abs=0.002)


def by_hand(own, links, field, together):
    """Marginals of one image's captions, labelling by labelling."""
    n = len(own)
    share = 1 / (1 + (n - 1) / 4)
    total, marginal = 0.0, [0.0] * n
    for labels in product((0, 1), repeat=n):
        energy = sum((share * one + field) for one, label in zip(own, labels, strict=True) if label)
        for link, (c, d) in zip(links, combinations(range(n), 2), strict=True):
            of = {2: exp(share * link), 1: 1.0, 0: together * exp(share * link) + 1 - together}
            energy += log(of[labels[c] + labels[d]])
        total += exp(energy)
        marginal = [sum_ + exp(energy) * label for sum_, label in zip(marginal, labels, strict=True)]
    return [each / total for each in marginal]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_probabilities_are_the_sums_over_all_labellings(size):
    generator = torch.Generator().manual_seed(size)
    log_odds = 2 * torch.randn(40 * size, generator=generator, dtype=torch.float64)
    links = 2 * torch.randn(40, size * (size - 1) // 2, generator=generator, dtype=torch.float64)
    captions = torch.randperm(40 * size, generator=generator).reshape(40, size)
    match = log_odds.sigmoid()
    found = inferred([Group(captions, links)], match, log_odds)

    def written_out(field):
        rows = zip(captions, links.tolist(), strict=True)
        return [by_hand(log_odds[row].tolist(), link, field, found.moved_together) for row, link in rows]

    low, high = -10.0, 10.0  # the field that keeps the mean, by bisection
    for _ in range(50):
        middle = (low + high) / 2
        is_low = np.mean(written_out(middle)) < float(match.mean())
        low, high = (middle, high) if is_low else (low, middle)
    expected = torch.tensor(written_out(low), dtype=torch.float64)
    torch.testing.assert_close(found.match[captions], expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_as_many_pairs_match_as_their_own_features_say_where_all_captions_of_an_image_move(rate, seed):
    """The mean is five times as steep in b there as where captions move one by one."""
    generator = torch.Generator().manual_seed(seed)
    is_clean = torch.arange(500) >= rate * 500
    log_odds = torch.where(is_clean, 2.0, -2.0)[:, None] + 2 * torch.randn(500, 5, generator=generator)
    captions, links = torch.arange(2500).reshape(500, 5), 4 + torch.randn(500, 10, generator=generator)
    match = (log_odds.flatten() + log((1 - rate) / rate)).sigmoid()
    found = inferred([Group(captions, links)], match, log_odds.flatten())
    assert found.moved_together > 0.99
    assert float(found.match.mean()) == pytest.approx(float(match.mean()), abs=1e-4)
    assert detection_metrics(found.match, is_clean.repeat_interleave(5)).auroc > 0.97


def test_links_are_cosines_of_captions_of_one_image_and_of_different_ones():
    pairs = moved_captions(30, 3, "captions")
    (fold,) = zero_shot(pairs)
    vectors = pairs.caption_inputs.take(torch.arange(90)).values
    (captions,) = captions_by_image(pairs.image_of_caption, torch.arange(90))
    expected = [[float(vectors[a] @ vectors[b]) for a, b in combinations(row, 2)] for row in captions.tolist()]
    torch.testing.assert_close(links_of(fold.models, pairs, captions), torch.tensor(expected))
    every = {round(float(vectors[a] @ vectors[b]), 4) for a in range(90) for b in range(90) if a // 3 != b // 3}
    found = random_links(fold.models, pairs, torch.arange(90), np.random.default_rng(0))
    assert {round(each, 4) for each in found.tolist()} <= every
    assert len(found) > 80


def test_captions_are_grouped_by_image_and_long_lists_are_cut():
    image_of_caption = torch.tensor([4] * 19 + [1] * 2 + [2])
    groups = captions_by_image(image_of_caption, torch.arange(22))
    assert [list(group.shape) for group in groups] == [[1, 2], [2, 6], [1, 7]], "19 are cut as evenly as can be"
    assert max(group.shape[1] for group in groups) <= MOST_TOGETHER
    together = sorted(caption for group in groups for caption in group.flatten().tolist())
    assert together == list(range(21)), "the only caption of image 2 is alone"
    chosen = torch.tensor([0, 19, 21])
    assert captions_by_image(image_of_caption, chosen) == []


def test_a_corpus_with_one_caption_an_image_is_left_as_it_is():
    pairs = moved_captions(300, 1, "captions")
    fold, match, log_odds = own_probabilities(pairs)
    assert joint_inference([fold], pairs, match, log_odds, seed=0) is None


def test_the_same_caption_said_twice_does_not_support_itself():
    """Without links, captions of one image are apart; with them, a mismatched double would look like two that agree."""
    pairs = moved_captions(400, 3, "captions")
    (fold,) = zero_shot(pairs)
    features = pairs.caption_inputs.array
    features[1::3] = features[0::3]
    _, match, log_odds = own_probabilities(pairs)
    found = joint_inference([fold], pairs, match, log_odds, seed=0)
    doubles = found.match[0::3][~pairs.is_clean[0::3]]
    assert doubles.mean() < 0.5


def test_noise_in_one_part_of_many_images_is_seen_in_its_share(monkeypatch):
    """What is fitted to some of the images is fitted to a random sample of them."""
    monkeypatch.setattr(captions_of_image, "_MOST_FITTED", 500)
    generator = torch.Generator().manual_seed(0)
    is_clean = (torch.arange(2000) < 1000)[:, None] | (torch.rand(2000, 2, generator=generator) > 0.6)
    log_odds = torch.where(is_clean, 2.0, -2.0) + torch.randn(2000, 2, generator=generator)
    together = is_clean.all(1, keepdim=True)
    links = torch.where(together, 3.0, -3.0) + torch.randn(2000, 1, generator=generator)
    captions, order = torch.arange(4000).reshape(2000, 2), torch.randperm(2000, generator=generator)
    match = (log_odds.flatten() + log(0.7 / 0.3)).sigmoid()
    sorted_, shuffled = (
        inferred([Group(captions[rows], links[rows])], match, log_odds.flatten())
        for rows in (torch.arange(2000), order)
    )
    assert float((1 - sorted_.match).mean()) == pytest.approx(0.3, abs=0.03)
    assert float((sorted_.match - shuffled.match).abs().mean()) < 0.02
    assert sorted_.moved_together == pytest.approx(shuffled.moved_together, abs=0.1)
