"""Pretrained networks that can be trained: pixels or token ids → the vectors that ``truepair embed`` keeps."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, normalize, pad
from torch.utils.checkpoint import checkpoint

from truepair.data.batch import Padded
from truepair.errors import ConfigError, said_by
from truepair.pretrained import lite0
from truepair.pretrained.captions import CaptionReader, is_sentence_encoder, text_folder
from truepair.pretrained.hub import load_network, refusing, sentence_pooling
from truepair.pretrained.pictures import HubReader, check_image_side


class Lite0Tower(nn.Module):
    """EfficientNet-Lite0: the mean of the last feature map.

    Attributes:
        width: Of a vector.
        is_positive: Whether no value is ever negative.
    """

    width = lite0.WIDTH
    is_positive = True

    def __init__(self) -> None:
        """Load it.

        Raises:
            ConfigError: If its packages are not installed.
        """
        super().__init__()
        self.network = lite0.published_network()
        self.network._fc = None  # the classifier is not needed
        for module in [*self.network.modules()]:
            for name, layer in module.named_children():
                if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                    setattr(module, name, _plain(layer))
        self.network.to(memory_format=torch.channels_last)  # a third faster on a CPU
        self.checkpoints = False

    def checkpoint_gradients(self) -> None:
        """Keep less for the backward pass, and compute the rest again there."""
        self.checkpoints = True

    def blank(self) -> Padded:
        """The smallest input."""
        return Padded(torch.zeros(1, 3, lite0.SIDE, lite0.SIDE))

    def forward(self, items: Padded) -> Float[Tensor, "items dim"]:
        """Pixels ``[images, 3, 224, 224]`` → vectors with values in [0, 6]."""
        network, pixels = self.network, items.values.contiguous(memory_format=torch.channels_last)
        maps = _clipped(_normalised(pixels, network._conv_stem, network._bn0))
        for number, block in enumerate(network._blocks):
            rate = network._global_params.drop_connect_rate * number / len(network._blocks)
            if self.checkpoints and torch.is_grad_enabled():
                maps = checkpoint(_inverted_residual, maps, block, rate, use_reentrant=False)
            else:
                maps = _inverted_residual(maps, block, rate)
        return _clipped(_normalised(maps, network._conv_head, network._bn1)).mean((2, 3))


def _inverted_residual(
    maps: Float[Tensor, "images channels rows columns"], block: Any, drop_rate: float
) -> Float[Tensor, "images out out_rows out_columns"]:
    """What a block computes; in training, each picture passes it by with the probability `drop_rate`."""
    inner = maps
    if block._block_args.expand_ratio != 1:
        inner = _clipped(_normalised(inner, block._expand_conv, block._bn0))
    inner = _clipped(_normalised(inner, block._depthwise_conv, block._bn1))
    inner = _normalised(inner, block._project_conv, block._bn2)
    if inner.shape != maps.shape:
        return inner
    if block.training and drop_rate:
        kept = torch.rand(len(maps), 1, 1, 1, dtype=maps.dtype, device=maps.device) >= drop_rate
        inner = inner * (kept.to(inner.dtype) / (1 - drop_rate))
    return maps + inner


def _normalised(maps: Tensor, layer: nn.Module, norm: nn.BatchNorm2d) -> Tensor:
    """A convolution, and the batch normalisation behind it by the statistics that it has: one convolution.

    The map between them need not be computed, nor kept for the backward pass.
    """
    if not isinstance(layer, nn.Conv2d):  # low-rank updates stand beside it
        normalised: Tensor = norm(layer(maps))
        return normalised
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight * (variance + norm.eps).rsqrt()
    weight, bias = layer.weight * scale[:, None, None, None], norm.bias - mean * scale
    left, right, top, bottom = getattr(getattr(layer, "static_padding", None), "padding", (0, 0, 0, 0))
    if (left, top) != (right, bottom):  # what a convolution cannot pad by itself
        maps, left, top = pad(maps, (left, right, top, bottom)), 0, 0
    return conv2d(maps, weight, bias, layer.stride, (top, left), groups=layer.groups)


class HubImageTower(nn.Module):
    """The image side of a network with ``get_image_features``: vectors of length 1, or a map of positions."""

    is_positive = False

    def __init__(self, name: str, reader: HubReader) -> None:
        """Load it.

        Args:
            name: A folder, or a name on the hub.
            reader: Of the same name.

        Raises:
            ConfigError: If it cannot be loaded, or makes no vector of a picture.
        """
        super().__init__()
        self.network = _without(load_network(name), ("text_model", "text_projection"))
        self._side, self._patch = reader.side, reader.patch
        with torch.no_grad(), refusing("image", name):
            self.width = _width(self._features(self.blank()), name, "image")

    def blank(self) -> Padded:
        """The smallest input."""
        return Padded(torch.zeros(1, 3, self._side, self._side))

    def forward(self, items: Padded) -> Float[Tensor, "items dim"]:
        """Pixels ``[images, 3, side, side]`` → vectors of length 1."""
        return normalize(self._features(items), dim=-1)

    def _features(self, items: Padded) -> Tensor:
        return _pooled(self.network.get_image_features(**self._inputs(items.values)))

    def maps(self, pixels: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images dim rows columns"]:
        """The states of the patches behind the last layer norm, each where its patch is.

        Raises:
            ConfigError: If the network has no patches in rows and columns.
        """
        tower = self.network.vision_model
        output = tower(**self._inputs(pixels))
        states: Tensor = output.last_hidden_state  # [images, tokens, dim], or a map already
        if states.dim() == 4:
            return states
        rows = int(states.shape[1] ** 0.5)
        if states.shape[1] == rows * rows + 1:  # the first stands for the whole
            is_normed = torch.allclose(states[:, 0], output.pooler_output, atol=1e-5)
            states = states[:, 1:] if is_normed else tower.post_layernorm(states[:, 1:])
        if states.shape[1] != rows * rows:
            raise ConfigError(f"the image encoder has {states.shape[1]} positions, which are no square: leave grid out")
        maps: Tensor = states.unflatten(1, (rows, rows)).permute(0, 3, 1, 2)
        return maps

    def checkpoint_gradients(self) -> None:
        """See `Lite0Tower.checkpoint_gradients`."""
        _checkpoint(self.network)

    def _inputs(self, pixels: Tensor) -> dict[str, Tensor]:
        if self._patch is None:
            return {"pixel_values": pixels}
        patch, (count, _, side, _) = self._patch, pixels.shape
        rows = side // patch
        tiles = pixels.unflatten(3, (rows, patch)).unflatten(2, (rows, patch))  # [images, 3, row, y, column, x]
        return {
            "pixel_values": tiles.permute(0, 2, 4, 3, 5, 1).reshape(count, rows * rows, patch * patch * 3),
            "pixel_attention_mask": pixels.new_ones(count, rows * rows, dtype=torch.long),
            "spatial_shapes": torch.full((count, 2), rows, device=pixels.device),
        }


class HubTextTower(nn.Module):
    """The text side of a network with ``get_text_features``: vectors of length 1."""

    def __init__(self, name: str, reader: CaptionReader) -> None:
        """Load it.

        Args:
            name: A folder, or a name on the hub.
            reader: Of the same name.

        Raises:
            ConfigError: If it cannot be loaded, or makes no vector of a caption.
        """
        super().__init__()
        self.network = _without(load_network(name), ("vision_model", "visual_projection"))
        self._sees_padding = reader.sees_padding
        self._shortest = reader(["a"])[0]
        with torch.no_grad(), refusing("text", name):
            self.width = _width(self._features(self.blank()), name, "text")

    def blank(self) -> Padded:
        """The smallest input."""
        return Padded(torch.tensor(self._shortest), torch.tensor([len(self._shortest[0])]))

    def forward(self, items: Padded) -> Float[Tensor, "items dim"]:
        """Token ids ``[captions, positions]`` → vectors of length 1."""
        return normalize(self._features(items), dim=-1)

    def _features(self, items: Padded) -> Tensor:
        mask = {} if self._sees_padding else {"attention_mask": items.mask.long()}
        return _pooled(self.network.get_text_features(input_ids=items.values, **mask))

    def checkpoint_gradients(self) -> None:
        """See `Lite0Tower.checkpoint_gradients`."""
        _checkpoint(self.network)


class SentenceTower(nn.Module):
    """BERT and its relatives (Reimers & Gurevych, EMNLP 2019): the mean of the tokens, or the first, of length 1."""

    def __init__(self, folder: str) -> None:
        """Load it.

        Args:
            folder: A folder, or a name on the hub.

        Raises:
            ConfigError: If it cannot be loaded, has a decoder, or pools its tokens in an unknown way.
        """
        super().__init__()
        self.pooling = sentence_pooling(folder)
        self.network = load_network(folder)
        config = self.network.config
        if config.is_encoder_decoder or not hasattr(config, "hidden_size"):
            raise ConfigError(
                f"text encoder {folder!r} is a {config.model_type}, no network that gives one state a token, as BERT "
                f"does: choose another, or embed with --text-encoder st:{folder} and train on the store"
            )
        self.width: int = config.hidden_size
        with torch.no_grad(), refusing("text", folder):
            self(self.blank())

    def blank(self) -> Padded:
        """The smallest input."""
        return Padded(torch.ones(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long))

    def forward(self, items: Padded) -> Float[Tensor, "items dim"]:
        """Token ids ``[captions, positions]`` → vectors of length 1."""
        mask = items.mask
        states: Tensor = self.network(input_ids=items.values, attention_mask=mask.long()).last_hidden_state
        if self.pooling == "cls":
            return normalize(states[:, 0], dim=-1)
        is_token = mask.unsqueeze(-1).to(states.dtype)
        return normalize((states * is_token).sum(1) / is_token.sum(1), dim=-1)

    def checkpoint_gradients(self) -> None:
        """See `Lite0Tower.checkpoint_gradients`."""
        _checkpoint(self.network)


ImageTower: TypeAlias = Lite0Tower | HubImageTower
TextTower: TypeAlias = HubTextTower | SentenceTower


def load_image_tower(name: str) -> ImageTower:
    """The network that ``embed --image-encoder`` calls by this name, on the CPU, in evaluation mode, frozen.

    Raises:
        ConfigError: If there is no such network, it has no image side, or a package is missing.
    """
    if name == lite0.NAME:
        return Lite0Tower().eval()
    check_image_side(name)
    return HubImageTower(name, HubReader(name)).eval()


def load_text_tower(name: str, reader: CaptionReader | None = None) -> TextTower:
    """The network that ``embed --text-encoder`` calls by this name, on the CPU, in evaluation mode, frozen.

    Args:
        name: "minilm", a folder, or a name on the hub.
        reader: Of the same name; loaded if it is not given.

    Raises:
        ConfigError: If there is no such network, a package is missing, or its tokenizer has more tokens than it knows.
    """
    reader = reader or CaptionReader(name)
    tower = (SentenceTower(text_folder(name)) if is_sentence_encoder(name) else HubTextTower(name, reader)).eval()
    try:
        with torch.no_grad():
            tower(Padded(torch.tensor([[reader.words - 1]]), torch.ones(1, dtype=torch.long)))
    except IndexError as error:
        raise ConfigError(
            f"text encoder {name!r} has a tokenizer of {reader.words:,} tokens, but its network knows fewer: put the "
            "tokenizer that belongs to it beside it"
        ) from error
    return tower


def sum_of_bits(network: nn.Module) -> int:
    """The sum of the bits of all weights that are not trained; integers, so that no order of adding changes it."""
    frozen = [weight.detach() for weight in network.parameters() if not weight.requires_grad]
    return int(torch.stack([weight.float().view(torch.int32).sum(dtype=torch.int64) for weight in frozen]).sum())


def refuse_other_weights(name: str, known: int | None, found: int | None) -> None:
    """Refuse an encoder whose vectors do not stand beside those that were made by it.

    Args:
        name: Of the encoder.
        known: `sum_of_bits` when the vectors were made; None where it was not noted.
        found: What it is now.

    Raises:
        ConfigError: If both are known and differ.
    """
    if known is not None and found is not None and known != found:
        raise ConfigError(
            f"encoder {name!r} has other weights than when the features were made: bring the former ones back, or make "
            "the features, and what was trained on them, again"
        )


class Towers:
    """Pretrained networks as encoders ask for them: a frozen one is loaded once and shared, a trained one is its own.

    All networks of a run stand on the same device, so that what they share can be moved by any of them.
    """

    def __init__(self) -> None:
        self._frozen_images, self._frozen_texts = cache(load_image_tower), cache(load_text_tower)

    def of_images(self, name: str, *, is_frozen: bool) -> ImageTower:
        """As `load_image_tower`."""
        return self._frozen_images(name) if is_frozen else load_image_tower(name)

    def of_texts(self, name: str, *, is_frozen: bool) -> TextTower:
        """As `load_text_tower`."""
        return self._frozen_texts(name) if is_frozen else load_text_tower(name)


def _clipped(maps: Tensor) -> Tensor:
    """ReLU6, in place."""
    return _Clip.apply(maps) if torch.is_grad_enabled() else maps.clamp_(0, 6)  # type: ignore[no-untyped-call]


class _Clip(torch.autograd.Function):
    """ReLU6 that keeps its output for the backward pass, as the next convolution does; PyTorch's keeps its input."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        clipped = values.clamp_(0, 6)
        ctx.mark_dirty(clipped)
        ctx.save_for_backward(clipped)
        return clipped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (clipped,) = ctx.saved_tensors  # at a bound where, and only where, the input was at or beyond it
        inner: Tensor = torch.ops.aten.hardtanh_backward(*gradients, clipped, 0, 6)
        return inner


def _plain(layer: nn.Conv2d) -> nn.Conv2d:
    """A convolution at single positions as PyTorch's own class, of which peft can make updates."""
    plain = nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=False)
    plain.weight = layer.weight
    return plain


def _without(network: Any, parts: tuple[str, ...]) -> Any:
    """The network without the parts of its other side, whose weights are not needed."""
    for part in parts:
        if hasattr(network, part):
            setattr(network, part, None)
    return network


def _pooled(output: Any) -> Tensor:
    """The vectors of what ``get_…_features`` gives: a tensor, or an output that holds it."""
    vectors: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return vectors


def _width(vectors: Tensor | None, name: str, side: str) -> int:
    if vectors is None or vectors.dim() != 2:
        shape = "nothing" if vectors is None else f"an array of shape {tuple(vectors.shape)}"
        raise ConfigError(f"{side} encoder {name!r} makes {shape} of one item, not one vector: choose another encoder")
    return vectors.shape[1]


def _checkpoint(network: Any) -> None:
    # transformers before 5.24 knows the second name only, later ones warn of it
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(
            f"model.gradient_checkpointing is on, but a network cannot do that ({said_by(error)})"
        ) from error
