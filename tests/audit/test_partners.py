from dataclasses import replace

import pytest
import torch
from latent_factors import latent_factor_pairs

from truepair.audit import partners
from truepair.audit.partners import NONE, best_partners
from truepair.model import InputShape, make_model


@pytest.fixture
def models(small):
    pairs = latent_factor_pairs(30, world_seed=0, draw_seed=0).pairs
    return [make_model(small, InputShape.of(pairs, None)).eval() for _ in range(2)]


@pytest.fixture
def pairs():
    """30 captions of 12 images, of which the last has none; captions 4 and 5 say the same."""
    made = latent_factor_pairs(30, world_seed=0, draw_seed=0).pairs
    captions = list(made.captions)
    captions[5] = captions[4]
    return replace(made, captions=captions, image_of_caption=torch.arange(30) % 11)


def _slowly(models, pairs):
    """Best partners of all pairs from the whole matrix, one pair after another."""
    with torch.no_grad():
        matrix = sum(
            model.scores.matrix(
                model.image_encoder(pairs.images.take(torch.arange(30))),
                model.text_encoder(pairs.caption_inputs.take(torch.arange(30))),
            )
            for model in models
        ) / len(models)
    matrix = matrix.double()
    own = pairs.image_of_caption.tolist()

    def best_image(pair, gallery):
        return max((i for i in gallery if i != own[pair]), key=lambda i: matrix[i, pair])

    def best_caption(image, text, gallery):
        others = (c for c in gallery if own[c] != image and pairs.captions[c] != text)
        return max(others, key=lambda c: matrix[image, c])

    images, mutual, captions = [], [], []
    for pair, image in enumerate(own):
        present = matrix[image, pair]
        other = best_image(pair, own)
        nearest = sorted((i for i in range(30) if i != image), key=lambda i: -matrix[i, pair])[:4]
        agreed = best_caption(other, None, range(30)) == pair and other in nearest
        mutual.append(bool(agreed and matrix[other, pair] > present))
        other = other if mutual[-1] else best_image(pair, range(30))
        images.append(other if matrix[other, pair] > present else NONE)
        other = best_caption(image, pairs.captions[pair], range(30))
        captions.append(other if matrix[image, other] > present else NONE)
    return images, mutual, captions


def test_partners_in_small_blocks_equal_those_from_the_whole_matrix(models, pairs, monkeypatch):
    monkeypatch.setattr(partners, "_PAIRS_AT_A_TIME", 7)
    monkeypatch.setattr(partners, "_GALLERY_AT_A_TIME", 4)
    monkeypatch.setattr(partners, "_NEAREST", 4)
    found = best_partners(models, pairs, torch.arange(30))
    images, mutual, captions = _slowly(models, pairs)
    assert any(mutual)
    assert not all(mutual)
    assert found.is_mutual.tolist() == mutual
    assert found.image.tolist() == images
    assert found.caption.tolist() == captions
    assert torch.equal(found.image_similarity.isnan(), found.image == NONE)


def test_pairs_that_were_not_asked_for_have_no_partners(models, pairs):
    found = best_partners(models, pairs, torch.tensor([3, 8]))
    rest = torch.ones(30, dtype=torch.bool)
    rest[[3, 8]] = False
    assert (found.image[rest] == NONE).all()
    assert (found.caption[rest] == NONE).all()


def test_probes_say_how_likely_a_suggestion_is(trained):
    """400 pairs, 30 % mismatched: of the suggestions that are called likely, as many are right as was said."""
    models, pairs = trained
    suspects = (~pairs.is_clean).nonzero().flatten()
    probes = pairs.is_clean.nonzero().flatten()[:200]
    found = best_partners(models, pairs, suspects, probes)
    suggested = found.image[suspects] != NONE
    said = found.image_probability[suspects][suggested]
    right = found.image[suspects][suggested] == pairs.true_image_of_caption[suspects][suggested]
    assert not said.isnan().any()
    assert said.std() > 0.05
    assert abs(float(said.mean()) - float(right.double().mean())) < 0.15
    assert said[right].mean() > said[~right].mean()
    assert found.image_probability[probes].isnan().all()  # they were not asked for
    alone = best_partners(models, pairs, suspects)
    assert alone.image_probability.isnan().all()
