"""What a run gives to other tools: on each side pretrained networks, and the heads that read their vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from truepair.config import ModelConfig, Recipe
from truepair.config.embedding import OPEN_CLIP, ST
from truepair.data.batch import Padded
from truepair.embedding.own_encoders import registered
from truepair.encoders.codes import SharedEncoder
from truepair.encoders.finetuning import TowerEncoder
from truepair.encoders.projection import VectorEncoder
from truepair.encoders.towers import (
    ImageTower,
    TextTower,
    load_image_tower,
    load_text_tower,
    refuse_other_weights,
    sum_of_bits,
)
from truepair.errors import CheckpointError, ConfigError
from truepair.model import MatchingModel
from truepair.search.spaces import Encoded, encoders_of
from truepair.similarity.cosine import CosineSimilarity
from truepair.similarity.local import LocalSimilarity
from truepair.sources.demo import DEMO
from truepair.training.folder import load_models
from truepair.training.results import RunResults, read_results


class Part(nn.Module):
    """A pretrained network and the heads that read its vectors: several, if it is frozen and a run has several models.

    Attributes:
        tower: Pixels or token ids → ``[items, width]``.
        heads: Encoders of vectors, each → ``[items, embedding]``, of length 1.
    """

    def __init__(self, tower: ImageTower | TextTower, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tower = tower
        self.heads = nn.ModuleList(heads)

    def forward(self, items: Padded) -> list[Float[Tensor, "items embedding"]]:
        """The vectors that each head makes."""
        vectors = self.tower(items)
        return [head(Padded(vectors)).values for head in self.heads]


class Side(nn.Module):
    """Pixels or token ids → unit vectors, whose products with those of the other side are the run's similarities.

    The vectors of several heads stand side by side, divided by the root of their number, so that the product is the
    mean of the cosines.

    Args:
        name: Of the pretrained network, as `embed` names it.
        parts: In the order of the run's models.
    """

    def __init__(self, name: str, parts: Sequence[Part]) -> None:
        super().__init__()
        self.name = name
        self.parts = nn.ModuleList(parts)

    @property
    def heads(self) -> int:
        """How many there are, over all parts."""
        return sum(len(part.heads) for part in self.networks)

    @property
    def networks(self) -> list[Part]:
        """The parts, by what they are."""
        return [part for part in self.parts if isinstance(part, Part)]

    def forward(self, items: Padded) -> Float[Tensor, "items dim"]:
        """The vectors of all heads together."""
        vectors = [made for part in self.parts for made in part(items)]
        together: Tensor = torch.cat(vectors, 1) / len(vectors) ** 0.5
        return together


@dataclass(frozen=True, eq=False)
class Exportable:
    """A finished run as other tools can have it.

    Attributes:
        folder: The run.
        recipe: What it did.
        results: What it came to.
        image: What encodes pictures.
        text: What encodes captions.
        has_updates: Whether a network has low-rank updates that are still beside its weights.
    """

    folder: Path
    recipe: Recipe
    results: RunResults
    image: Side
    text: Side
    has_updates: bool

    def side(self, name: str) -> Side:
        """One side, "image" or "text"."""
        return self.image if name == "image" else self.text


def exportable(folder: Path) -> Exportable:
    """What a run gives to other tools, on the CPU, in evaluation mode.

    Args:
        folder: The run.

    Raises:
        CheckpointError: If it holds no finished run.
        ConfigError: If the run reads what other tools do not have, or compares otherwise than by a cosine; or if a
            pretrained network cannot be loaded.
    """
    results = read_results(folder)
    run = load_models(folder)
    if results is None:
        raise CheckpointError(f"the run in {folder} has not finished: resume it with 'truepair train'")
    reads = run.recipe.network
    _refuse_similarity(folder, run.models)
    by = Encoded(None, None)
    if "features" in (reads.image, reads.text):
        _refuse_missing_data(folder, run.recipe.data.path)
        by = encoders_of(run.recipe.data)
    _refuse_images(folder, reads, by)
    _refuse_captions(folder, reads, by, has_words=run.vocabulary is not None)
    image_name, text_name = (reader or made for reader, made in zip(reads.readers, (by.image, by.text), strict=True))
    assert image_name is not None
    assert text_name is not None
    return Exportable(
        folder,
        run.recipe,
        results,
        _side([model.image_encoder for model in run.models], image_name, load_image_tower, by.image_weights),
        _side([model.text_encoder for model in run.models], text_name, load_text_tower, by.text_weights),
        "lora" in (reads.image, reads.text),
    )


def merge_updates(model: Exportable) -> None:
    """Add low-rank updates to the weights that they are of, in place; the networks are then those of transformers."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # it is there: the run could be read

    for network in (part.tower for side in (model.image, model.text) for part in side.networks):
        for name, layer in [*network.named_modules()]:
            if isinstance(layer, BaseTunerLayer):
                layer.merge(safe_merge=True)
                owner, _, last = name.rpartition(".")
                setattr(network.get_submodule(owner), last, layer.get_base_layer())


def _side(
    encoders: Sequence[nn.Module], name: str, load: Callable[[str], ImageTower | TextTower], weights: int | None
) -> Side:
    """The networks and heads of one side; frozen ones are the same for all models.

    Args:
        encoders: Of each model.
        name: Of the pretrained network.
        load: Loads it.
        weights: `sum_of_bits` of the network that made the features that the run read, where it is known.
    """
    backbones = [encoder.backbone if isinstance(encoder, SharedEncoder) else encoder for encoder in encoders]
    heads = [_head(encoder, backbone) for encoder, backbone in zip(encoders, backbones, strict=True)]
    towers = [backbone for backbone in backbones if isinstance(backbone, TowerEncoder)]
    if towers and towers[0].tuning.how != "frozen":
        return Side(name, [Part(tower.network, [head]) for tower, head in zip(towers, heads, strict=True)]).eval()
    network = towers[0].network if towers else load(name)
    if not towers:
        refuse_other_weights(name, weights, sum_of_bits(network))
    _refuse_other_width(heads[0], network.width, name)
    return Side(name, [Part(network, heads)]).eval()


def _head(encoder: nn.Module, backbone: nn.Module) -> nn.Module:
    """What of an encoder reads the vectors of the pretrained network."""
    vectors = backbone.head if isinstance(backbone, TowerEncoder) else backbone
    return SharedEncoder(vectors, encoder.head) if isinstance(encoder, SharedEncoder) else vectors


def _refuse_similarity(folder: Path, models: Sequence[MatchingModel]) -> None:
    for similarity in (model.similarity for model in models):
        if isinstance(similarity, CosineSimilarity):
            continue
        how = "compares regions with words" if isinstance(similarity, LocalSimilarity) else "compares by a learned head"
        raise ConfigError(
            f"the run in {folder} {how}, so that no two vectors have its similarity as their product: train one with "
            "--model.similarity cosine and --model.head plain, by another method than mscn"
        )


def _refuse_missing_data(folder: Path, path: str) -> None:
    """Features say by which encoders they were made."""
    if path != DEMO and "://" not in path and not Path(path).exists():
        raise ConfigError(
            f"the run in {folder} was trained on {path}, which says what its encoders are and is not there: restore "
            "it, or run the command in the folder where the run was trained"
        )


def _refuse_images(folder: Path, reads: ModelConfig, by: Encoded) -> None:
    if reads.image != "features":
        return
    if by.image == "patches" or by.grid is not None:
        what = "patches of the pixels" if by.image == "patches" else f"{by.grid} × {by.grid} regions of each picture"
        raise ConfigError(
            f"the run in {folder} reads {what}, for which there is no encoder to export: train on what 'truepair "
            "embed' makes without --grid, or with --model.image frozen"
        )
    _refuse_unknown(folder, "image", by.image)


def _refuse_captions(folder: Path, reads: ModelConfig, by: Encoded, *, has_words: bool) -> None:
    if reads.text != "features":
        return
    if has_words:
        raise ConfigError(
            f"the run in {folder} reads captions as words of its own vocabulary, which no other tool does: train with "
            "--text features on what 'truepair embed' makes, or with --model.text frozen"
        )
    _refuse_unknown(folder, "caption", by.text)


def _refuse_unknown(folder: Path, what: str, name: str | None) -> None:
    """Only networks that can be loaded here and written again are exported."""
    if name is None:
        raise ConfigError(
            f"the run in {folder} reads {what} features whose encoder is not known: train on what 'truepair embed' "
            "makes"
        )
    if name.startswith((ST, OPEN_CLIP)) or registered(name) is not None:
        raise ConfigError(
            f"the run in {folder} reads {what} features of encoder {name!r}, which is of another library and is not "
            "written again: embed with efficientnet-lite0, minilm or a network of transformers"
        )


def _refuse_other_width(head: nn.Module, width: int, name: str) -> None:
    vectors = head.backbone if isinstance(head, SharedEncoder) else head
    assert isinstance(vectors, VectorEncoder)  # nothing else reads vectors and is compared by a cosine
    reads = next(layer.in_features for layer in vectors.modules() if isinstance(layer, nn.Linear))
    if reads != width:
        raise ConfigError(
            f"encoder {name!r} makes vectors of width {width}, but the run reads width {reads}: restore the encoder "
            "that the features were made by"
        )
