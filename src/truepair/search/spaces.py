"""The space that an index compares in: what encodes its pairs, and queries, in the same way.

Either a run's networks, or the untrained space that embeddings share (`audit.shared_space`), whose means over the
corpus lie beside ``index.json``.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from truepair.audit.shared_space import no_shared_space, shared_space
from truepair.config import DataConfig, EmbedConfig, ModelConfig
from truepair.data.batch import Padded, joined
from truepair.data.corpora import reads_patches
from truepair.data.features import Features
from truepair.data.pairs import Inputs, Pairs
from truepair.data.pictures import patches
from truepair.data.pixels import pixels_of
from truepair.data.text import Vocabulary, WordsAndVectors, tokens_of, words_of
from truepair.embedding.choosing import load_image_encoder, load_text_encoder
from truepair.embedding.class_space import ENCODERS
from truepair.embedding.image_encoders import ImageEncoder
from truepair.embedding.text_encoders import TextEncoder, encode_by_length
from truepair.encoders.shared_space import Centred, ClassesOfCaptions, ClassesOfImages, SharedVectors
from truepair.encoders.towers import refuse_other_weights
from truepair.encoders.words import WordsBesideVector
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.files.checkpoint import load_checkpoint, save_checkpoint
from truepair.files.json import read_json
from truepair.files.names import STORE
from truepair.layers import unit_length
from truepair.model import MatchingModel
from truepair.pretrained.captions import MINILM, CaptionReader
from truepair.pretrained.pictures import PictureReader, picture_reader
from truepair.scoring.encodings import are_local, evaluating, item_vectors
from truepair.similarity.cosine import CosineSimilarity
from truepair.sources.decoding import decoded, decoded_side
from truepair.sources.demo import DEMO
from truepair.training.device import make_fabric
from truepair.training.folder import load_models

SPACE = "space.safetensors"
_WEIGHTS = "best.safetensors"
_MOST_CHARACTERS = 20_000
"""A query is cut here before an encoder cuts it at its own number of tokens."""
_BATCH = 256
_NO_MATCH = (
    "this index was made of features whose encoder is not known, and cannot encode {what}: make it again with {flag}"
)


@dataclass(frozen=True)
class Encoded:
    """Which frozen encoders made what a space reads.

    Attributes:
        image: Name of the image encoder; "patches" for patches of the pixels, None where it is not known.
        text: Name of the text encoder; None where captions have no vectors, or it is not known.
        grid: Regions along a side; None for one vector an image.
        image_weights: `sum_of_bits` of the image encoder; None where it is not known.
        text_weights: That of the text encoder.
    """

    image: str | None
    text: str | None
    grid: int | None = None
    image_weights: int | None = None
    text_weights: int | None = None

    @property
    def names(self) -> tuple[str, str] | None:
        """As `shared_space` takes them."""
        return None if self.image is None or self.text is None else (self.image, self.text)

    @classmethod
    def of_features(cls, path: str | Path) -> Encoded:
        """What made the features at a path, as far as that is known."""
        if str(path) == DEMO:
            return cls(None, MINILM)  # its image features are a projection of EfficientNet-Lite0's
        described = read_json(Path(path) / STORE, holds={"image_encoder": {"name": str, "grid": int | None}})
        if described is None:
            return cls(None, None)
        image, text = described["image_encoder"], described.get("text_encoder") or {}
        return cls(image["name"], text.get("name"), image["grid"], image.get("weights"), text.get("weights"))


class Space:
    """Encodes pairs and queries.

    Attributes:
        models: Their similarities are averaged.
        description: What `opened_space` needs, in words that JSON knows.
        vocabulary: What makes tokens of captions; None where no words are read.
        by: What makes the vectors that the models read.
        reads: The models' own description, which names pretrained networks that read pixels or tokens, if there are.
    """

    def __init__(
        self,
        models: Sequence[MatchingModel],
        description: dict[str, Any],
        by: Encoded,
        vocabulary: Vocabulary | None = None,
        reads: ModelConfig = ModelConfig(),  # noqa: B008, it is frozen
    ) -> None:
        self.models = models
        self.description = description
        self.by = by
        self.vocabulary = vocabulary
        self.reads = reads

    @property
    def is_cosine(self) -> bool:
        """Whether the similarity is the product of the vectors; otherwise the models rank what the vectors find."""
        return all(isinstance(model.similarity, CosineSimilarity) for model in self.models)

    @property
    def is_local(self) -> bool:
        """Whether a score costs thousands of times as much as a product (SAF, SGR)."""
        return are_local(self.models)

    @property
    def reads_vectors_beside_words(self) -> bool:
        """Whether captions are read as words and as vectors."""
        parts = (part for model in self.models for part in model.text_encoder.modules())
        return any(isinstance(part, WordsBesideVector) for part in parts)

    @contextmanager
    def encoding_on(self, device: str) -> Iterator[None]:
        """Encode on a device meanwhile; everything else is done on the CPU.

        Args:
            device: "cpu", "cuda", "mps", or "auto" for a GPU if there is one.
        """
        where = make_fabric(device).device
        try:
            for model in self.models:
                model.to(where)
            yield
        finally:
            for model in self.models:
                model.to("cpu")

    def vectors_of_images(self, inputs: Inputs, rows: Tensor) -> Float[Tensor, "rows dim"]:
        """Unit vectors, whose products are the mean of the models' cosines."""
        return self.joined_vectors(self.encoded_images(inputs, rows))

    def vectors_of_captions(self, inputs: Inputs, rows: Tensor) -> Float[Tensor, "rows dim"]:
        """As `vectors_of_images`."""
        return self.joined_vectors(self.encoded_captions(inputs, rows))

    def encoded_images(self, inputs: Inputs, rows: Tensor) -> list[Padded]:
        """By each model."""
        return self._encoded([model.image_encoder for model in self.models], inputs, rows)

    def encoded_captions(self, inputs: Inputs, rows: Tensor) -> list[Padded]:
        """By each model."""
        return self._encoded([model.text_encoder for model in self.models], inputs, rows)

    @staticmethod
    def joined_vectors(encodings: Sequence[Padded]) -> Float[Tensor, "rows dim"]:
        """The models' vectors side by side."""
        vectors = [unit_length(item_vectors(each)) for each in encodings]
        together: Tensor = torch.cat(vectors, 1) / len(vectors) ** 0.5
        return together

    @torch.inference_mode()
    def _encoded(self, encoders: Sequence[nn.Module], inputs: Inputs, rows: Tensor) -> list[Padded]:
        weights = next(chain(self.models[0].parameters(), self.models[0].buffers()), None)
        device = torch.device("cpu") if weights is None else weights.device
        with evaluating(self.models):
            blocks = [inputs.take(some).to(device) for some in rows.split(_BATCH)]
            return [joined([encoder(block).to(torch.device("cpu")) for block in blocks]) for encoder in encoders]

    def inputs_of_texts(self, texts: Sequence[str], tell: Callable[[str], None]) -> Inputs:
        """What the models read of queries.

        Raises:
            ConfigError: If a query is empty, the encoder cannot be loaded, or is not known.
        """
        cut = [_checked_text(text, number, tell) for number, text in enumerate(texts, 1)]
        if self.reads.text != "features":
            tokens, were_cut = self._caption_reader(cut)
            _tell_cut(were_cut, len(cut), self._caption_reader.maximum_tokens, tell)
            return tokens_of(tokens)
        words = None if self.vocabulary is None else self.vocabulary.encode(cut, empty_allowed=True)
        if self.vocabulary is not None:
            _tell_unknown(cut, self.vocabulary, tell)
        if self.by.text is None:
            if words is None or self.reads_vectors_beside_words:
                raise ConfigError(_NO_MATCH.format(what="a text", flag="--text-encoder"))
            return words
        if self.by.text in (MINILM,):
            _tell_other_script(cut, self.by.text, tell)
        encoded = encode_by_length(self._text_encoder, cut, _BATCH)
        _tell_cut(encoded.cut, len(cut), self._text_encoder.description.maximum_tokens, tell)
        vectors = Features(encoded.features)
        return vectors if words is None else WordsAndVectors(words, vectors)

    def inputs_of_pictures(self, pictures: Sequence[bytes]) -> Inputs:
        """What the models read of encoded pictures.

        Raises:
            UnreadablePictureError: If one cannot be decoded.
            ConfigError: If the encoder cannot be loaded, or is not known.
        """
        if self.reads.image != "features":
            return pixels_of(pictures, self._picture_reader)
        if self.by.image is None:
            raise ConfigError(_NO_MATCH.format(what="a picture", flag="--image-encoder"))
        if self.by.image == "patches":
            return Features(np.stack([patches(data) for data in pictures]))
        encoder = self._image_encoder
        side = decoded_side(encoder.description.side)
        seen = (encoder.preprocess(decoded(data, side)) for data in pictures)
        return Features(np.concatenate([encoder.encode(values[None]) for values in seen]))

    @cached_property
    def _caption_reader(self) -> CaptionReader:
        return CaptionReader(self.reads.text_encoder)

    @cached_property
    def _picture_reader(self) -> PictureReader:
        return picture_reader(self.reads.image_encoder)

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        encoder = load_text_encoder(self.by.text or "none", torch.device("cpu"))
        assert encoder is not None
        refuse_other_weights(self.by.text or "", self.by.text_weights, encoder.description.weights)
        return encoder

    @cached_property
    def _image_encoder(self) -> ImageEncoder:
        encoder = load_image_encoder(self.by.image or "", grid=self.by.grid, device=torch.device("cpu"))
        refuse_other_weights(self.by.image or "", self.by.image_weights, encoder.description.weights)
        return encoder


def untrained_space(pairs: Pairs, by: Encoded, where: str) -> Space:
    """The space that the embeddings of some pairs share.

    Raises:
        ConfigError: If they share none.
    """
    inputs = pairs.caption_inputs
    reason = (
        "its captions have no vectors"
        if inputs is None or not _is_of_vectors(inputs)
        else no_shared_space(pairs, by.names)
    )
    if reason is not None:
        raise ConfigError(
            f"{where} cannot be searched without training ({reason.split(': leave')[0].split('; leave')[0]}): train a "
            f"run on it (truepair train {where} --out run/) and index that (truepair index run/ --out …)"
        )
    model = shared_space(pairs, by.names)
    description = {"kind": "shared", **asdict(by)}
    return Space([model], description, by)


def run_space(folder: Path, named: Mapping[str, str] = MappingProxyType({})) -> Space:
    """The space of a run, on the CPU.

    Args:
        folder: The run.
        named: The encoders, by side ("image", "text"), that the user names because its features do not say what made
            them.

    Raises:
        CheckpointError: If the folder holds no finished run.
        ConfigError: If the features do say what made them, or the run reads none of that side.
    """
    run = load_models(folder)
    data, reads = run.recipe.data, run.recipe.network
    by = encoders_of(data)
    by = replace(
        by,
        **({} if reads.image == "features" else {"image": None, "grid": None, "image_weights": None}),
        **({} if reads.text == "features" else {"text": None, "text_weights": None}),
    )
    description: dict[str, Any] = {"kind": "run", "folder": str(folder.resolve()), "sha256": _digest(folder / _WEIGHTS)}
    if named:
        description["named"] = dict(named)
    told = replace(by, image=named.get("image", by.image), text=named.get("text", by.text))
    space = Space(run.models, description, told, run.vocabulary, reads)
    _refuse_named(space, by, named, folder)
    return space


def _refuse_named(space: Space, by: Encoded, named: Mapping[str, str], folder: Path) -> None:
    reads_vectors = space.vocabulary is None or space.reads_vectors_beside_words
    reads = {"image": space.reads.image == "features", "text": space.reads.text == "features" and reads_vectors}
    for side, name in named.items():
        known = getattr(by, side)
        if known is not None or not reads[side]:
            said = f"reads {side} features of {known}" if reads[side] else f"reads no {side} features"
            raise ConfigError(f"--{side}-encoder is {name!r}, but {folder} {said}: leave it out")


def encoders_of(data: DataConfig) -> Encoded:
    """What made the features that a run reads, where it reads any."""
    by = Encoded("patches", None) if reads_patches(data) else Encoded.of_features(data.path)
    return replace(by, text=None, text_weights=None) if data.text == "words" else by


def save_space(space: Space, folder: Path) -> None:
    """Write an untrained space beside ``index.json``: means, and what makes classes of embeddings."""
    if space.description["kind"] != "shared":
        return
    save_checkpoint(folder / SPACE, {"weights": space.models[0].state_dict()})


def opened_space(description: dict[str, Any], folder: Path) -> Space:
    """The space of an index that was made before.

    Args:
        description: See `Space.description`.
        folder: The index.

    Raises:
        DataError: If the run that encodes was trained anew, or a file is damaged.
    """
    if description["kind"] == "run":
        run = Path(description["folder"])
        if not (run / _WEIGHTS).exists() or _digest(run / _WEIGHTS) != description["sha256"]:
            raise DataError(
                f"{folder} was made by the run in {run}, which is gone or was trained anew: restore it, or make the "
                f"index again in a new folder (truepair index {run} --out …)"
            )
        return run_space(run, description.get("named", {}))
    by = Encoded(**{field.name: description.get(field.name) for field in fields(Encoded)})
    try:
        weights = load_checkpoint(folder / SPACE)["weights"]
        model = _stored_model(weights, is_of_classes=by.names == ENCODERS)
    except (CheckpointError, KeyError, RuntimeError) as error:
        raise DataError(f"{folder / SPACE} cannot be read ({error}): copy the index again, or make it again") from error
    return Space([model], description, by)


def embed_config(space: Space) -> EmbedConfig:
    """The encoders of a space, to embed more pictures for it.

    Where a run's networks read pixels or tokens themselves, those that they began as, whose features nobody reads.

    Raises:
        ConfigError: If they are not known.
    """
    image = space.by.image if space.reads.image == "features" else space.reads.image_encoder
    text = space.by.text if space.reads.text == "features" else space.reads.text_encoder
    if image in (None, "patches"):
        raise ConfigError("this index reads images that no known encoder made: add a feature store that fits it")
    return EmbedConfig(image or "", text or "none", space.by.grid)


def _stored_model(weights: dict[str, Tensor], *, is_of_classes: bool) -> MatchingModel:
    """What `shared_space` made."""
    image: nn.Module = SharedVectors()
    caption: nn.Module = SharedVectors()
    if is_of_classes:
        image = ClassesOfImages(weights["image_encoder.encoder.weight"], weights["image_encoder.encoder.bias"])
        caption = ClassesOfCaptions(torch.zeros_like(weights["text_encoder.encoder.names"]))
    sides = (Centred(image, weights["image_encoder.mean"]), Centred(caption, weights["text_encoder.mean"]))
    model = MatchingModel(*sides, CosineSimilarity())
    model.load_state_dict(weights)
    return model.eval()


def _is_of_vectors(inputs: Inputs) -> bool:
    values = inputs.take(torch.tensor([0])).values
    return values.is_floating_point() and values.dim() == 2


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_text(text: str, number: int, tell: Callable[[str], None]) -> str:
    if not text.strip():
        raise ConfigError(f"query {number} is empty: give a text of at least one word")
    if len(text) > _MOST_CHARACTERS:
        tell(f"query {number} has {len(text):,} characters; the first {_MOST_CHARACTERS:,} are read")
    return text[:_MOST_CHARACTERS]


def _tell_cut(cut: int, queries: int, most: int | None, tell: Callable[[str], None]) -> None:
    if cut:
        tell(f"{cut:,} of {queries:,} queries are longer than the {most} tokens that are read, and were cut")


def _tell_unknown(texts: Sequence[str], vocabulary: Vocabulary, tell: Callable[[str], None]) -> None:
    for number, text in enumerate(texts, 1):
        words = [word for word in words_of(text) if word.isalnum()]
        unknown = [word for word in words if word not in vocabulary.id_of]
        if words and len(unknown) == len(words):
            tell(f"query {number}: the run knows none of its words ({', '.join(unknown[:5])}); hits say little")


def _tell_other_script(texts: Sequence[str], encoder: str, tell: Callable[[str], None]) -> None:
    for number, text in enumerate(texts, 1):
        letters = [letter for letter in text[:1000] if letter.isalpha()]
        latin = sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
        if letters and latin < len(letters) / 2:
            tell(f"query {number} is not in Latin script, which is all that {encoder} learned to read; hits say little")
