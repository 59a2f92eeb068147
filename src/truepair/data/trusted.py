"""Trusted pairs: a few that are known to match, and the splits without them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from truepair.config import DataConfig, TrustedConfig
from truepair.data.features import FeatureFile, check_same_form
from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Inputs, Pairs, Splits
from truepair.data.precomputed import is_precomputed, load_precomputed
from truepair.data.splitting import known_split, one_of_each_image, pairs_and_their_images
from truepair.data.text import Vocabulary, tokenised
from truepair.errors import ConfigError, DataError
from truepair.random_streams import Stream
from truepair.sources.table_files import open_table

_DEVELOPMENT_IMAGES_TO_KEEP = 500
"""Fewer would choose a checkpoint by chance; of small development splits, half must stay."""
_IMAGES_AT_A_TIME = 256


@dataclass(frozen=True)
class TrustedSplits:
    """Trusted pairs, and splits without their images.

    Attributes:
        splits: What is left to train on, to choose by and to report on.
        trusted: Pairs known to match; None if there are none.
        notes: What a reader of results must know, in sentences.
    """

    splits: Splits
    trusted: Pairs | None
    notes: tuple[str, ...] = ()


def with_trusted(
    splits: Splits, config: TrustedConfig, data: DataConfig, vocabulary: Vocabulary | None
) -> TrustedSplits:
    """Take trusted pairs out of a corpus, before any noise is injected; their images leave the split they are from.

    Args:
        splits: The corpus.
        config: Where trusted pairs come from, and how many.
        data: Where the corpus is from.
        vocabulary: What makes tokens of captions that are read now.

    Raises:
        ConfigError: If a source does not suit the corpus.
        DataError: If there are too few pairs, a file names pairs that are not in the training split, or trusted images
            are in the test split.
    """
    if config.source == "none":
        return TrustedSplits(splits, None)
    generator = Stream.TRUSTED_PAIRS.generator(config.seed)
    wanted = round(config.share * len(splits.train))
    if config.source == "development":
        return _from_development(splits, wanted, generator)
    if config.source == "training":
        return _from_training(splits, wanted, generator)
    if config.source == "file":
        return _from_file(splits, Path(str(config.path)))
    return _from_split(splits, config.split, data, vocabulary)


def _from_development(splits: Splits, wanted: int, generator: np.random.Generator) -> TrustedSplits:
    dev = splits.dev
    counts = torch.bincount(dev.image_of_caption, minlength=len(dev.images))
    order = torch.from_numpy(generator.permutation(len(dev.images)))
    images = int((counts[order].cumsum(0) < wanted).sum()) + 1
    to_keep = min(_DEVELOPMENT_IMAGES_TO_KEEP, -(-len(dev.images) // 2))
    if wanted < 2 or images > len(dev.images) - to_keep:
        available = int(counts[order[: len(dev.images) - to_keep]].sum())
        raise DataError(
            f"{wanted:,} trusted pairs are wanted, but the development split can give 2 … {available:,}: of its "
            f"{len(dev.images):,} images, {to_keep:,} must stay to choose a checkpoint. Set trusted.share to at most "
            f"{available / len(splits.train):.4f}, or take trusted.source = 'training'"
        )
    is_drawn = _marked(order[:images], len(dev.images))[dev.image_of_caption]
    drawn = is_drawn.nonzero().flatten()
    if len(drawn) > wanted:  # the last image gives fewer
        of_last = (dev.image_of_caption == order[images - 1]).nonzero().flatten()
        drawn = drawn[~torch.isin(drawn, of_last[len(of_last) - (len(drawn) - wanted) :])]
    trusted, rest = _chosen(dev, drawn), _chosen(dev, (~is_drawn).nonzero().flatten())
    note = (
        f"{len(trusted):,} trusted pairs ({len(trusted) / len(splits.train):.2%} of the training pairs) are from "
        f"{images:,} development images, which do not choose the checkpoint"
    )
    return TrustedSplits(replace(splits, dev=rest), trusted, (note,))


def _from_training(splits: Splits, wanted: int, generator: np.random.Generator) -> TrustedSplits:
    train = splits.train
    order = torch.from_numpy(generator.permutation(len(train)))
    of_images = one_of_each_image(train.image_of_caption, order)
    one_of_each = of_images[torch.from_numpy(generator.permutation(len(of_images)))]
    if not 2 <= wanted <= len(one_of_each) // 2:
        raise DataError(
            f"{wanted:,} trusted pairs are wanted, each of another training image, but {len(one_of_each):,} images "
            f"have captions and half of them must stay: set trusted.share to at most "
            f"{len(one_of_each) // 2 / len(train):.4f}, and so that there are at least 2"
        )
    return _out_of_training(splits, one_of_each[:wanted].sort().values, "drawn at random")


def _from_file(splits: Splits, path: Path) -> TrustedSplits:
    table = open_table(path)
    if "caption_id" not in table.names:
        raise DataError(f"{path} has no column caption_id, but {', '.join(table.names)}: it names the trusted pairs")
    names = [str(name) for name in table.columns(["caption_id"])["caption_id"]]
    row_of = {name: row for row, name in enumerate(splits.train.caption_ids)}
    for split, pairs in (("test", splits.test), ("development", splits.dev)):
        there = set(pairs.caption_ids) - set(row_of)
        _refuse(
            [name for name in names if name in there],
            f"{path}: {{count}} of {len(names):,} trusted pairs are in the {split} split ({{ids}}), which nothing may "
            "be learned from: leave them out"
            + (", or take trusted.source = 'development'" if split == "development" else ""),
        )
    _refuse(
        [name for name in names if name not in row_of],
        f"{path}: {{count}} of {len(names):,} trusted pairs are not in the training split ({{ids}}): check the ids",
    )
    rows = sorted({row_of[name] for name in names})
    if len(rows) < 2:
        raise DataError(f"{path} names {len(rows)} pair, but at least 2 are needed to learn from")
    return _out_of_training(splits, torch.tensor(rows), f"named in {path}")


def _from_split(splits: Splits, name: str, data: DataConfig, vocabulary: Vocabulary | None) -> TrustedSplits:
    folder = Path(data.path)
    if not is_precomputed(folder):
        raise ConfigError(
            f"trusted.source is 'split', but {data.path!r} is no folder of region features, where {name}_ims.npy could "
            "be: take another source"
        )
    if known_split(name) is not None or name == data.test_split:
        raise ConfigError(
            f"trusted.split is {name!r}, but that split has another use: take trusted.source = 'training' or "
            "'development', or name a split of its own"
        )
    trusted = load_precomputed(folder, name, captions_per_image=_captions_per_row(folder, name))
    if vocabulary is not None:
        has_vectors = inputs_of_captions(splits.train).take(torch.tensor([0])).vectors is not None
        trusted = tokenised(trusted, vocabulary, beside_features=has_vectors)
    check_same_form({"train": splits.train, name: trusted})
    if len(trusted) < 2:
        raise DataError(f"split {name!r} of {folder} has {len(trusted)} pair, but at least 2 are needed to learn from")
    of_trusted = list(_fingerprints(trusted.images))
    in_trusted, in_test = set(of_trusted), set(_fingerprints(splits.test.images))
    _refuse(
        [image for image, print_ in zip(trusted.image_ids, of_trusted, strict=True) if print_ in in_test],
        f"{{count}} of {len(trusted.images):,} images of split {name!r} are in the test split as well ({{ids}}), which "
        "nothing may be learned from: leave them out",
    )
    note = f"{len(trusted):,} trusted pairs are split {name!r} of {folder}"
    is_shared = torch.tensor([print_ in in_trusted for print_ in _fingerprints(splits.dev.images)])
    if not is_shared.any():
        return TrustedSplits(splits, trusted, (note,))
    rest = (~is_shared[splits.dev.image_of_caption]).nonzero().flatten()
    if not len(rest):
        raise DataError(
            f"all development images are in split {name!r} of {folder} too, and none would be left to choose a "
            "checkpoint by: take trusted.source = 'training', or name fewer"
        )
    note += f"; {int(is_shared.sum()):,} development images that are in it do not choose the checkpoint"
    return TrustedSplits(replace(splits, dev=_chosen(splits.dev, rest)), trusted, (note,))


def _captions_per_row(folder: Path, name: str) -> int | None:
    """1 where there is a row of features a caption, as in the files of MSCN's authors; otherwise what counts say."""
    lines = [path for path in (folder / f"{name}_caps.{kind}" for kind in ("txt", "tsv")) if path.exists()]
    features = folder / f"{name}_ims.npy"
    if not lines or not features.exists():
        return None  # reading them will say what is missing
    with lines[0].open("rb") as file:
        captions = sum(1 for _ in file)
    return 1 if captions == len(FeatureFile(features)) else None


def _out_of_training(splits: Splits, chosen: Int[Tensor, " chosen"], how: str) -> TrustedSplits:
    """The chosen training pairs, and training without their images and all captions of these."""
    train = splits.train
    leaves = _marked(train.image_of_caption[chosen], len(train.images))[train.image_of_caption]
    rest = (~leaves).nonzero().flatten()
    if len(rest) < 2:
        raise DataError(f"all but {len(rest)} training pairs have trusted images: name fewer")
    note = (
        f"{len(chosen):,} trusted pairs ({len(chosen) / len(train):.2%} of the training pairs), {how}: their images "
        f"left the training split with {int(leaves.sum()):,} captions, and {len(rest):,} pairs remain"
    )
    return TrustedSplits(replace(splits, train=_chosen(train, rest)), _chosen(train, chosen), (note,))


def _chosen(pairs: Pairs, rows: Int[Tensor, " chosen"]) -> Pairs:
    return pairs_and_their_images(pairs, rows.tolist())


def _marked(rows: Int[Tensor, " chosen"], count: int) -> Bool[Tensor, " all"]:
    is_chosen = torch.zeros(count, dtype=torch.bool)
    is_chosen[rows] = True
    return is_chosen


def _refuse(ids: Sequence[str], message: str) -> None:
    if ids:
        shown = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
        raise DataError(message.format(count=f"{len(ids):,}", ids=shown))


def _fingerprints(images: Inputs) -> Iterable[bytes]:
    """One hash an image, of its features; some images at a time."""
    for rows in torch.arange(len(images)).split(_IMAGES_AT_A_TIME):
        for values in images.take(rows).values.numpy():
            yield hashlib.blake2b(values.tobytes(), digest_size=16).digest()
