"""From a `DataConfig` to a corpus, ready for the encoders: the demo, a table, or a published corpus as it is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from truepair.config import DataConfig
from truepair.data.demo import load_demo
from truepair.data.embeddings import is_embeddings, load_embeddings_splits
from truepair.data.flickr8k import is_flickr8k, load_flickr8k
from truepair.data.karpathy import load_karpathy
from truepair.data.pairs import Pairs, Splits
from truepair.data.precomputed import is_precomputed, load_precomputed_splits
from truepair.data.splitting import pairs_and_their_images
from truepair.data.tables import SkippedRow, load_table_splits
from truepair.data.text import Vocabulary, check_vocabulary, load_vocabulary, tokenised
from truepair.errors import ConfigError

_DEVELOPMENT_IMAGES = {"first_1000_images": 1000}
"""Development images that the released code of DECL and CRCL evaluates: those of the first 5,000 captions."""

_DEMO, _REGIONS, _EMBEDDINGS, _FLICKR8K, _KARPATHY, _TABLE = (
    "the demo",
    "a folder of region features",
    "a folder of embeddings",
    "a folder of Flickr8K",
    "a Karpathy file",
    "a table",
)
_READ_BY = {
    "captions_per_image": (_REGIONS, _KARPATHY),
    "test_split": (_REGIONS,),
    "development": (_REGIONS, _FLICKR8K, _KARPATHY),
    "columns": (_TABLE,),
    **dict.fromkeys(("image_root", "image_features", "caption_features"), (_FLICKR8K, _KARPATHY, _TABLE)),
    **dict.fromkeys(("development_share", "test_share", "split_seed"), (_EMBEDDINGS, _FLICKR8K, _TABLE)),
}
"""Options of `DataConfig` that only some kinds of corpus read, and which."""


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
        ConfigError: If the path does not exist or holds no corpus, an option has no meaning for it, caption features
            are asked for that are not there, or a vocabulary is given that they leave without use.
        DataError: If something is wrong with the files, or a vocabulary file does not fit the captions.
    """
    skipped: list[SkippedRow] = []
    notes: list[str] = []
    splits = _splits(config, skipped, notes)
    if config.development != "all":
        splits = replace(splits, dev=_first_images(splits.dev, config.development, notes))
    has_features = splits.train.caption_inputs is not None
    reads_words = config.text == "words" or not has_features
    if config.text == "features" and not has_features:
        raise ConfigError(
            f"data.text is 'features', but {splits.name} has none: name data.caption_features, or a table's "
            "data.columns.caption_feature, or use 'words'"
        )
    if config.vocabulary is not None and not reads_words:
        raise ConfigError(
            f"data.vocabulary is {config.vocabulary!r}, but captions of {splits.name} have features, which are read "
            "instead of words: set data.text to 'words', or leave the vocabulary out"
        )
    vocabulary = None
    if reads_words:
        splits, vocabulary = _with_words(splits, config, notes)
    return Corpus(splits, vocabulary, skipped, tuple(notes))


def _splits(config: DataConfig, skipped: list[SkippedRow], notes: list[str]) -> Splits:
    """The corpus as it is stored; which kind it is, its path tells."""
    if config.path == "demo":
        _refuse_unread(config, _DEMO)
        return load_demo()
    path = Path(config.path)
    if not path.exists():
        raise ConfigError(
            f"data.path {config.path!r} does not exist: give 'demo', a table (.csv, .tsv, .jsonl, .parquet), a folder "
            "or a Karpathy split file (.json)"
        )
    if is_precomputed(path):
        _refuse_unread(config, _REGIONS)
        return load_precomputed_splits(
            path, captions_per_image=config.captions_per_image, names=("train", "dev", config.test_split)
        )
    if is_embeddings(path):
        _refuse_unread(config, _EMBEDDINGS)
        return load_embeddings_splits(
            path,
            development_share=config.development_share,
            test_share=config.test_share,
            seed=config.split_seed,
            notes=notes,
        )
    if is_flickr8k(path):
        _refuse_unread(config, _FLICKR8K)
        return load_flickr8k(
            path,
            image_root=config.image_root,
            image_features=config.image_features,
            caption_features=config.caption_features,
            skipped=skipped,
            notes=notes,
            development_share=config.development_share,
            test_share=config.test_share,
            seed=config.split_seed,
        )
    if path.is_dir():
        raise ConfigError(
            f"data.path {config.path!r} is a folder without a corpus: it has neither train_ims.npy (region features), "
            "nor embeddings.json, img_emb/ or images.npy and captions.npy (embeddings), nor captions.txt or "
            "Flickr8k.token.txt (Flickr8K); 'truepair embed' makes features of a folder of pictures"
        )
    if path.suffix.lower() == ".json":
        _refuse_unread(config, _KARPATHY)
        return load_karpathy(
            path,
            captions_per_image=config.captions_per_image,
            image_root=config.image_root,
            image_features=config.image_features,
            caption_features=config.caption_features,
            skipped=skipped,
        )
    _refuse_unread(config, _TABLE)
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


def _refuse_unread(config: DataConfig, kind: str) -> None:
    """Refuse options that only other kinds of corpus read: here they would be passed over in silence."""
    unset = DataConfig()
    for name, kinds in _READ_BY.items():
        value = getattr(config, name)
        if kind not in kinds and value != getattr(unset, name):
            raise ConfigError(
                f"data.{name} is {value!r}, which has no meaning for {config.path!r}, {kind}: leave it out (it is for "
                f"{', '.join(kinds)})"
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
