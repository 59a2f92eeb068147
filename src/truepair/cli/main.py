"""``truepair``: one command a file, loaded only when it is asked for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from importlib import import_module
from types import FrameType

import truepair
from truepair.cli.errors import tell
from truepair.cli.output import Output, process_number
from truepair.progress import no_progress

COMMANDS = {
    "demo": "train plainly and robustly on real pairs of which 40 % are shuffled, and audit them",
    "train": "train by a recipe; the same command again resumes",
    "reproduce": "train and test by recipes, and compare with the published numbers",
    "evaluate": "recall of one trained run, or of several as one",
    "embed": "pictures and captions through frozen encoders into a folder of features; resumes",
    "audit": "find the pairs that do not match: findings and a report",
    "review": "look at an audit's suspects in a browser: keep, drop or re-pair them",
    "fix": "a copy of an audited corpus without the pairs that do not match, in its own format",
    "index": "make an index of a run, of features or of pictures with captions, to search in",
    "search": "what an index holds for a text or a picture, with the probability of every hit",
    "export": "a trained model for other tools: ONNX, sentence-transformers, transformers",
    "sweep": "train once for each combination of option values; runs that are there are not repeated",
    "figures": "the papers' figures from finished runs: a page and SVG files",
    "inspect": "what a run knows of its pairs, and what DisNCL's codes hold: a page of charts",
    "noise": "shuffle captions on purpose and write the field's noise index",
}

_GOES_ON = "the same command goes on from what was saved last"
AFTER_A_STOP = {
    **dict.fromkeys(("demo", "train", "reproduce", "evaluate", "embed", "sweep"), _GOES_ON),
    "audit": "an earlier audit, if any, is as it was; the same command finds the embeddings that were made, and audits "
    "anew",
    "review": "every decision is saved; the same command goes on from there",
    "index": "an earlier index, if any, is as it was; the same command finds the embeddings that were made and goes on",
    "search": "nothing was written",
    "fix": "an earlier copy, if any, is as it was; the same command begins anew",
    "export": "an earlier export, if any, is as it was; the same command begins anew",
    **dict.fromkeys(("figures", "inspect", "noise"), "the same command begins anew"),
}
"""By command, what is true after Ctrl-C."""

USAGE = f"""usage: truepair COMMAND [options]; for a start: truepair demo --out demo-run
Find image-caption pairs that do not match, fix them, train models that do not mind the rest.

commands:
{chr(10).join(f"  {name:<9} {summary}" for name, summary in COMMANDS.items())}

  truepair COMMAND --help             a command's main options; --help-all has all
  truepair COMMAND … --json --quiet   the summary as one JSON object; no progress and no notes
  truepair --version                  {{version}}
Exit codes: 0 done, 1 for you to mend, 2 unusable arguments, 70 a fault of truepair (see --debug)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 on success, 1 if something the user can mend went wrong, 2 for unusable arguments, 70 after a fault of
        truepair itself, 130 or 143 when interrupted or terminated, 141 if the reader of standard output went away;
        `AFTER_A_STOP` says what is left then.
    """
    code = 0
    try:
        try:
            code = _run(sys.argv[1:] if arguments is None else list(arguments))
        finally:
            sys.stdout.flush()  # here, where a reader that went away can be caught
    except BrokenPipeError:
        _give_up_output()
        return 141
    except OSError as error:
        _give_up_output()
        return code or tell(error, "")
    return code


def _give_up_output() -> None:
    """Nothing more is written to standard output, also not by the flush when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "--help-all"):
        print(USAGE.format(version=truepair.__version__), end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name, *words = arguments
    if name == "--version":
        print(f"truepair {truepair.__version__}")
        return 0
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see 'truepair --help'"
        print(f"truepair: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    if name != "train" and "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        print(f"truepair: torchrun is for 'truepair train': start 'truepair {name}' without it", file=sys.stderr)
        return 2
    output = Output("--json" in words, "--quiet" in words, is_first=process_number() == 0)
    is_debug = "--debug" in words
    words = [word for word in words if word not in ("--json", "--quiet", "--debug")]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with no_progress() if output.is_quiet else nullcontext():
            import_module(f"truepair.cli.{name}").command(words, output)
    except BrokenPipeError:
        raise
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # torchrun sends one when a process of several fails
        return tell(error, name, words, is_debug=is_debug)
    except KeyboardInterrupt as interruption:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would find Python on its way out
        if output.is_first:
            print(f"\ntruepair: stopped; {AFTER_A_STOP[name]}", file=sys.stderr)
        return 143 if interruption.args else 130
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
