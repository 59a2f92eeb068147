"""From a run's folder to a folder that other tools load."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from truepair import __version__
from truepair.config.export import Format
from truepair.errors import ConfigError
from truepair.exporting.card import model_card
from truepair.exporting.model import Exportable, exportable, merge_updates
from truepair.exporting.network_folders import write_networks
from truepair.exporting.onnx_files import write_onnx
from truepair.exporting.pushing import check_push, push
from truepair.exporting.samples import Samples, samples_of
from truepair.exporting.sentence_folders import write_sentences
from truepair.exporting.written import Written
from truepair.files.json import write_json
from truepair.files.locking import alone_with
from truepair.files.names import EXPORT
from truepair.files.replacing import put_back, replacing_folder

_WRITERS: Mapping[Format, Callable[[Exportable, Samples, Path], Written]] = {
    "onnx": write_onnx,
    "sentence-transformers": write_sentences,
    "hf": write_networks,
}


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        folder: Where it is.
        to: Its format.
        sides: Of "image" and "text", those that it can encode.
        differences: Of each side, the largest difference of a cosine from the run, measured on three items.
        notes: What a user must know, in sentences.
        address: On the hub, if it was pushed.
    """

    folder: Path
    to: Format
    sides: tuple[str, ...]
    differences: Mapping[str, float]
    notes: tuple[str, ...]
    address: str | None = None


def export_run(run: Path, out: Path, to: str, *, push_to: str | None = None) -> Exported:
    """Write a finished run in a form that other tools load, and compare it with the run.

    The folder appears whole or not at all; an earlier export is replaced.

    Args:
        run: The run's folder.
        out: The folder to write to.
        to: "onnx", "sentence-transformers" or "hf".
        push_to: USER/NAME on the hub, where the folder is uploaded as well.

    Raises:
        CheckpointError: If `run` holds no finished run.
        ConfigError: If the run cannot be exported (see `exportable`), or not to this format; if `out` holds something
            else, or another process is writing it; or if it cannot be pushed, which leaves `out` as written.
    """
    if to not in _WRITERS:
        raise ConfigError(f"to is {to!r}, but it must be one of {', '.join(map(repr, _WRITERS))}")
    if push_to is not None:
        check_push(push_to)
    with alone_with(out):
        put_back(out)
        _refuse_other_content(out)
        written = _write(run, out, cast(Format, to))
        address = None if push_to is None else push(out, push_to)
    return Exported(out, cast(Format, to), tuple(written.sides), written.differences, tuple(written.notes), address)


def _write(run: Path, out: Path, to: Format) -> Written:
    model = exportable(run)
    samples = samples_of(model)  # before updates are merged, so that merging is compared as well
    if model.has_updates:
        merge_updates(model)
    with replacing_folder(out) as folder:
        written = _WRITERS[to](model, samples, folder)
        (folder / "README.md").write_text(model_card(model, to, written), encoding="utf-8")
        mark = {"to": to, "sides": [*written.sides], "differences": dict(written.differences), "truepair": __version__}
        write_json(folder / EXPORT, mark)
        mode = stat.S_IMODE((folder / "README.md").stat().st_mode)  # some libraries keep weights from other users
        for path in (path for path in folder.rglob("*") if path.is_file()):
            path.chmod(mode)
    return written


def _refuse_other_content(out: Path) -> None:
    if out.exists() and not (out / EXPORT).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} holds something else than an earlier export: choose another folder, or empty it")
