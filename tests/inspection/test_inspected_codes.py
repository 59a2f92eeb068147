from copy import deepcopy

import numpy as np
import torch

from truepair.inspection import codes as codes_module
from truepair.inspection.codes import codes_of, drawn, other_partners


def test_codes_are_the_means_that_the_networks_heads_make_of_the_features(disncl):
    model, pairs = disncl.models[0], disncl.train
    found = codes_of(model, pairs, seed=0)
    with torch.inference_mode():
        h = model.image_encoder.backbone.projection(pairs.images.take(pairs.image_of_caption).values)
        assert torch.allclose(found["image"].features, h)
        assert torch.allclose(found["image"].shared, model.image_encoder.head(h).mean)
        assert torch.allclose(found["image"].exclusive, model.exclusive["image"].head(h).mean)
        told = model.text_encoder(pairs.caption_inputs.take(torch.arange(len(pairs)))).values
        shared = torch.nn.functional.normalize(found["text"].shared)
        assert torch.allclose(shared, told, atol=1e-6), "what retrieval compares are these codes"


def test_draws_scatter_about_the_means_as_wide_as_the_codes_are(disncl):
    model, pairs = disncl.models[0], disncl.train
    found, again, other = (codes_of(model, pairs, seed=seed)["text"] for seed in (0, 0, 1))
    with torch.inference_mode():
        deviation = model.exclusive["text"].head(found.features).stddev
    scaled = (found.exclusive_draw - found.exclusive) / deviation
    assert abs(float(scaled.std()) - 1) < 0.1
    assert torch.equal(found.exclusive_draw, again.exclusive_draw)
    assert not torch.equal(found.exclusive_draw, other.exclusive_draw)


def test_codes_do_not_depend_on_how_many_items_are_computed_together(disncl, monkeypatch):
    together = codes_of(disncl.models[0], disncl.train, seed=0)
    monkeypatch.setattr(codes_module, "_ITEMS_AT_A_TIME", 7)
    apart = codes_of(disncl.models[0], disncl.train, seed=0)
    assert torch.allclose(together["text"].exclusive, apart["text"].exclusive, atol=1e-6)


def test_a_model_whose_exclusive_codes_were_dropped_has_none(disncl):
    model = deepcopy(disncl.models[0])
    model.exclusive = None
    assert all(of_items.exclusive is None for of_items in codes_of(model, disncl.train, seed=0).values())


def test_pairs_are_drawn_of_different_images_in_order(world):
    chosen = drawn(world, 12, np.random.default_rng(0))
    images = chosen.image_of_caption.tolist()
    assert len(chosen) == 12
    assert images == sorted(set(images))
    assert chosen.captions == drawn(world, 12, np.random.default_rng(0)).captions
    assert chosen.captions != drawn(world, 12, np.random.default_rng(1)).captions
    assert len(drawn(world, 1000, np.random.default_rng(0))) == 20, "one pair an image"


def test_every_item_gets_another_partner():
    for items in (2, 3, 50):
        partner = other_partners(items, np.random.default_rng(items))
        assert sorted(partner.tolist()) == list(range(items))
        assert (partner != torch.arange(items)).all()
