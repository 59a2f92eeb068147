"""How a command ends that cannot go on: one sentence and an exit code, whatever was raised."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import truepair
from truepair.cli.output import process_number
from truepair.errors import ConfigError, TruepairError, of_system, said_by
from truepair.files.names import AUDIT, RUN, STORE

MENDABLE = 1
"""Exit code of what the user can mend."""
FAULT = 70
"""Exit code of a fault of truepair itself; EX_SOFTWARE of sysexits.h."""

_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc"),
    *("failed to allocate memory", "can't start new thread"),
)
"""What PyTorch, Arrow and ONNX Runtime say where they raise no MemoryError."""
_RECORDS = (AUDIT, RUN, "results.json", STORE, "reproduction.json")
"""Files that say what a folder was made by, the best to report a fault with first."""


@dataclass(frozen=True)
class Ending:
    """How a command ends.

    Attributes:
        code: The exit code.
        said: What is printed, without the program's name.
    """

    code: int
    said: str


def ending_of(error: Exception, command: str, words: Sequence[str] = ()) -> Ending:
    """What to say of an error, and the exit code.

    Args:
        error: What ended the command.
        command: The command's name.
        words: Its arguments.
    """
    if isinstance(error, TruepairError):
        return Ending(MENDABLE, f"error: {_with_flags(error, command)}")
    if _is_out_of_memory(error):
        advice = "a smaller --batch-size and fewer --workers, where the command has them, need less"
        return Ending(MENDABLE, f"error: there is not enough memory ({said_by(error)[:300]}): {advice}")
    if isinstance(error, OSError):
        return Ending(MENDABLE, f"error: {of_system(error)}")
    if isinstance(error, ImportError):
        return Ending(MENDABLE, f"error: a package is missing or broken ({said_by(error)}): install truepair again")
    return Ending(FAULT, _of_fault(error, words))


def tell(error: Exception, command: str, words: Sequence[str] = (), *, is_debug: bool = False) -> int:
    """Print what `ending_of` says, behind the traceback if that is asked for; returns the exit code."""
    ending = ending_of(error, command, words)
    if is_debug:
        traceback.print_exception(error)
    number = process_number()
    who = f"truepair (process {number})" if number else "truepair"
    print(f"{who}: {ending.said}", file=sys.stderr)
    return ending.code


def _with_flags(error: TruepairError, command: str) -> str:
    """The error's text, with the flag to type where the command has it and no recipe's file is at fault."""
    if not isinstance(error, ConfigError) or command not in ("audit", "noise", "train") or ".toml" in str(error):
        return str(error)
    from truepair.cli.parsing import flags_in

    return flags_in(str(error))


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _OUT_OF_MEMORY)


def _of_fault(error: Exception, words: Sequence[str]) -> str:
    """What to report of a fault: the error, its place, and a file that says what was done."""
    record = next((found for word in words if (found := _record_in(word.rpartition("=")[2])) is not None), None)
    attached = "" if record is None else f" with {record}"
    deep = "it calls itself too often, or a file is nested too deeply" if isinstance(error, RecursionError) else ""
    what = f"{type(error).__name__}: {deep or said_by(error)[:300]}"
    return (
        f"fault: {what} (at {_place(error)}). This is a fault of truepair {truepair.__version__}, not of what you did: "
        f"report it{attached}, and what --debug shows"
    )


def _place(error: Exception) -> str:
    """File and line of the deepest of truepair's own lines that the error came through."""
    own = Path(truepair.__file__).parent
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(own)]
    if not frames:
        return "a place outside of it"
    return f"truepair/{Path(frames[-1].filename).relative_to(own).as_posix()}:{frames[-1].lineno}"


def _record_in(word: str) -> Path | None:
    """The file in a folder that says what made it; None if the word names no such folder."""
    try:
        return next((path for name in _RECORDS if (path := Path(word) / name).is_file()), None)
    except (OSError, ValueError):  # no path at all
        return None
