"""Columns that a user names, or that are found by their usual names, and what to say when they are not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from truepair.config.source import AUTO, SourceConfig
from truepair.errors import DataError

_IMAGE_NAMES = (
    *("image", "file_name", "filename", "file", "filepath", "file_path", "image_path", "image_name", "image_file"),
    *("img", "img_path", "path", "picture", "photo", "jpg", "jpeg", "png", "webp", "url", "image_url"),
)
_CAPTION_NAMES = (
    *("caption", "captions", "text", "title", "sentence", "sentences", "comment", "description", "txt", "prompt"),
    *("alt_text", "alt", "raw"),
)


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read.

    Attributes:
        image: Of paths or pictures; None if there is none.
        captions: Of captions, at least one.
        notes: What was found by its usual name and not said by the user, in sentences.
    """

    image: str | None
    captions: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, where: str, present: Sequence[str], options: SourceConfig) -> Columns:
        """The columns that the options name, or that have usual names.

        Args:
            where: What the table is called in messages.
            present: The table's columns.
            options: What the user said.

        Raises:
            DataError: If a named column is missing, or none is named and none has a usual name. The message names the
                columns that are there and the flag to type.
        """
        notes: list[str] = []
        image = options.image_col
        if image == AUTO:
            image = usual_image(present)
            has_features = options.image_feature_col is not None
            if image is None and not has_features:
                raise _missing(where, present, "image", "--image-col", "pictures")
            if image not in ("image", None):
                notes.append(f"pictures are read from the column {image!r} (--image-col for another)")
        captions = options.caption_col
        if not captions:
            caption = usual_caption(present)
            if caption is None:
                raise _missing(where, present, "caption", "--caption-col", "captions")
            if caption != "caption":
                notes.append(f"captions are read from the column {caption!r} (--caption-col for another)")
            captions = (caption,)
        named: dict[str, Sequence[str | None]] = {
            "--image-col": [] if image is None else [image],
            "--caption-col": list(captions),
            "--image-id-col": [options.image_id_col],
            "--caption-id-col": [options.caption_id_col],
            "--split-col": [options.split_col],
            "--image-feature-col": [options.image_feature_col],
            "--caption-feature-col": [options.caption_feature_col],
        }
        for flag, names in named.items():
            check_columns(where, present, [name for name in names if name is not None], flag)
        return cls(image, captions, tuple(notes))


def check_columns(where: str, present: Sequence[str], wanted: Iterable[str], flag: str) -> None:
    """Refuse a column that is not there.

    Args:
        where: What the table is called.
        present: Its columns.
        wanted: Columns that it must have.
        flag: The option that names them.

    Raises:
        DataError: If one is missing; the message names those that are there, and the flag with the nearest name.
    """
    for name in wanted:
        if name in present:
            continue
        plain = {_plain(column): column for column in present}
        near = difflib.get_close_matches(_plain(name), plain, n=1)
        hint = f"did you mean {flag} {_typed(plain[near[0]])}?" if near else f"say which one it is with {flag}"
        raise DataError(f"{where} has no column {name!r}; it has {', '.join(map(repr, present))}; {hint}")


def usual_image(present: Sequence[str]) -> str | None:
    """The column that is called as pictures usually are; None if there is none."""
    return _usual(present, _IMAGE_NAMES)


def usual_caption(present: Sequence[str]) -> str | None:
    """The column that is called as captions usually are; None if there is none."""
    return _usual(present, _CAPTION_NAMES)


def _usual(present: Sequence[str], names: Sequence[str]) -> str | None:
    """The column with the most usual name, in upper or lower case; None if there is none."""
    plain: dict[str, str] = {}
    for column in present:
        plain.setdefault(_plain(column), column)
    return next((plain[name] for name in names if name in plain), None)


def _missing(where: str, present: Sequence[str], usual: str, flag: str, what: str) -> DataError:
    return DataError(
        f"{where} has no column {usual!r}; it has {', '.join(map(repr, present))}; say which one holds the {what} with "
        f"{flag}"
    )


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _typed(name: str) -> str:
    """A name as it is typed on a command line."""
    return name if name.isidentifier() else f'"{name}"'
