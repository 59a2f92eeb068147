"""Folders of precomputed features in the format of VSE++, SCAN and NCR; the only file that knows their layouts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch

from truepair.data.features import FeatureFile, check_finite, check_same_form
from truepair.data.pairs import Pairs, Splits, Subset
from truepair.errors import ConfigError, DataError
from truepair.files.lines import lines_of

_ROWS_TO_COMPARE = 16
"""Leading rows looked at for repeats: more than any corpus has captions of one image in this format."""
_GROUPS_TO_COMPARE = 64
"""Images whose repeated rows are compared, spread over the file."""


def is_precomputed(folder: Path) -> bool:
    """Whether a folder holds region features of a training split."""
    return (folder / "train_ims.npy").is_file()


def load_precomputed(
    folder: Path,
    split: str,
    *,
    captions_per_image: int | None = None,
    check_values: bool = True,
) -> Pairs:
    """One split: ``{split}_ims.npy``, ``{split}_caps.txt`` or ``_caps.tsv``, and ``{split}_ids.txt`` if there is one.

    ``{split}_caps.npy``, if it is there, holds features of the captions by a frozen text encoder, one row a caption.

    Captions stand one a line, those of an image next to each other, images in the order of the features; a ``.tsv``
    (CC152K) has an image id before each caption, in quotes if it contains a quotation mark, a tab or a line end, as
    csv.writer writes it. Features come in two layouts, which give the same pairs: one row an
    image, or each image's row repeated for each of its captions (of which every first row is read). The ids file
    names, a line each, the images, the captions, or the image of each caption.

    Args:
        folder: The folder.
        split: The split's name in file names, for instance ``"train"``.
        captions_per_image: 5 for Flickr30K and MS-COCO, 1 for CC152K. None infers it from the counts, which they do
            not tell when there are as many rows as captions: then one caption an image is assumed, unless the files
            look otherwise.
        check_values: Whether to read all features once, to refuse NaN and infinite values.

    Raises:
        DataError: If a file is missing or damaged, counts do not fit, a caption is empty, an image id occurs twice,
            rows that should repeat an image differ, or the ids file and the table name other images.
    """
    features = FeatureFile(folder / f"{split}_ims.npy")
    captions = _captions_of(folder, split)
    ids = _ids_of(folder, split)
    if ids is None:
        ids = captions.image_names
    elif captions.image_names is not None:
        _check_same_images(ids, captions.image_names)
    if captions_per_image is None:
        captions_per_image = _inferred_captions_per_image(features, captions, ids)
    images = _number_of_images(features, captions, captions_per_image)
    is_repeated = images < len(features)
    if is_repeated:
        _check_repeats(features, captions_per_image)
    image_inputs = Subset(features, torch.arange(0, len(features), captions_per_image)) if is_repeated else features
    if check_values:
        check_finite(image_inputs, str(features.path))
    image_ids, caption_ids = _names(ids, split, images, captions_per_image)
    return Pairs(
        images=image_inputs,
        captions=captions.texts,
        image_of_caption=torch.arange(images).repeat_interleave(captions_per_image),
        image_ids=image_ids,
        caption_ids=caption_ids,
        caption_inputs=_caption_features(folder / f"{split}_caps.npy", len(captions), check_values),
    )


def _caption_features(path: Path, captions: int, check_values: bool) -> FeatureFile | None:
    """Features of a split's captions; None if there is no such file."""
    if not path.exists():
        return None
    features = FeatureFile(path)
    if len(features) != captions:
        raise DataError(f"{path} has {len(features):,} rows, but the split has {captions:,} captions")
    if check_values:
        check_finite(features, str(path))
    return features


def load_precomputed_splits(
    folder: Path,
    *,
    captions_per_image: int | None = None,
    names: tuple[str, str, str] = ("train", "dev", "test"),
    check_values: bool = True,
) -> Splits:
    """All splits of a folder, each in either layout.

    Args:
        folder: The folder; its name becomes the corpus's.
        captions_per_image: See `load_precomputed`; the same for all splits.
        names: What training, development and test split are called in file names.
        check_values: See `load_precomputed`.

    Raises:
        ConfigError: If two of the names are the same.
        DataError: See `load_precomputed` and `check_same_form`.
    """
    if len(set(names)) < len(names):
        raise ConfigError(
            f"training, development and test split of {folder} are {', '.join(map(repr, names))}, but no pair may be "
            "in two of them: name another test split (data.test_split)"
        )
    splits = {
        name: load_precomputed(folder, name, captions_per_image=captions_per_image, check_values=check_values)
        for name in names
    }
    with_features = [name for name in names if splits[name].caption_inputs is not None]
    if with_features and len(with_features) < len(names):
        missing = ", ".join(f"{name}_caps.npy" for name in names if name not in with_features)
        raise DataError(
            f"{folder} has caption features of the split {' and '.join(with_features)}, but no {missing}: make "
            "features of all splits, or take the others away"
        )
    check_same_form(splits)
    train, dev, test = (splits[name] for name in names)
    return Splits(train, dev, test, folder.name)


@dataclass(frozen=True)
class _Lines:
    """What a caption or ids file says, line by line."""

    path: Path
    texts: list[str]
    image_names: _Lines | None = None

    def __len__(self) -> int:
        return len(self.texts)


def _captions_of(folder: Path, split: str) -> _Lines:
    plain, table = folder / f"{split}_caps.txt", folder / f"{split}_caps.tsv"
    if plain.exists() == table.exists():
        raise DataError(
            f"{folder} needs {plain.name} or {table.name}, but has {'both' if plain.exists() else 'neither'}; "
            f"is {split!r} the name of a split?"
        )
    captions = _table(table) if table.exists() else _Lines(plain, [line.strip() for line in lines_of(plain)])
    for number, text in enumerate(captions.texts, 1):
        if not text:
            raise DataError(f"{captions.path}: caption {number:,} is empty; write one or leave the pair out")
    return captions


def _ids_of(folder: Path, split: str) -> _Lines | None:
    path = folder / f"{split}_ids.txt"
    return _Lines(path, [line.strip() for line in lines_of(path)]) if path.exists() else None


def _table(path: Path) -> _Lines:
    # Not strict, as in the released readers: captions may begin with a quotation mark that belongs to them. One that is
    # left open swallows lines, which the counts of rows and fields give away.
    reader = csv.reader(lines_of(path, keep_ends=True), delimiter="\t")
    names, texts = [], []
    try:
        for row in reader:
            if len(row) != 2:
                raise DataError(
                    f"{path}, line {reader.line_num:,} has {len(row)} fields, but two are expected: an image id, a tab "
                    "and a caption; put a caption that contains a tab in quotation marks"
                )
            names.append(row[0].strip())
            texts.append(row[1].strip())
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num:,} cannot be parsed ({error}); is a quotation mark left open?"
        ) from error
    return _Lines(path, texts, _Lines(path, names))


def _check_same_images(ids: _Lines, named: _Lines) -> None:
    """Refuse an ids file (a line an image, or a line a caption) with the table's names in another order.

    Other names altogether, numbers for instance, are a second naming of the same images.
    """
    names = named.texts[:: max(1, len(named) // max(1, len(ids)))]
    if set(ids.texts) != set(names):
        return
    for line, (name, expected) in enumerate(zip(ids.texts, names, strict=False), 1):
        if name != expected:
            raise DataError(
                f"{ids.path}, line {line:,} names {name!r}, but {named.path.name} has {expected!r} there; the features "
                "follow one of them: put both in their order, or move the ids file away"
            )


def _inferred_captions_per_image(features: FeatureFile, captions: _Lines, ids: _Lines | None) -> int:
    if len(captions) != len(features):
        inferred, rest = divmod(len(captions), len(features))
        if rest or not inferred:
            raise DataError(
                f"{captions.path.name} has {len(captions):,} captions and {features.path.name} {len(features):,} rows, "
                f"which is no whole number of captions an image; is a file in {captions.path.parent} truncated, or a "
                "quotation mark in a table left open?"
            )
        return inferred
    repeats, where = max(_repeats_of_ids(ids, len(captions)), _repeats_of_rows(features))
    if repeats > 1:
        raise DataError(
            f"{features.path.name} has as many rows as {captions.path.name} has captions ({len(captions):,}), but "
            f"{where} look like {repeats} captions an image; pass captions_per_image={repeats} if rows are repeated "
            "for each caption, or captions_per_image=1 if each caption has an image of its own"
        )
    return 1


def _repeats_of_ids(ids: _Lines | None, captions: int) -> tuple[int, str]:
    if not ids:
        return 1, ""
    named_once, rest = divmod(captions, max(1, len(ids)))
    same_name = sum(1 for _ in takewhile(lambda name: name == ids.texts[0], ids.texts))
    return max(same_name, 1 if rest else named_once), f"the ids in {ids.path.name}"


def _repeats_of_rows(features: FeatureFile) -> tuple[int, str]:
    bits = _bits(features, 0, min(_ROWS_TO_COMPARE, len(features)))
    is_first = (bits == bits[0]).all(1)
    return int(is_first.long().cumprod(0).sum()), "its first rows, which are identical,"


def _number_of_images(features: FeatureFile, captions: _Lines, captions_per_image: int) -> int:
    rows = len(features)
    if captions_per_image < 1:
        raise DataError(f"captions_per_image is {captions_per_image}, but each image has at least 1 caption")
    if len(captions) == rows * captions_per_image:
        return rows
    if len(captions) != rows:
        raise DataError(
            f"{captions.path.name} has {len(captions):,} captions but {rows:,} images × {captions_per_image} = "
            f"{rows * captions_per_image:,} were expected (captions_per_image={captions_per_image}); is the file "
            "truncated?"
        )
    images, rest = divmod(rows, captions_per_image)
    if rest:
        raise DataError(
            f"{captions.path.name} has {len(captions):,} captions and {features.path.name} as many rows, which are not "
            f"whole groups of {captions_per_image} (captions_per_image={captions_per_image}); are the files truncated?"
        )
    return images


def _check_repeats(features: FeatureFile, captions_per_image: int) -> None:
    images = len(features) // captions_per_image
    for image in torch.linspace(0, images - 1, min(images, _GROUPS_TO_COMPARE)).long().tolist():
        first, end = image * captions_per_image, (image + 1) * captions_per_image
        bits = _bits(features, first, end)
        if not (bits == bits[0]).all():
            raise DataError(
                f"rows {first:,} to {end - 1:,} of {features.path} differ, but with as many rows as captions and "
                f"captions_per_image={captions_per_image} they should repeat one image; pass captions_per_image=1 if "
                "each caption has an image of its own"
            )


def _bits(features: FeatureFile, first: int, end: int) -> torch.Tensor:
    """Rows ``[rows, values]`` as integers, in which NaN equals itself."""
    return features.take(torch.arange(first, end)).values.flatten(1).view(torch.int32)


def _names(ids: _Lines | None, split: str, images: int, captions_per_image: int) -> tuple[Sequence[str], Sequence[str]]:
    """Names of the images and of the captions."""
    image_ids = [f"{split}-{image}" for image in range(images)]
    caption_ids = None
    if ids is not None and len(ids) == images:
        image_ids = ids.texts
    elif ids is not None and len(ids) == images * captions_per_image:
        firsts = ids.texts[::captions_per_image]
        other = [i for i, name in enumerate(ids.texts) if name != firsts[i // captions_per_image]]
        if not other:
            image_ids = firsts
        elif len(set(ids.texts)) == len(ids):
            caption_ids = ids.texts
        else:
            first = other[0] // captions_per_image * captions_per_image
            raise DataError(
                f"{ids.path}, line {other[0] + 1:,} names {ids.texts[other[0]]!r}, but line {first + 1:,}, the first "
                f"of the same image, names {ids.texts[first]!r}; is captions_per_image={captions_per_image} right?"
            )
    elif ids is not None:
        raise DataError(
            f"{ids.path} has {len(ids):,} ids, but one an image ({images:,}) or one a caption "
            f"({images * captions_per_image:,}) was expected; is the file truncated?"
        )
    _check_distinct(image_ids, ids)
    if caption_ids is None:
        caption_ids = [f"{name}#{caption}" for name in image_ids for caption in range(captions_per_image)]
    return image_ids, caption_ids


def _check_distinct(image_ids: Sequence[str], ids: _Lines | None) -> None:
    image_of_name: dict[str, int] = {}
    for image, name in enumerate(image_ids):
        earlier = image_of_name.setdefault(name, image)
        if earlier != image and ids is not None:
            raise DataError(
                f"{ids.path} gives images {earlier:,} and {image:,} (counted from 0) the same id {name!r}; ids must be "
                "unique"
            )
