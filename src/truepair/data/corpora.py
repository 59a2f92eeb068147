"""From a `DataConfig` to a corpus, ready for the encoders: the demo, a table, or a published corpus as it is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from truepair.config import DataConfig
from truepair.data.demo import load_demo
from truepair.data.features import check_same_form
from truepair.data.flickr8k import is_flickr8k, load_flickr8k
from truepair.data.karpathy import load_karpathy
from truepair.data.pairs import Pairs, Splits
from truepair.data.precomputed import is_precomputed, load_precomputed_splits
from truepair.data.splitting import pairs_and_their_images
from truepair.data.tables import SkippedRow, load_table_splits
from truepair.data.text import Vocabulary, check_vocabulary, load_vocabulary, tokenised
from truepair.errors import ConfigError

_DEVELOPMENT_IMAGES = {"first_1000_images": 1000}
"""Development images that the released code of NCR, DECL and CRCL evaluates: those of the first 5,000 captions."""


@dataclass(frozen=True)
class Corpus:
    """A corpus with inputs for both encoders.

    Attributes:
        splits: Training, development and test pairs; all have `caption_inputs`.
        vocabulary: What made the tokens; None where captions have feature vectors.
        skipped: Rows that were left out because their picture cannot be read.
        notes: What a reader of results must know of how the corpus was read, in sentences.
    """

    splits: Splits
    vocabulary: Vocabulary | None
    skipped: list[SkippedRow]
    notes: tuple[str, ...] = ()


def load_corpus(config: DataConfig) -> Corpus:
    """Read what `config` names.

    Raises:
        ConfigError: If the path does not exist or holds no corpus, an option has no meaning for it, or caption features
            are asked for that are not there.
        DataError: If something is wrong with the files, or a vocabulary file does not fit the captions.
    """
    skipped: list[SkippedRow] = []
    notes: list[str] = []
    splits = _splits(config, skipped)
    if config.development != "all":
        splits = replace(splits, dev=_first_images(splits.dev, config.development, notes))
    check_same_form({"train": splits.train, "dev": splits.dev, "test": splits.test})
    has_features = splits.train.caption_inputs is not None
    if config.text == "features" and not has_features:
        raise ConfigError(
            f"data.text is 'features', but {splits.name} has none: name data.caption_features, or a table's "
            "data.columns.caption_feature, or use 'words'"
        )
    vocabulary = None
    if config.text == "words" or not has_features:
        splits, vocabulary = _with_words(splits, config, notes)
    return Corpus(splits, vocabulary, skipped, tuple(notes))


def _splits(config: DataConfig, skipped: list[SkippedRow]) -> Splits:
    """The corpus as it is stored; which kind it is, its path tells."""
    if config.path == "demo":
        _refuse(config, "test_split", "development")
        return load_demo()
    path = Path(config.path)
    if not path.exists():
        raise ConfigError(
            f"data.path {config.path!r} does not exist: give 'demo', a table (.csv, .tsv, .jsonl, .parquet), a folder "
            "or a Karpathy split file (.json)"
        )
    if is_precomputed(path):
        return load_precomputed_splits(
            path, captions_per_image=config.captions_per_image, names=("train", "dev", config.test_split)
        )
    if is_flickr8k(path):
        _refuse(config, "test_split")
        return load_flickr8k(
            path,
            image_root=config.image_root,
            image_features=config.image_features,
            caption_features=config.caption_features,
            skipped=skipped,
            development_share=config.development_share,
            test_share=config.test_share,
            seed=config.split_seed,
        )
    if path.is_dir():
        raise ConfigError(
            f"data.path {config.path!r} is a folder without a corpus: it has neither train_ims.npy (region features) "
            "nor captions.txt or Flickr8k.token.txt (Flickr8K)"
        )
    if path.suffix.lower() == ".json":
        _refuse(config, "test_split")
        return load_karpathy(
            path,
            captions_per_image=config.captions_per_image,
            image_root=config.image_root,
            image_features=config.image_features,
            caption_features=config.caption_features,
            skipped=skipped,
        )
    _refuse(config, "test_split", "development")
    return load_table_splits(
        path,
        config.columns,
        image_root=config.image_root,
        image_features=config.image_features,
        caption_features=config.caption_features,
        skipped=skipped,
        development_share=config.development_share,
        test_share=config.test_share,
        seed=config.split_seed,
    )


def _refuse(config: DataConfig, *names: str) -> None:
    """Refuse options that say how published corpora are used, where they would be passed over."""
    for name in names:
        value, default = getattr(config, name), getattr(DataConfig, name)
        if value != default:
            raise ConfigError(
                f"data.{name} is {value!r}, which has no meaning for {config.path!r}: leave it at {default!r} (a table "
                "says in its split column which rows are for development and test)"
            )


def _first_images(dev: Pairs, development: str, notes: list[str]) -> Pairs:
    """The pairs of the first images, and those images only, so that the rest is not searched either."""
    count = _DEVELOPMENT_IMAGES[development]
    if len(dev.images) < count:
        notes.append(f"data.development is {development!r}, but there are only {len(dev.images):,}: all are used")
        return dev
    return pairs_and_their_images(dev, (dev.image_of_caption < count).nonzero().flatten().tolist())


def _with_words(splits: Splits, config: DataConfig, notes: list[str]) -> tuple[Splits, Vocabulary]:
    """Tokens for the text encoder, and the vocabulary that made them."""
    given = config.vocabulary
    if given is None:
        vocabulary = Vocabulary.build(splits.train.captions, minimum_count=config.minimum_word_count)
    else:
        vocabulary = load_vocabulary(Path(given))
    train, dev, test = (tokenised(pairs, vocabulary) for pairs in (splits.train, splits.dev, splits.test))
    if given is not None:
        limit = config.maximum_unknown_share
        share = check_vocabulary(vocabulary, train.captions, maximum_unknown_share=limit, name=given)
        notes.append(f"{given} does not know {share:.2%} of the words in the training captions")
    return replace(splits, train=train, dev=dev, test=test), vocabulary
