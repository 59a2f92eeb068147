"""From a `DataConfig` to a corpus: the demo, a table or a folder of region features, ready for the encoders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from truepair.config import DataConfig
from truepair.data.demo import load_demo
from truepair.data.features import check_same_width
from truepair.data.pairs import Splits
from truepair.data.precomputed import load_precomputed_splits
from truepair.data.tables import SkippedRow, load_table_splits
from truepair.data.text import Vocabulary, load_vocabulary, tokenised
from truepair.errors import ConfigError


@dataclass(frozen=True)
class Corpus:
    """A corpus with inputs for both encoders.

    Attributes:
        splits: Training, development and test pairs; all have `caption_inputs`.
        vocabulary: What made the tokens; None where captions have feature vectors.
        skipped: Rows that were left out because their picture cannot be read.
    """

    splits: Splits
    vocabulary: Vocabulary | None
    skipped: list[SkippedRow]


def load_corpus(config: DataConfig) -> Corpus:
    """Read what `config` names.

    Raises:
        ConfigError: If the path does not exist, or caption features are asked for that are not there.
        DataError: If something is wrong with the files.
    """
    if config.path == "demo":
        return _with_text(load_demo(), config, [])
    path = Path(config.path)
    if path.is_dir():
        if config.text == "features":
            raise ConfigError(f"data.text is 'features', but {path} holds captions only: use 'words'")
        splits, vocabulary = load_precomputed_splits(
            path,
            captions_per_image=config.captions_per_image,
            vocabulary=None if config.vocabulary is None else Path(config.vocabulary),
            minimum_count=config.minimum_word_count,
        )
        return Corpus(splits, vocabulary, [])
    if not path.exists():
        raise ConfigError(
            f"data.path {config.path!r} does not exist: give 'demo', a table (.csv, .tsv, .jsonl, .parquet) or a folder"
        )
    skipped: list[SkippedRow] = []
    table = load_table_splits(
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
    return _with_text(table, config, skipped)


def _with_text(splits: Splits, config: DataConfig, skipped: list[SkippedRow]) -> Corpus:
    """Tokens for the text encoder, unless caption features are there and wanted."""
    has_features = splits.train.caption_inputs is not None
    if config.text == "features" and not has_features:
        raise ConfigError(
            f"data.text is 'features', but {splits.name} has none: name data.columns.caption_feature or "
            "data.caption_features, or use 'words'"
        )
    vocabulary = None
    if config.text == "words" or not has_features:
        vocabulary = (
            Vocabulary.build(splits.train.captions, minimum_count=config.minimum_word_count)
            if config.vocabulary is None
            else load_vocabulary(Path(config.vocabulary))
        )
        train, dev, test = (tokenised(pairs, vocabulary) for pairs in (splits.train, splits.dev, splits.test))
        splits = replace(splits, train=train, dev=dev, test=test)
    check_same_width({"train": splits.train, "dev": splits.dev, "test": splits.test})
    return Corpus(splits, vocabulary, skipped)
