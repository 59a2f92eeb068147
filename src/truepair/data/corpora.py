"""From a `DataConfig` to a corpus, ready for the encoders: the demo, a table, or a published corpus as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from truepair.config import DataConfig, ModelConfig, Recipe, SourceConfig
from truepair.data.embeddings import is_embeddings, load_embeddings_splits, most_pixels_of, stored_source
from truepair.data.flickr8k import listed_pairs, split_lists
from truepair.data.pairs import Pairs, Splits, Subset
from truepair.data.pixels import Pixels, with_pixels
from truepair.data.precomputed import is_precomputed, load_precomputed_splits
from truepair.data.source_pairs import FeatureFiles, SourcePairs, first_captions, pairs_of
from truepair.data.splitting import pairs_and_their_images, randomly_split, split_by_name
from truepair.data.streaming import index_of_source, searchable, streamed_pairs
from truepair.data.text import Vocabulary, check_vocabulary, load_vocabulary, tokenised, with_tokens
from truepair.errors import ConfigError, DataError
from truepair.pretrained.captions import CaptionReader
from truepair.pretrained.pictures import PictureReader, picture_reader
from truepair.sources.demo import DEMO, DEMO_OPTIONS, demo_source
from truepair.sources.first_look import look_first
from truepair.sources.opening import description_of, open_source
from truepair.sources.protocol import Skipped, Source
from truepair.sources.stores import StorePath
from truepair.sources.tables import TableSource

_DEVELOPMENT_IMAGES = {"first_1000_images": 1000}
"""Development images that the released code of DECL and CRCL evaluates: those of the first 5,000 captions."""

_THE_DEMO, _REGIONS, _EMBEDDINGS, _SOURCE = (
    "the demo",
    "a folder of region features",
    "a folder of embeddings",
    "pictures with captions",
)
_PATCHES = (
    "images are read as 6 × 6 patches of their pixels, from which little can be learned: 'truepair embed' makes "
    "features by pretrained networks, on which an audit finds far more and a model retrieves far better"
)
_READ_BY = {
    "source": (_SOURCE,),
    "captions_per_image": (_REGIONS, _SOURCE),
    "test_split": (_REGIONS,),
    "development": (_REGIONS, _SOURCE),
    **dict.fromkeys(("image_features", "caption_features"), (_SOURCE,)),
    **dict.fromkeys(("development_share", "test_share", "split_seed", "stream_index"), (_EMBEDDINGS, _SOURCE)),
}
"""Options of `DataConfig` that only some kinds of corpus read, and which."""


@dataclass(frozen=True)
class Corpus:
    """A corpus with inputs for both encoders.

    Attributes:
        splits: Training, development and test pairs; all have `caption_inputs`.
        vocabulary: What made the tokens; None where captions have feature vectors, or a pretrained network reads them.
        skipped: What was left out because it cannot be read, or has no caption.
        notes: What a reader of results must know of how the corpus was read, in sentences.
        source: How the pictures and captions are opened again (see `sources.opening.description_of`); None for features
            without a source.
        readers: See `ModelConfig.readers`: for which networks the inputs are.
    """

    splits: Splits
    vocabulary: Vocabulary | None
    skipped: list[Skipped]
    notes: tuple[str, ...] = ()
    source: Mapping[str, Any] | None = None
    readers: tuple[str | None, str | None] = (None, None)


def load_corpus(config: DataConfig, model: ModelConfig = ModelConfig()) -> Corpus:  # noqa: B008, it is frozen
    """Read what `config` names.

    Args:
        config: Where the pairs are.
        model: What will read them: pretrained networks read pixels of pictures and tokens of captions.

    Raises:
        ConfigError: If the path does not exist or holds no corpus, an option has no meaning for it, caption features
            are asked for that are not there, or a vocabulary is given that they leave without use.
        DataError: If something is wrong with the files, or a vocabulary file does not fit the captions.
    """
    skipped: list[Skipped] = []
    notes: list[str] = []
    reader = None if model.image == "features" else picture_reader(model.image_encoder)
    splits, source = _splits(config, skipped, notes, reader)
    if reader is not None:
        splits = _with_pixels(splits, reader, config)
    if config.development != "all":
        splits = replace(splits, dev=_first_images(splits.dev, config.development, notes))
    if model.text != "features":
        splits = _with_tokens(splits, config, model, notes)
        return Corpus(splits, None, skipped, tuple(notes), source, model.readers)
    has_features = splits.train.caption_inputs is not None
    if config.text in ("features", "both") and not has_features:
        raise ConfigError(
            f"data.text is {config.text!r}, but {splits.name} has no caption features: name data.caption_features, or "
            "a table's --caption-feature-col, or use 'words'"
        )
    reads_words = _reads_words(config, splits.train.has_texts)
    vocabulary = None
    if reads_words:
        splits, vocabulary = _with_words(splits, config, notes)
    return Corpus(splits, vocabulary, skipped, tuple(notes), source, model.readers)


def corpora_one_by_one() -> Callable[[Recipe], Corpus]:
    """The corpora of recipes, read for their networks; the last one is kept for the next that reads the same of it."""
    last: list[Any] = [None, None]

    def corpus_of(recipe: Recipe) -> Corpus:
        key = recipe.data, recipe.model.readers
        if last[0] != key:
            last[:] = None, None  # never two in memory
            last[:] = key, load_corpus(recipe.data, recipe.model)
        corpus: Corpus = last[1]
        return corpus

    return corpus_of


def _reads_words(config: DataConfig, has_texts: bool) -> bool:
    """Whether captions are read as words: not where their texts are unknown."""
    if config.text in ("words", "both") and not has_texts:
        raise ConfigError(
            f"data.text is {config.text!r}, but {config.path} has no texts: write captions.txt, one caption a line, or "
            "use 'features'"
        )
    reads_words = config.text != "features" and has_texts
    if config.vocabulary is not None and not reads_words:
        why = "data.text is 'features'" if has_texts else f"{config.path} has no captions.txt"
        raise ConfigError(
            f"data.vocabulary is {config.vocabulary!r}, but {why}, so that no words are read: set data.text to 'words' "
            "or 'both', or leave the vocabulary out"
        )
    return reads_words


def reads_patches(config: DataConfig) -> bool:
    """Whether images would be read as patches of their pixels: pictures that have no features, but for the demo's.

    Raises:
        ConfigError: If the path does not exist.
    """
    path = Path(config.path)
    has_features = config.image_features is not None or config.source.image_feature_col is not None
    return not (config.path == DEMO or has_features or is_precomputed(path) or is_embeddings(path))


def _splits(
    config: DataConfig, skipped: list[Skipped], notes: list[str], reader: PictureReader | None
) -> tuple[Splits, Mapping[str, Any] | None]:
    """The corpus as it is stored, and how its source is opened again; which kind it is, its path tells."""
    if config.path == DEMO:
        _refuse_unread(config, _THE_DEMO)
        demo = demo_source()
        found = pairs_of(demo, DEMO_OPTIONS)
        splits = split_by_name(found.pairs, found.known_splits or [], DEMO)
        return splits, description_of(demo, DEMO, DEMO_OPTIONS)
    path = Path(config.path)
    if is_precomputed(path):
        _refuse_unread(config, _REGIONS)
        names = ("train", "dev", config.test_split)
        return load_precomputed_splits(path, captions_per_image=config.captions_per_image, names=names), None
    if is_embeddings(path):
        _refuse_unread(config, _EMBEDDINGS)
        splits = load_embeddings_splits(
            path,
            development_share=config.development_share,
            test_share=config.test_share,
            seed=config.split_seed,
            notes=notes,
            stream_index=None if config.stream_index is None else Path(config.stream_index),
        )
        return splits, stored_source(path)
    source = open_source(config.path, config.source)
    _refuse_unread(config, _SOURCE)
    notes += source.notes
    if config.stream_index is not None:
        return _streamed(source, config, skipped, notes, reader)
    found = pairs_of(source, config.source, _feature_files(config), reader)
    if reads_patches(config) and reader is None:
        notes.append(_PATCHES)
    if config.captions_per_image is not None:
        found = first_captions(found, config.captions_per_image)
    skipped += found.skipped
    images = [picture.image_id for picture in source.pictures()] if isinstance(source, TableSource) else None
    splits = _split(found, images or found.pairs.image_ids, source.path, config, notes)
    return splits, description_of(source, config.path, config.source)


def _streamed(
    source: Source, config: DataConfig, skipped: list[Skipped], notes: list[str], reader: PictureReader | None
) -> tuple[Splits, Mapping[str, Any]]:
    """As `_splits`, of a source whose names and captions stay on disk, in ``config.stream_index``."""
    columns = (config.source.image_feature_col, config.source.caption_feature_col)
    features = (config.image_features, config.caption_features, *columns)
    if reader is None or any(features) or config.captions_per_image is not None:
        raise ConfigError(
            "data.stream_index is for pictures that a pretrained network reads (set model.image to 'full', 'lora' or "
            "'frozen'), with all of their captions and without features of their own; or for a folder of 'truepair "
            "embed'"
        )
    look_first(source, config.source.largest_pixels)
    description = description_of(source, config.path, config.source)
    index = index_of_source(source, description, Path(config.stream_index or ""))
    pairs = streamed_pairs(index, source, reader, config.source.largest_pixels)
    found = SourcePairs(pairs, index.splits, index.skipped)
    splits, lost = searchable(_split(found, pairs.image_ids, source.path, config, notes))
    skipped += [*index.skipped, *lost]
    return splits, description


def _feature_files(config: DataConfig) -> FeatureFiles:
    paths = (config.image_features, config.caption_features)
    return FeatureFiles(*(None if path is None else Path(path) for path in paths))


def _split(
    found: SourcePairs, images: Sequence[str], path: Path | StorePath, config: DataConfig, notes: list[str]
) -> Splits:
    """By the source's own splits, by the lists of Flickr8K beside it, or at random by image.

    Args:
        found: The pairs.
        images: All images of the source, also those that could not be read.
        path: What was opened.
        config: How to split.
        notes: Sentences are added.
    """
    pairs = found.pairs
    name = path.name if path.is_dir() else path.name.split(".")[0]
    lists = split_lists(path if path.is_dir() else path.parent)
    if lists is not None:
        return split_by_name(*listed_pairs(pairs, images, lists, notes, path), name)
    known = found.known_splits
    if known is not None and config.source.split_col is None and set(known) != {"train", "dev", "test"}:
        said = " and ".join(sorted(set(known)))
        notes.append(f"{path} has the split {said} only, so that pairs are split at random, by image")
        known = None
    if known is None:
        return randomly_split(pairs, config.development_share, config.test_share, config.split_seed, name)
    return split_by_name(pairs, known, name)


def _refuse_unread(config: DataConfig, kind: str) -> None:
    """Refuse options that only other kinds of corpus read: here they would be passed over in silence."""
    unset = DataConfig()
    for name, kinds in _READ_BY.items():
        value = getattr(config, name)
        if kind not in kinds and value != getattr(unset, name):
            told = f"data.{name} is {value!r}"
            if isinstance(value, SourceConfig):
                first = value.changed[0]
                told = f"--{first.replace('_', '-')} is {getattr(value, first)!r}"
            raise ConfigError(
                f"{told}, which has no meaning for {config.path!r}, {kind}: leave it out (it is for {', '.join(kinds)})"
            )


def refuse_unread_once_embedded(config: DataConfig, text_encoder: str) -> None:
    """Before pictures are embedded: refuse options that mean nothing for embeddings.

    Args:
        config: Of the pictures.
        text_encoder: What will embed the captions; "none" if nothing does.

    Raises:
        ConfigError: If there is one.
    """
    unset = DataConfig()
    names = [name for name, kinds in _READ_BY.items() if name != "source" and _EMBEDDINGS not in kinds]
    told = [
        f"data.{name} is {getattr(config, name)!r}" for name in names if getattr(config, name) != getattr(unset, name)
    ]
    if config.source.caption_feature_col is not None:
        told.append(f"caption_feature_col is {config.source.caption_feature_col!r}")
    if text_encoder == "none" and config.text in ("features", "both"):
        told.append(f"data.text is {config.text!r}, but captions get no features (text_encoder 'none')")
    if told:
        raise ConfigError(
            f"{told[0]}, which has no meaning once pictures and captions are embedded: leave it out, or do without "
            "embeddings (--patches)"
        )


def _first_images(dev: Pairs, development: str, notes: list[str]) -> Pairs:
    """The pairs of the first images, and those images only, so that the rest is not searched either."""
    count = _DEVELOPMENT_IMAGES[development]
    if len(dev.images) < count:
        notes.append(f"data.development is {development!r}, but there are only {len(dev.images):,}: all are used")
        return dev
    return pairs_and_their_images(dev, (dev.image_of_caption < count).nonzero().flatten().tolist())


def _with_pixels(splits: Splits, reader: PictureReader, config: DataConfig) -> Splits:
    """Pixels in place of features, if the pictures are known."""
    given = config.image_features or config.source.image_feature_col
    if given is not None:
        raise ConfigError(f"image features ({given}) are named, but model.image is to read pixels: leave them out")
    path = Path(config.path)
    most = most_pixels_of(path) if is_embeddings(path) else config.source.largest_pixels
    train, dev, test = (
        pairs if _reads_pixels(pairs) else with_pixels(pairs, reader, most, splits.name)
        for pairs in (splits.train, splits.dev, splits.test)
    )
    return replace(splits, train=train, dev=dev, test=test)


def _reads_pixels(pairs: Pairs) -> bool:
    inputs = pairs.images
    while isinstance(inputs, Subset):
        inputs = inputs.inputs
    return isinstance(inputs, Pixels)


def _with_tokens(splits: Splits, config: DataConfig, model: ModelConfig, notes: list[str]) -> Splits:
    """Tokens of the pretrained network that reads the captions, in place of words and features."""
    told = [f"data.text is {config.text!r}"] if config.text != "auto" else []
    told += [f"data.vocabulary is {config.vocabulary!r}"] if config.vocabulary is not None else []
    features = config.caption_features or config.source.caption_feature_col
    told += [f"caption features ({features}) are named"] if features is not None else []
    if told:
        raise ConfigError(f"{told[0]}, but model.text {model.text!r} reads tokens of its own: leave it out")
    reader = CaptionReader(model.text_encoder)
    train, dev, test = (with_tokens(pairs, reader, config.path) for pairs in (splits.train, splits.dev, splits.test))
    cut = train.cut + dev.cut + test.cut
    if cut:
        notes.append(f"{cut:,} captions are longer than {reader.maximum_tokens} tokens and were cut")
    return replace(splits, train=train.pairs, dev=dev.pairs, test=test.pairs)


def _with_words(splits: Splits, config: DataConfig, notes: list[str]) -> tuple[Splits, Vocabulary | None]:
    """Tokens for the text encoder, beside caption features where these are to be read too; and the vocabulary."""
    given = config.vocabulary
    if given is None:
        try:
            vocabulary = Vocabulary.build(splits.train.captions, minimum_count=config.minimum_word_count)
        except DataError as error:
            if config.text != "auto" or splits.train.caption_inputs is None:
                raise
            notes.append(f"captions are read as vectors alone: {error}")
            return splits, None
    else:
        vocabulary = load_vocabulary(Path(given))
    train, dev, test = (
        tokenised(pairs, vocabulary, beside_features=config.text != "words")
        for pairs in (splits.train, splits.dev, splits.test)
    )
    if given is not None:
        limit = config.maximum_unknown_share
        share = check_vocabulary(vocabulary, train.captions, maximum_unknown_share=limit, name=given)
        notes.append(f"{given} does not know {share:.2%} of the words in the training captions")
    return replace(splits, train=train, dev=dev, test=test), vocabulary
