"""Pretrained networks below a head: frozen, in full and by low-rank updates."""

import copy
import sys

import pytest
import torch
from lightning_fabric import Fabric

from truepair.config import OptimisationConfig
from truepair.data.batch import Padded
from truepair.encoders.finetuning import TowerEncoder, Tuning, learning_rate_factors, random_crops
from truepair.encoders.projection import VectorEncoder
from truepair.encoders.recurrent import twice_differentiable
from truepair.errors import ConfigError
from truepair.optimisation import Optimiser

pytest.importorskip("transformers", reason="needs the extra hf")
from tiny_networks import save_bert, save_clip, save_siglip

from truepair.encoders.towers import load_image_tower, load_text_tower

PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = Padded(torch.tensor([[12, 3, 5, 13], [12, 4, 13, 0]]), torch.tensor([4, 3]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {save.__name__[5:]: save(tmp_path_factory.mktemp("network")) for save in (save_bert, save_clip, save_siglip)}


def tuning(how="full", **options):
    return Tuning(
        **{"how": how, "learning_rate_factor": 0.1, "layer_decay": 0.5, "rank": 2, "targets": ()} | options,
        checkpoints=False,
    )


def encoder(folders, kind="clip", how="full", side="image", crop=1.0, **options):
    torch.manual_seed(0)
    tower = (load_image_tower if side == "image" else load_text_tower)(folders[kind])
    return TowerEncoder(tower, VectorEncoder(tower.width, 6, kind="plain"), tuning(how, **options), crop)


def images(places=None):
    return Padded(PIXELS, places=None if places is None else torch.tensor(places))


def trained(network, items, steps=3):
    """The network after some steps, by an optimiser with a large rate."""
    optimiser = Optimiser(network, OptimisationConfig(learning_rate=0.05), 1, Fabric(accelerator="cpu", devices=1))
    for _ in range(steps):
        optimiser.step(optimiser.model(items).values[:, 0].sum(), 0.0)
    return network


def test_pictures_that_occur_twice_are_encoded_once(folders):
    network = encoder(folders).eval()
    seen = []
    network.tower.register_forward_pre_hook(lambda module, given: seen.append(len(given[0].values)))
    encoded = network(images([2, 0, 2, 2]))
    assert seen == [3]
    torch.testing.assert_close(encoded.values, network(images()).values[[2, 0, 2, 2]])
    assert encoded.places is None


@pytest.mark.parametrize("how", ["full", "frozen"])
def test_captions_of_like_length_go_through_together(folders, how):
    network = encoder(folders, "bert", how, "text").eval()
    lengths = torch.arange(40) % 8 + 3
    ids = torch.randint(3, 10, (40, 10)) * (torch.arange(10) < lengths[:, None])
    seen = []
    network.network.register_forward_pre_hook(lambda module, given: seen.append(given[0].values.numel()))
    together = network(Padded(ids, lengths)).values
    assert sum(seen) < ids.numel()
    one_by_one = [network(Padded(ids[k : k + 1, : lengths[k]], lengths[k : k + 1])).values for k in range(40)]
    torch.testing.assert_close(together, torch.cat(one_by_one))


def test_vectors_that_were_made_before_are_read_by_the_head(folders):
    network = encoder(folders).eval()
    made = network.vectors(images([1, 0, 1]))
    assert made.values.shape == (3, network.network.width)
    torch.testing.assert_close(network(made).values, network(images([1, 0, 1])).values)


def test_a_frozen_network_is_no_part_of_the_module(folders):
    network = encoder(folders, how="frozen")
    before = {name: weight.clone() for name, weight in network._frozen.module.state_dict().items()}
    expected = network._frozen.module(images())
    assert not [name for name in network.state_dict() if not name.startswith("head.") and name != "number"]
    trained(network.train(), images())
    assert not any(module.training for module in network._frozen.module.modules())
    for name, weight in network._frozen.module.state_dict().items():
        assert torch.equal(weight, before[name])
    torch.testing.assert_close(network._vectors(images()), expected)
    assert copy.deepcopy(network)._frozen is network._frozen
    assert learning_rate_factors(network) == {}


def test_a_frozen_network_moves_with_its_owner(folders):
    network = encoder(folders, how="frozen").double()
    assert next(network._frozen.module.parameters()).dtype == torch.float64


@pytest.mark.parametrize(("kind", "side"), [("clip", "image"), ("siglip", "image"), ("clip", "text"), ("bert", "text")])
def test_everything_that_the_vectors_depend_on_is_trained(folders, kind, side):
    network = encoder(folders, kind, side=side).train()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    trained(network, images() if side == "image" else TOKENS)
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    frozen = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    assert changed.isdisjoint(frozen)
    assert any("layer" in name for name in changed)
    assert all("logit" in name or "pooler" in name for name in frozen)


def test_learning_rates_fall_from_block_to_block(folders):
    network = encoder(folders)
    factors = learning_rate_factors(network)
    of = {name: factors[weight] for name, weight in network.tower.named_parameters() if weight in factors}
    vision = "network.vision_model"
    assert of["network.visual_projection.weight"] == 0.1
    assert of[f"{vision}.encoder.layers.1.mlp.fc1.weight"] == 0.05
    assert of[f"{vision}.encoder.layers.0.mlp.fc1.weight"] == 0.025
    assert of[f"{vision}.embeddings.patch_embedding.weight"] == 0.0125
    assert not {*factors} & {*network.head.parameters()}
    optimiser = Optimiser(network, OptimisationConfig(learning_rate=1.0), 1, Fabric(accelerator="cpu", devices=1))
    optimiser.step(optimiser.model(images()).values.sum(), 0.0)
    assert sorted(group["lr"] for group in optimiser._adam.param_groups) == [0.0125, 0.025, 0.05, 0.1, 1.0]
    rates = optimiser.learning_rates(0.0)
    assert (rates["tower.network.visual_projection.weight"], rates["head.projection.linear.weight"]) == (0.1, 1.0)


@pytest.mark.parametrize(("kind", "side"), [("clip", "image"), ("bert", "text")])
def test_updates_alone_are_trained_and_saved(folders, kind, side):
    pytest.importorskip("peft", reason="needs the extra finetune")
    items = images() if side == "image" else TOKENS
    network = encoder(folders, kind, "lora", side).eval()
    torch.testing.assert_close(network(items).values, encoder(folders, kind, side=side).eval()(items).values)
    network.train()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    trained(network, items)
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert {name.split(".")[0] for name in changed} == {"tower", "head"}
    assert all("lora_" in name for name in changed if name.startswith("tower."))
    state = network.state_dict()
    assert all("lora_" in name or name.startswith(("head.", "number")) for name in state)
    again = encoder(folders, kind, "lora", side)
    again.load_state_dict(state)
    torch.testing.assert_close(again.eval()(items).values, network.eval()(items).values)
    assert set(copy.deepcopy(network).state_dict()) == set(state)


def test_layers_to_update_are_found_by_their_names_or_refused(folders):
    pytest.importorskip("peft", reason="needs the extra finetune")
    network = encoder(folders, how="lora", targets=("q_proj",))
    updated = {name.split(".lora_")[0] for name, _ in network.named_parameters() if "lora_" in name}
    assert updated == {f"tower.network.vision_model.encoder.layers.{n}.self_attn.q_proj" for n in range(2)}
    with pytest.raises(
        ConfigError, match=r"model.lora_targets is query, but no layer .* has such a name; there are .*q_proj"
    ):
        encoder(folders, how="lora", targets=("query",))


def test_without_peft_its_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"'lora' needs peft .*: pip install 'truepair\[finetune\]'"):
        encoder(folders, how="lora")


def test_random_crops_differ_in_training_and_are_off_in_evaluation(folders):
    network = encoder(folders, how="frozen", crop=0.3)
    whole = encoder(folders, how="frozen")(images()).values
    torch.testing.assert_close(network.eval()(images()).values, whole)
    first, second = network.train()(images()).values, network(images()).values
    assert not torch.allclose(first, second)
    torch.manual_seed(3)
    again = network(images()).values
    torch.manual_seed(3)
    torch.testing.assert_close(network(images()).values, again)


def test_a_crop_is_a_part_of_the_picture_the_right_way_round():
    ramp = torch.linspace(0, 1, 64).expand(20, 3, 64, 64)  # grows to the right
    torch.manual_seed(0)
    crops = random_crops(ramp, 0.25)
    assert crops.shape == ramp.shape
    row = crops[:, 0, 32]
    assert (row.diff(dim=1) >= -1e-6).all()
    span = row[:, -1] - row[:, 0]
    assert 0.4 < span.min() < span.max() <= 1
    torch.testing.assert_close(random_crops(ramp, 1.0).mean(), ramp.mean(), atol=0.05, rtol=0)


def test_crops_are_at_the_same_places_in_16_bits():
    pixels = torch.rand(4, 3, 96, 96)
    torch.manual_seed(0)
    whole = random_crops(pixels, 0.3)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(random_crops(pixels, 0.3), whole)


def test_dropout_draws_the_same_numbers_with_and_without_gradients(folders):
    """A meta step takes the difference of vectors that were made with gradients and of some that were not."""
    network = encoder(folders, "bert", side="text").train()
    lengths = torch.arange(40) % 8 + 3
    texts = Padded(torch.randint(3, 10, (40, 10)) * (torch.arange(10) < lengths[:, None]), lengths)
    made = []
    for is_learned in (True, False):
        torch.manual_seed(5)
        with torch.set_grad_enabled(is_learned):
            made.append(network(texts).values.detach())
    assert torch.equal(*made)
    assert not torch.allclose(network(texts).values, made[0]), "dropout is on"


@pytest.mark.parametrize(("kind", "side"), [("clip", "image"), ("clip", "text"), ("bert", "text")])
def test_gradients_can_be_differentiated_again(folders, kind, side):
    network = encoder(folders, kind, side=side).train()
    trained = [weight for weight in network.tower.parameters() if weight.requires_grad]
    with twice_differentiable(network):
        vectors = network(images() if side == "image" else TOKENS).values
        gradients = torch.autograd.grad(vectors[:, 0].sum(), trained, create_graph=True)
    sum(gradient.square().sum() for gradient in gradients).backward()
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in trained)


def test_recomputed_activations_give_the_same_gradients(folders):
    gradients = []
    for checkpoints in (False, True):
        network = encoder(folders, "bert", side="text").eval()
        if checkpoints:
            network.tower.checkpoint_gradients()
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        network(TOKENS).values[:, 0].sum().backward()
        gradients.append({name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.fixture(scope="module")
def photograph():
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the encoder's packages")
    values = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Padded(torch.nn.functional.interpolate(values, size=(224, 224)))


@pytest.mark.parametrize("how", ["frozen", "full", "lora"])
def test_efficientnet_gives_what_embed_gives_and_learns_without_its_statistics(photograph, how):
    from truepair.embedding.lite0 import torch_maps

    if how == "lora":
        pytest.importorskip("peft", reason="needs the extra finetune")
    tower = load_image_tower("efficientnet-lite0")
    network = TowerEncoder(tower, VectorEncoder(tower.width, 6, kind="plain"), tuning(how))
    expected = torch_maps(torch.device("cpu"))(photograph.values.numpy()).mean((2, 3))
    torch.testing.assert_close(network.eval()._vectors(photograph).detach(), expected, atol=1e-4, rtol=1e-4)
    statistics = {name: buffer.clone() for name, buffer in tower.named_buffers()}
    weights = {name: weight.detach().clone() for name, weight in tower.named_parameters()}
    trained(network.train(), photograph, steps=1)
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in tower.named_buffers())
    changed = {name for name, weight in tower.named_parameters() if not torch.equal(weight, weights[name])}
    wanted = {"frozen": 0, "full": len(weights), "lora": sum("lora_B" in name for name in weights)}
    assert len(changed) >= 0.9 * wanted[how]
    assert bool(changed) == (how != "frozen")
    if how == "full":
        factors = {name: learning_rate_factors(network)[weight] for name, weight in tower.named_parameters()}
        assert factors["network._conv_head.weight"] == 0.1
        assert factors["network._conv_stem.weight"] < factors["network._blocks.0._project_conv.weight"] < 0.1


def test_efficientnet_learns_as_its_package_does_and_keeps_less_for_it(photograph):
    from truepair.pretrained.lite0 import published_network

    tower = load_image_tower("efficientnet-lite0").requires_grad_(True)
    package = published_network().requires_grad_(True)
    pixels = photograph.values

    def kept_and_gradients(network, forward):
        kept = {}

        def keep(values):
            kept[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
            return values

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
            vectors = forward()
        vectors.square().sum().backward()
        return sum(kept.values()), {name: weight.grad for name, weight in network.named_parameters()}

    kept, gradients = kept_and_gradients(tower.network, lambda: tower(Padded(pixels)))
    more, expected = kept_and_gradients(package, lambda: package.extract_features(pixels).mean((2, 3)))
    assert kept < 0.6 * more
    assert len(gradients) > 100
    for name, gradient in gradients.items():
        # By the norm: a value at a bound of ReLU6 is on either side of it, by rounding.
        assert float((gradient - expected[name]).norm()) < 2e-3 * float(expected[name].norm()), name


def test_clipping_has_the_derivatives_of_relu6():
    from truepair.encoders.towers import _clipped

    values = torch.tensor([-1.0, 0.0, 0.5, 5.9, 6.0, 7.0], dtype=torch.float64, requires_grad=True)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)
    for clip in (_clipped, torch.nn.functional.relu6):
        (first,) = torch.autograd.grad((weights * clip(values * 1) ** 2).sum(), values, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), values)
        assert first.tolist() == [0, 0, 3, 47.2, 0, 0]
        assert second.tolist() == [0, 0, 6, 8, 0, 0]
    with torch.no_grad():
        assert _clipped(values * 1).tolist() == [0, 0, 0.5, 5.9, 6, 6]


def test_efficientnet_passes_by_its_blocks_at_random_in_training_only(photograph):
    tower = load_image_tower("efficientnet-lite0")
    fixed = tower(photograph)
    assert torch.equal(tower(photograph), fixed)
    for module in tower.train().modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    draws = [tower(photograph) for _ in range(2)]
    assert not torch.allclose(draws[0], draws[1])
