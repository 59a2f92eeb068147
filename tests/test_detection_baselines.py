"""The maths of the benchmark's baselines against slow references, and what its tables are made of."""

import math
from dataclasses import replace

import detection_baselines
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from audit_million import LATENT, OWN, RATE, WIDTH, WITHIN, log_likelihood_ratio, make
from detection import cleaned, right_at_precision, suggestions
from detection_baselines import (
    BASELINES,
    PlainConfig,
    PlainNetworks,
    disagreement,
    embeddings,
    losses,
    small_loss_posterior,
)
from latent_factors import latent_factor_pairs
from sklearn.metrics import roc_auc_score
from torch.nn.functional import normalize

from truepair.audit.run import audit_pairs
from truepair.config import BaselineConfig, ModelConfig, OptimisationConfig, TeacherConfig
from truepair.config.audit import AuditConfig
from truepair.data.features import Features
from truepair.data.noise import inject_noise
from truepair.data.pairs import Pairs
from truepair.scoring.encodings import similarity_of_pairs

PLAIN = PlainConfig(
    model=ModelConfig(embedding=32),
    method=BaselineConfig(epochs=8, optimisation=OptimisationConfig(learning_rate=3e-3)),
    early_epochs=3,
    batch_size=32,
    folds=3,
    device="cpu",
)


@pytest.fixture(scope="module")
def networks():
    pairs = latent_factor_pairs(300, world_seed=0, draw_seed=1, exclusive=1).pairs
    return PlainNetworks(inject_noise(pairs, 0.2, 0), None, PLAIN)


# --- LEMoN ------------------------------------------------------------------------------------------------------------


def vectors(count, seed):
    return normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)))


def loop_disagreement(x, y, k, beta, gamma, tau1, tau2):
    """The formula of the paper, one pair and one neighbour at a time."""

    def d(a, b):
        return 1 - sum(p * q for p, q in zip(a, b, strict=True))

    def votes(i, near, compared):
        others = sorted((n for n in range(len(near)) if n != i), key=lambda n: d(near[i], near[n]))[:k]
        return sum(
            d(compared[i], compared[n]) * math.exp(-tau1 * d(near[i], near[n])) * math.exp(-tau2 * d(x[n], y[n]))
            for n in others
        ) / len(others)

    return [d(x[i], y[i]) + beta * votes(i, x, y) + gamma * votes(i, y, x) for i in range(len(x))]


@pytest.mark.parametrize("block", [512, 5])
@pytest.mark.parametrize("neighbours", [1, 4, 30])
def test_disagreement_is_the_formula_of_the_paper(monkeypatch, block, neighbours):
    monkeypatch.setattr(detection_baselines, "_PAIRS_AT_A_TIME", block)
    images, captions = vectors(13, 0), vectors(13, 1)
    weights = {"image_weight": 2.0, "caption_weight": 3.0, "nearness": 0.7, "plausibility": 1.3}
    expected = loop_disagreement(images.tolist(), captions.tolist(), neighbours, 2.0, 3.0, 0.7, 1.3)
    assert disagreement(images, captions, neighbours=neighbours, **weights).tolist() == pytest.approx(
        expected, abs=1e-5
    )


def test_a_caption_of_another_kind_disagrees_with_its_image_and_both_neighbourhoods():
    one, other = [1.0, 0.0], [0.0, 1.0]
    images = torch.tensor([one, one, other, other])
    captions = torch.tensor([one, other, other, other])
    # d = 1; the nearest image has the other caption, the nearest caption the other image, both in matching pairs.
    assert disagreement(images, captions, neighbours=1)[1].item() == pytest.approx(1 + 5 + 5)


def test_sides_with_equal_weights_are_alike_to_disagreement():
    images, captions = vectors(40, 2), vectors(40, 3)
    torch.testing.assert_close(disagreement(images, captions), disagreement(captions, images))


def test_pairs_that_all_agree_have_no_disagreement():
    same = vectors(1, 4).expand(40, -1)
    torch.testing.assert_close(disagreement(same, same), torch.zeros(40), atol=1e-5, rtol=0.0)


# --- Small losses -----------------------------------------------------------------------------------------------------


def test_small_losses_are_believed_and_large_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    small = 1 + 0.2 * torch.randn(300, generator=generator)
    large = 5 + 0.5 * torch.randn(100, generator=generator)
    belief = small_loss_posterior(torch.cat([small, large]))
    assert belief[:300].min() > 0.9
    assert belief[300:].max() < 0.1


def test_the_scale_of_losses_does_not_matter():
    generator = torch.Generator().manual_seed(1)
    loss = torch.cat([torch.rand(200, generator=generator), 2 + torch.rand(50, generator=generator)])
    torch.testing.assert_close(small_loss_posterior(7 * loss - 3), small_loss_posterior(loss), atol=1e-4, rtol=0.0)


def test_every_pair_has_as_many_competitors(networks):
    same = np.ones((10, 64), np.float32)
    names = [str(i) for i in range(10)]
    pairs = Pairs(Features(same), names, torch.arange(10), names, names, caption_inputs=Features(same))
    loss = losses(networks.of_an_early_epoch, pairs, 4, 0.05, 0)
    torch.testing.assert_close(loss, torch.full((10,), 2 * math.log(4)), atol=1e-4, rtol=0.0)


# --- Networks ---------------------------------------------------------------------------------------------------------


def test_the_embeddings_are_the_mean_of_the_networks(networks):
    images, captions = embeddings(networks.of_all_pairs, networks.pairs)
    expected = similarity_of_pairs(networks.of_all_pairs, networks.pairs)
    torch.testing.assert_close((images * captions).sum(1), expected, atol=1e-5, rtol=1e-4)


def test_an_early_epoch_is_one_of_the_same_run(networks):
    config = PlainConfig(PLAIN.model, PLAIN.method, PLAIN.method.epochs, PLAIN.batch_size, device="cpu")
    whole = PlainNetworks(networks.pairs, None, config).of_an_early_epoch
    for one, other in zip(whole, networks.of_all_pairs, strict=True):
        for name, weight in one.state_dict().items():
            assert torch.equal(weight, other.state_dict()[name])


def test_folds_hold_every_pair_once_and_all_captions_of_an_image(networks):
    ids = torch.cat([fold for fold, _ in networks.of_folds])
    assert ids.sort().values.equal(torch.arange(300))
    images = [set(networks.pairs.image_of_caption[fold].tolist()) for fold, _ in networks.of_folds]
    assert sum(map(len, images)) == len(set.union(*images))


@pytest.mark.parametrize("name", BASELINES)
def test_mismatched_pairs_score_low(networks, name):
    assert roc_auc_score(networks.pairs.is_clean, BASELINES[name](networks)) > 0.8


# --- The tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "is_right", "least", "right"),
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1], 0.9, 2),
        ([0.6, 0.7, 0.8, 0.9], [1, 0, 1, 1], 0.9, 2),  # whatever the order
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1], 0.75, 3),
        ([0.9, 0.9], [1, 0], 0.9, 0),  # no threshold separates them
        ([0.9, 0.8], [0, 0], 0.9, 0),
        ([], [], 0.9, 0),
    ],
)
def test_right_at_precision(probability, is_right, least, right):
    assert right_at_precision(np.array(probability), np.array(is_right), least) == right


def four_pairs():
    features, names = Features(np.ones((4, 2), np.float32)), list("abcd")
    truth = torch.arange(4)
    return Pairs(features, names, torch.tensor([1, 2, 0, 3]), names, names, true_image_of_caption=truth)


def test_pairs_are_kept_dropped_and_re_paired_as_the_findings_say(tmp_path):
    columns = {
        "caption_id": list("dabc"),
        "caption": list("dabc"),
        "image_id": ["d", "b", "a", "c"],
        "mismatch_probability": [0.1, 0.9, 0.2, 0.8],
        "suggested_image_id": [None, "a", "c", "b"],
        "may_re_pair": [False, True, False, False],
    }
    pq.write_table(pa.table(columns), tmp_path / "findings.parquet")
    kept, mended = cleaned(four_pairs(), tmp_path, 0.5)
    assert kept.caption_ids == ["d", "b"]
    assert (mended.caption_ids, mended.image_of_caption.tolist()) == (["d", "a", "b"], [3, 0, 0])
    assert mended.is_clean[1]


@pytest.mark.parametrize(
    ("belief", "given_back"),
    [
        ({"suggestion_probability": [0.9, 0.8, 0.7, None]}, 1 / 3),  # the second is wrong, which spoils the third
        ({"suggestion_probability": [0.9, 0.7, 0.8, None]}, 2 / 3),
        ({"suggestion_is_mutual": [False, False, True, False]}, 1 / 3),  # of the mutual ones alone
        ({"suggestion_is_mutual": [True, True, True, False]}, 1 / 3),
    ],
)
def test_pictures_are_given_back_as_far_as_most_of_them_are_right(tmp_path, belief, given_back):
    columns = {
        "caption_id": list("abcd"),
        "suggested_image_id": ["a", "d", "c", None],  # a and c are right; d matches, and needs none
        "mismatch_probability": [0.9, 0.8, 0.7, 0.1],
        "is_clean": [False, False, False, True],
    }
    pq.write_table(pa.table(columns | belief), tmp_path / "findings.parquet")
    found = suggestions(tmp_path / "findings.parquet", four_pairs())
    assert found == pytest.approx({"given_back": given_back, "suggested_right": 2 / 3})


def test_what_an_audit_leaves_and_gives_back_is_read_from_its_files(networks, tmp_path):
    method = TeacherConfig(optimisation=replace(TeacherConfig().optimisation, learning_rate=3e-3))
    config = AuditConfig(folds=2, repetitions=1, re_pair=True, method=method, model=PLAIN.model, device="cpu")
    summary = audit_pairs(networks.pairs, None, tmp_path, config)
    kept, mended = cleaned(networks.pairs, tmp_path, config.threshold)
    found = pq.read_table(tmp_path / "findings.parquet").to_pydict()
    assert len(kept) == found["is_suspect"].count(False)
    assert len(mended) == len(kept) + found["may_re_pair"].count(True)
    assert set(kept.caption_ids) <= set(mended.caption_ids)
    assert kept.realised_noise_rate < networks.pairs.realised_noise_rate
    shares = suggestions(tmp_path / "findings.parquet", networks.pairs)
    assert 0 <= shares["given_back"] <= shares["suggested_right"]
    assert shares["suggested_right"] * 60 == pytest.approx(summary.truth["suggested_right"])


# --- A million pairs --------------------------------------------------------------------------------------------------


def test_the_likelihood_ratio_is_that_of_two_normal_densities():
    from scipy.stats import multivariate_normal, norm

    variance, shared = 1 + WITHIN**2 + OWN**2, 1 + WITHIN**2
    joint = multivariate_normal([0, 0], [[variance, shared], [shared, variance]])
    alone = norm(0, variance**0.5)
    images, captions = np.random.default_rng(0).normal(size=(2, 6, LATENT))
    expected = joint.logpdf(np.stack([images, captions], -1)) - alone.logpdf(images) - alone.logpdf(captions)
    difference = log_likelihood_ratio(images, captions) - expected.sum(1)
    assert difference == pytest.approx(difference[0])


def test_the_pairs_of_a_million_are_what_they_are_said_to_be(tmp_path):
    make(tmp_path, 2000, 0)
    images, captions = (np.load(tmp_path / "pairs" / f"{name}.npy") for name in ("images", "captions"))
    truth = np.load(tmp_path / "truth.npz")
    assert images.shape == captions.shape == (2000, WIDTH)
    assert images.dtype == captions.dtype == np.float16
    assert (~truth["is_clean"]).mean() == RATE
    # A linear map that is fitted to the matching pairs finds the others.
    x, y, clean = images.astype(float), captions.astype(float), truth["is_clean"]
    ridge = x[clean].T @ x[clean] + 300 * np.eye(WIDTH)
    fitted = x @ np.linalg.solve(ridge, x[clean].T @ y[clean])
    assert roc_auc_score(clean, (fitted * y).sum(1) / np.linalg.norm(fitted, axis=1)) > 0.9
    assert 0.95 < truth["ideal_auroc"] < 1


def test_the_pairs_of_a_million_depend_on_the_seed_alone(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(tmp_path / folder, 100, seed)
    contents = [(tmp_path / folder / "pairs" / "captions.npy").read_bytes() for folder in "abc"]
    assert contents[0] == contents[1] != contents[2]
