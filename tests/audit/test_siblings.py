from itertools import combinations, product
from math import exp, log

import numpy as np
import pytest
import torch

from truepair.audit.crossfit import zero_shot
from truepair.audit.siblings import (
    MOST_TOGETHER,
    Group,
    captions_by_image,
    inferred,
    joint_inference,
    links_of,
    random_links,
)
from truepair.data.features import Features
from truepair.data.pairs import Pairs
from truepair.evaluation.detection import detection_metrics

RATE = 0.4


def corpus(images, each, moved, seed=0):
    """Vectors of captions near those of their true images; single captions, or all of an image, are another's."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=(images, 16))
    image_of_caption = np.repeat(np.arange(images), each)
    if moved == "captions":
        is_moved = generator.random(images * each) < RATE
        origin = (image_of_caption + generator.integers(1, images, images * each)) % images
    else:
        is_moved = (generator.random(images) < RATE)[image_of_caption]
        origin = (image_of_caption + 1) % images
    origin = np.where(is_moved, origin, image_of_caption)

    def near(rows, noise):
        values = rows + noise * generator.normal(size=rows.shape)
        return Features((values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32))

    return Pairs(
        images=near(truth, 1.5),
        captions=[f"words {caption}" for caption in range(images * each)],
        image_of_caption=torch.from_numpy(image_of_caption),
        image_ids=[f"image {image}" for image in range(images)],
        caption_ids=[f"caption {caption}" for caption in range(images * each)],
        caption_inputs=near(truth[origin], 0.7),
        true_image_of_caption=torch.from_numpy(origin),
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
    pairs = corpus(1500, 5, moved)
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


def test_links_are_cosines_of_captions_of_one_image_and_of_different_ones():
    pairs = corpus(30, 3, "captions")
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
    assert [list(group.shape) for group in groups] == [[1, 2], [1, 3], [2, MOST_TOGETHER]]
    together = sorted(caption for group in groups for caption in group.flatten().tolist())
    assert together == list(range(21)), "the only caption of image 2 is alone"
    chosen = torch.tensor([0, 19, 21])
    assert captions_by_image(image_of_caption, chosen) == []


def test_a_corpus_with_one_caption_an_image_is_left_as_it_is():
    pairs = corpus(300, 1, "captions")
    fold, match, log_odds = own_probabilities(pairs)
    assert joint_inference([fold], pairs, match, log_odds, seed=0) is None


def test_the_same_caption_said_twice_does_not_support_itself():
    """Without links, captions of one image are apart; with them, a mismatched double would look like two that agree."""
    pairs = corpus(400, 3, "captions")
    (fold,) = zero_shot(pairs)
    features = pairs.caption_inputs.array
    features[1::3] = features[0::3]
    _, match, log_odds = own_probabilities(pairs)
    found = joint_inference([fold], pairs, match, log_odds, seed=0)
    doubles = found.match[0::3][~pairs.is_clean[0::3]]
    assert doubles.mean() < 0.5
