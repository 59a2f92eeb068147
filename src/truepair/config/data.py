"""Where pairs are, the mismatches put into them, and the pairs known to match."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from truepair.config.source import SourceConfig
from truepair.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """Where the pairs are."""

    path: str = "demo"
    """"demo" (the corpus that ships with truepair); a folder of features (of truepair embed, of clip-retrieval,
    images.npy and captions.npy, or {split}_ims.npy and {split}_caps.txt as SCAN lays them out); or pictures with
    captions: a table, a folder, tar shards, a Hugging Face dataset, COCO captions, Karpathy's splits, Flickr8K; also at
    s3://, gs://, hf:// or https://."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """How pictures with captions are read."""
    text: Literal["auto", "words", "features", "both"] = "auto"
    """What the text encoder reads: words of the captions, caption features, or both side by side; "auto" takes both
    where there are features, and words otherwise."""
    minimum_word_count: int = 4
    """Words rarer than this in the training captions become <unk> (SCAN and the systems after it: 4)."""
    vocabulary: str | None = None
    """A vocabulary JSON (ours, or the field's with word2idx) to use instead of one made from the training captions."""
    captions_per_image: int | None = None
    """Folders of region features: captions of an image, where the row counts leave it open (5 in Flickr30K and
    MS-COCO). Karpathy files: keep this many captions of each image, the first."""
    test_split: str = "test"
    """Folders of region features: what file names call the split that is reported on ("testall" for all 5,000 test
    images of MS-COCO)."""
    test_folds: int = 1
    """Number of equal parts in which the test images are searched, whose results are averaged (MS-COCO 1K: 5)."""
    development: Literal["all", "first_1000_images"] = "all"
    """Which development pairs choose the checkpoint: all of them, or those of the first 1,000 images only (all, with a
    note, if there are fewer), as in the released code of DECL and CRCL."""
    maximum_unknown_share: float = 0.1
    """A given vocabulary is refused if a larger share of the training words is not in it."""
    image_features: str | None = None
    """Tables and caption files: a .npy file with one row a distinct image, in the order in which they first appear."""
    caption_features: str | None = None
    """Tables and caption files: a .npy file with one row a row of the table."""
    development_share: float = 0.1
    """Without given splits: share of the images held out for choosing a checkpoint."""
    test_share: float = 0.1
    """Without given splits: share of the images held out for the report."""
    split_seed: int = 0
    """Without given splits: seed of the random split."""
    stream_index: str | None = None
    """A folder for names and captions, which then stay on disk: for corpora larger than memory, of pictures that
    pretrained networks read or of truepair embed. Made once; training reads a few shards at a time."""
    shards_at_once: int = 8
    """With a stream index: number of shards that batches are drawn from at a time; each is read once an epoch."""

    def __post_init__(self) -> None:
        """Refuse impossible counts and shares."""
        if self.test_folds < 1:
            raise ConfigError(f"data.test_folds is {self.test_folds}, but it is at least 1")
        if self.shards_at_once < 1:
            raise ConfigError(f"data.shards_at_once is {self.shards_at_once}, but it is at least 1")
        if self.stream_index is None and self.shards_at_once != type(self).shards_at_once:
            raise ConfigError(
                f"data.shards_at_once is {self.shards_at_once}, but without data.stream_index pairs are drawn from all "
                "shards: name a folder for the index, or leave it out"
            )
        if not 0 <= self.maximum_unknown_share <= 1:
            raise ConfigError(
                f"data.maximum_unknown_share is {self.maximum_unknown_share}, but it is a share in [0, 1]"
            )


@dataclass(frozen=True)
class NoiseConfig:
    """Mismatches put into the training split on purpose, to measure what they do."""

    rate: float = 0.0
    """Share of training captions (or images) that get a wrong partner, exactly; in [0, 1)."""
    level: Literal["caption", "image"] = "caption"
    """Captions are shuffled one by one (NCR's protocol), or all captions of an image go wrong together (DECL's)."""
    partners: Literal["random", "similar"] = "random"
    """Captions exchange images at random, or two and two that are alike in their words (hard noise; caption level)."""
    seed: int = 0
    """Seed of the injected noise."""
    development: bool = False
    """Shuffle the development pairs too, at the same rate: where training pairs are noisy, clean ones to choose a
    checkpoint by are rarely at hand. The papers' development pairs are clean."""
    index: str | None = None
    """A published noise index (.npy) to use instead of noise.rate."""
    index_convention: Literal["per_caption", "per_image"] = "per_caption"
    """What the index holds: the image of each caption (NCR, CRCL, MSCN) or a permutation of images (DECL)."""

    def __post_init__(self) -> None:
        """Refuse two sources of noise, an impossible rate and a seed that cannot be one."""
        if not 0 <= self.rate < 1:
            raise ConfigError(f"noise.rate is {self.rate}, but it is a share in [0, 1)")
        if self.partners == "similar" and (self.level == "image" or self.index is not None):
            raise ConfigError(
                f"noise.partners is 'similar', which compares single captions, but noise.level is {self.level!r} and "
                f"noise.index {self.index!r}: use level 'caption' and no index"
            )
        if self.seed < 0:
            raise ConfigError(f"noise.seed is {self.seed}, but it must be at least 0")
        if self.development and self.index is not None:
            raise ConfigError(
                f"noise.development shuffles at noise.rate, but noise.index is {self.index}, of training pairs only"
            )
        if self.index is not None and self.rate:
            raise ConfigError(f"noise.rate is {self.rate} and noise.index is {self.index}: choose one of them")


@dataclass(frozen=True)
class TrustedConfig:
    """A few pairs that are known to match: MSCN learns from them, the other methods do not."""

    source: Literal["none", "development", "training", "split", "file"] = "none"
    """Where the trusted pairs are from. "development": random images of the development split with their captions,
    which then do not choose the checkpoint. "training": random training images with one caption each; these images
    leave the training split with all their captions, before any noise is injected. "split": another split of a folder
    of region features. "file": a table whose column caption_id names training pairs that were checked by hand."""
    share: float = 0.02
    """"development" and "training": number of trusted pairs, as a share of the training pairs (MSCN: 0.02)."""
    split: str = "meta"
    """"split": the name of the trusted split in file names ({split}_ims.npy, {split}_caps.txt)."""
    path: str | None = None
    """"file": the table of trusted pairs (.csv, .tsv, .jsonl, .parquet)."""
    seed: int = 0
    """Seed of the draw of trusted pairs."""

    def __post_init__(self) -> None:
        """Refuse an impossible share, and a table without a source that reads it."""
        if not 0 < self.share < 1:
            raise ConfigError(f"trusted.share is {self.share}, but it is a share in (0, 1)")
        if self.seed < 0:
            raise ConfigError(f"trusted.seed is {self.seed}, but it must be at least 0")
        if (self.source == "file") != (self.path is not None):
            raise ConfigError(
                f"trusted.source is {self.source!r} and trusted.path {self.path!r}: a table is named if, and only if, "
                "the source is 'file'"
            )
