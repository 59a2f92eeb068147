"""A pretrained network below a projection head: frozen, trained in full, or trained by low-rank updates (LoRA)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from truepair.data.batch import Padded
from truepair.encoders.projection import VectorEncoder
from truepair.encoders.towers import ImageTower, TextTower, sum_of_bits
from truepair.errors import ConfigError, said_by
from truepair.layers import full_precision

_ITEMS_AT_A_TIME = 32
"""In evaluation, so many items go through a network together, however many there are."""
_LIKE_LENGTHS = 16
"""In training, on a CPU: so many token sequences of about one length go through a network together."""
_RATIO = 4 / 3
"""The longer side of a random crop by the shorter one, at most (Szegedy et al., CVPR 2015)."""


@dataclass(frozen=True)
class Tuning:
    """How a pretrained network is trained.

    Attributes:
        how: Not at all, all its weights, or low-rank updates of some (Hu et al., ICLR 2022).
        learning_rate_factor: Its learning rate, as a part of that of the heads.
        layer_decay: What the factor is multiplied with from one block to the one below.
        rank: Of the updates.
        targets: What the names of the updated layers end with; empty for every linear layer of its blocks.
        checkpoints: Whether activations of the blocks are computed again in the backward pass.
    """

    how: Literal["frozen", "full", "lora"]
    learning_rate_factor: float
    layer_decay: float
    rank: int
    targets: tuple[str, ...]
    checkpoints: bool


class TowerEncoder(nn.Module):
    """Pixels or token ids → unit vectors of the joint space, by a pretrained network and a head.

    A frozen network is no part of the module's parameters, state and mode: copies share it, no checkpoint holds it, and
    it is always in evaluation mode. A trained one keeps the statistics of its batch normalisation: those of a small
    batch are noise. Of one with low-rank updates, checkpoints hold the updates. A number tells whether the weights that
    they leave out are the same when a checkpoint is read.

    Args:
        tower: The network.
        head: What reads its vectors.
        tuning: How the network is trained.
        smallest_crop: Share of a picture's area that a random crop keeps at least, in training mode; 1 crops nothing.
    """

    def __init__(
        self, tower: ImageTower | TextTower, head: VectorEncoder, tuning: Tuning, smallest_crop: float = 1.0
    ) -> None:
        super().__init__()
        self.head = head
        self.tuning = tuning
        self.smallest_crop = smallest_crop
        self._frozen: _Shared | None = None
        if tuning.how == "frozen":
            self._frozen = _Shared(tower)
        else:
            self.tower = _trainable(tower, tuning)
        self.number: Tensor
        if tuning.how != "full":
            self.register_buffer("number", torch.tensor(sum_of_bits(tower)))
            self.register_load_state_dict_pre_hook(_refuse_other_weights)  # type: ignore[no-untyped-call]
        if tuning.how == "lora":
            trained = {name for name, weight in self.tower.named_parameters() if weight.requires_grad}
            frozen = frozenset(self.tower.state_dict()) - trained  # an average requires no gradient of any weight
            self.tower.register_load_state_dict_pre_hook(partial(_add_frozen, frozen=frozen))
            self.tower.register_state_dict_post_hook(partial(_drop_frozen, frozen=frozen))

    def train(self, mode: bool = True) -> TowerEncoder:
        """Training mode for everything but batch normalisation."""
        super().train(mode)
        for module in self.modules() if self._frozen is None else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    @property
    def input_width(self) -> int:
        """See `Backbone.input_width`."""
        return self.head.input_width

    @torch.no_grad()
    def inputs(self, items: Padded) -> Padded:
        """The network's vectors as they are now, scaled: of a trained network, made once more."""
        return self.head.inputs(items if _is_made(items) else self.vectors(items))

    def forward(self, items: Padded) -> Padded:
        """Pixels ``[pictures, 3, side, side]`` or token ids → ``[items, embedding]``, length 1.

        Vectors ``[items, width]`` that the network has made before (`vectors`) are read by the head alone.
        """
        return self.encoding(self.features(items))

    def features(self, items: Padded) -> Padded:
        """As `forward`, of any length."""
        return self.head.features(items if _is_made(items) else self.vectors(items))

    def vectors(self, items: Padded) -> Padded:
        """What the network makes of pixels or token ids: ``[items, width]``, in float32."""
        vectors = full_precision(self._vectors(items))
        return Padded(vectors if items.places is None else vectors[items.places])

    def encoding(self, features: Padded) -> Padded:
        """Vectors of any length → of length 1."""
        return self.head.encoding(features)

    @property
    def network(self) -> ImageTower | TextTower:
        """The pretrained network, with its low-rank updates if there are."""
        return cast(ImageTower | TextTower, self.tower if self._frozen is None else self._frozen.module)

    def learning_rate_factors(self) -> dict[nn.Parameter, float]:
        """What the learning rate of each trained parameter of the network is multiplied with."""
        if self._frozen is not None:
            return {}
        depth = _depths(self.tower)
        top, tuning = max(depth.values()), self.tuning
        return {
            weight: tuning.learning_rate_factor * tuning.layer_decay ** (top - depth[name])
            for name, weight in self.tower.named_parameters()
            if weight.requires_grad
        }

    def _vectors(self, items: Padded) -> Float[Tensor, "rows width"]:
        """Of each row of `values`."""
        rows = Padded(items.values, items.lengths)
        if self.training and self.smallest_crop < 1:
            rows = Padded(random_crops(rows.values, self.smallest_crop))
        is_learned = self._frozen is None and torch.is_grad_enabled()
        # Grouped in training mode as with gradients: dropout then draws the same numbers with and without.
        is_training = self._frozen is None and (self.training or torch.is_grad_enabled())
        with torch.set_grad_enabled(is_learned):
            if is_training and (rows.lengths is None or rows.values.device.type != "cpu"):
                vectors: Tensor = self.network(rows)
                return vectors
            order = torch.arange(len(rows)) if rows.lengths is None else rows.lengths.argsort(stable=True)
            groups = order.split(_LIKE_LENGTHS if is_training else _ITEMS_AT_A_TIME)
            return torch.cat([self.network(_trimmed(rows.rows(group))) for group in groups])[order.argsort()]

    def _apply(self, fn: Any, recurse: bool = True) -> TowerEncoder:
        """Moves the frozen network along, which is no submodule."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._frozen is not None:
            self._frozen.module._apply(fn)
        return self


def learning_rate_factors(network: nn.Module) -> dict[nn.Parameter, float]:
    """Of every parameter of the pretrained networks in `network`; others have the learning rate as it is."""
    encoders = [module for module in network.modules() if isinstance(module, TowerEncoder)]
    return {weight: factor for encoder in encoders for weight, factor in encoder.learning_rate_factors().items()}


def random_crops(
    pixels: Float[Tensor, "images 3 height width"], smallest: float
) -> Float[Tensor, "images 3 height width"]:
    """A random part of each picture, at the size of the whole; random numbers are those of torch's CPU generator.

    Nothing is mirrored: captions say left and right.

    Args:
        pixels: The pictures.
        smallest: Share of the area that is kept at least; uniform up to 1.
    """
    area, stretch, x, y = torch.rand(4, len(pixels))
    area = smallest + (1 - smallest) * area
    ratio = _RATIO ** (2 * stretch - 1)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    zero = torch.zeros(len(pixels))
    left, top = (2 * x - 1) * (1 - width), (2 * y - 1) * (1 - height)  # of the middles, in [-1, 1]
    corners = torch.stack([torch.stack([width, zero, left], 1), torch.stack([zero, height, top], 1)], 1)
    with torch.autocast(pixels.device.type, enabled=False):  # places in 16 bits are off by up to a pixel
        places = affine_grid(corners.to(pixels), list(pixels.shape), align_corners=False)
        return grid_sample(pixels, places, padding_mode="border", align_corners=False)


def _is_made(items: Padded) -> bool:
    """Whether the items are vectors that the network has made before, no pixels and no token ids."""
    return items.values.dim() == 2 and items.values.is_floating_point()


def _trimmed(items: Padded) -> Padded:
    """Without the positions that are padding for all."""
    return items if items.lengths is None else Padded(items.values[:, : int(items.lengths.max())], items.lengths)


class _Shared:
    """A module that copies of its owner share."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __deepcopy__(self, memo: Any) -> _Shared:
        return self


def _trainable(tower: ImageTower | TextTower, tuning: Tuning) -> nn.Module:
    """The network, of which that requires gradients which is trained and used.

    Raises:
        ConfigError: If peft is not installed, or no layer has a name that was asked for.
    """
    if tuning.checkpoints:
        tower.checkpoint_gradients()
    unused = _unused(tower)
    if tuning.how == "lora":
        _add_updates(tower, tuning, unused)
    for name, weight in tower.named_parameters():
        is_update = "lora_" in name
        weight.requires_grad_(is_update if tuning.how == "lora" else name not in unused)
    return tower


def _unused(tower: ImageTower | TextTower) -> set[str]:
    """Parameters on which the vectors do not depend: a temperature, the pooler of a BERT."""
    tower.requires_grad_(True)
    tower(tower.blank()).sum().backward()
    unused = {name for name, weight in tower.named_parameters() if weight.grad is None}
    tower.zero_grad()
    return unused


def _add_updates(tower: ImageTower | TextTower, tuning: Tuning, unused: set[str]) -> None:
    """Low-rank updates beside the layers that are asked for, in place."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            f"model.image or model.text 'lora' needs peft ({error}): pip install 'truepair[finetune]'"
        ) from error
    side = "text" if isinstance(tower, TextTower) else "image"
    chosen = _layers_to_update(tower, tuning.targets, unused, side)
    config = LoraConfig(r=tuning.rank, lora_alpha=2 * tuning.rank, target_modules=chosen)
    try:
        inject_adapter_in_model(config, tower)
    except Exception as error:  # peft raises what the layers' own classes raise
        raise ConfigError(
            f"peft cannot update {len(chosen)} layers of the network, such as {chosen[0]} ({said_by(error)}): name "
            "others in model.lora_targets"
        ) from error


def _layers_to_update(tower: nn.Module, targets: Sequence[str], unused: set[str], side: str) -> list[str]:
    """Names of the layers that end with a target; without targets, of the linear layers of the blocks."""
    used = {name: module for name, module in tower.named_modules() if f"{name}.weight" not in unused}
    layers = {name: module for name, module in used.items() if isinstance(module, nn.Linear | nn.Conv2d)}
    if targets:
        chosen = [name for name in layers if any(f".{name}".endswith(f".{target}") for target in targets)]
    else:
        chosen = _linear_layers(layers, f"{_blocks(tower)}.")
    if not chosen:
        there = sorted({name.rpartition(".")[2] for name in layers})
        raise ConfigError(
            f"model.lora_targets is {', '.join(targets) or 'empty'}, but no layer of model.{side}'s network has "
            f"such a name; there are {', '.join(there)}"
        )
    return chosen


def _linear_layers(layers: Mapping[str, nn.Module], inside: str) -> list[str]:
    """Linear layers of the blocks; of networks without, convolutions that look at one position."""
    linear = [name for name, layer in layers.items() if name.startswith(inside) and isinstance(layer, nn.Linear)]
    return linear or [
        name
        for name, layer in layers.items()
        if name.startswith(inside) and isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
    ]


def _blocks(tower: nn.Module) -> str:
    """The name of the network's list of blocks, the longest there is."""
    lists = {name: len(module) for name, module in tower.named_modules() if isinstance(module, nn.ModuleList)}
    return max(lists, key=lambda name: lists[name], default="")


def _depths(tower: nn.Module) -> dict[str, int]:
    """How deep each parameter lies: 0 before the blocks, then the number of the block, counted from 1, then behind."""
    block = re.compile(rf"{re.escape(_blocks(tower))}\.(\d+)\.")
    depths: dict[str, int] = {}
    depth = 0
    for name, _ in tower.named_parameters():
        found = block.match(name)
        if found:
            depth = int(found[1]) + 1
        depths[name] = depth if found or not depth else -1
    behind = max(depths.values(), default=0) + 1
    return {name: behind if depth < 0 else depth for name, depth in depths.items()}


def _refuse_other_weights(encoder: TowerEncoder, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """A state beside other frozen weights than it was learned with would give other vectors without a word."""
    saved = state.get(f"{prefix}number")
    if saved is not None and int(saved) != int(encoder.number):
        errors = rest[4]  # behind metadata, strict, missing and unexpected keys
        errors.append("the pretrained network has other weights than when this was learned: restore it")


def _drop_frozen(
    tower: nn.Module, state: dict[str, Any], prefix: str, metadata: Any, *, frozen: frozenset[str]
) -> None:
    """What is not trained is left out of a state."""
    for name in frozen:
        state.pop(f"{prefix}{name}", None)


def _add_frozen(tower: nn.Module, state: dict[str, Any], prefix: str, *rest: Any, frozen: frozenset[str]) -> None:
    """What was left out of a state is what the network has already."""
    for name, value in (*tower.named_parameters(), *tower.named_buffers()):
        if name in frozen:
            state.setdefault(f"{prefix}{name}", value.detach())
