"""``truepair``: one command a file, loaded only when it is asked for."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

from truepair import __version__
from truepair.errors import TruepairError

COMMANDS = {
    "demo": "train plainly and robustly on real pairs of which 40 % are shuffled, and audit them",
    "train": "train by a recipe; the same command again resumes",
    "reproduce": "train and test by recipes, and compare with the published numbers",
    "evaluate": "recall of one trained run, or of several as one",
    "embed": "pictures and captions through frozen encoders into a folder of features; resumes",
    "audit": "find the pairs that do not match: findings, a cleaned manifest and a report",
    "review": "look at an audit's suspects in a browser: keep, drop or re-pair them, and choose where to cut",
    "fix": "a copy of an audited corpus without the pairs that do not match, in its own format",
    "inspect": "what the shared and exclusive codes of a DisNCL run hold: a page of charts and numbers",
    "noise": "shuffle captions on purpose and write the field's noise index",
}

USAGE = f"""usage: truepair COMMAND [options]

Find the image-caption pairs that do not match, fix them, and train retrieval models that do not mind the rest.

commands:
{chr(10).join(f"  {name:<9} {summary}" for name, summary in COMMANDS.items())}

  truepair COMMAND --help    options of a command, with an example
  truepair --version         {__version__}

For example:
  truepair demo --out demo-run
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 on success, 1 if something the user can mend went wrong, 2 for unusable arguments, 130 or 143 when
        interrupted or terminated; what was running can be resumed by the same command.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"truepair {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        print(f"truepair: there is no command {arguments[0]!r}; see 'truepair --help'", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _terminate)
    try:
        import_module(f"truepair.cli.{arguments[0]}").command(arguments[1:])
    except TruepairError as error:
        print(f"truepair: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print("\ntruepair: stopped; the same command goes on from what was saved last", file=sys.stderr)
        return 143 if interruption.args else 130
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
