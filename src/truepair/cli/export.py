"""``truepair export``: a trained model that other tools load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import parse
from truepair.config.export import Format

MAIN = ("run", "to", "out", "push")


@dataclass(frozen=True)
class Export:
    """Write a trained run in a form that other tools load, and compare what they make of it with the run.

    A run whose pictures and captions are read by pretrained networks (--model.image, --model.text) is exported with
    them; one that was trained on features of 'truepair embed', with the encoders that made them. Low-rank updates are
    merged. The run is never changed.

    For example:
      truepair export runs/mine --to onnx --out mine-onnx
      truepair export runs/mine --to sentence-transformers --out mine-st
      truepair export runs/mine --to hf --out mine-hf --push me/mine
    """

    run: Positional[Path]
    """The run's folder."""
    to: Format
    """What will load it: "onnx" (image.onnx and text.onnx with their tokenizer), "sentence-transformers" (a folder for
    SentenceTransformer, which must be installed), or "hf" (networks for AutoModel, and the heads behind them)."""
    out: Path
    """The folder to write to; an earlier export in it is replaced."""
    push: str | None = None
    """USER/NAME on the Hugging Face hub to upload the folder to as well; a new one is private."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, export, say what was written and how it compares."""
    parsed = parse(Export, "export", arguments, main=MAIN)
    from truepair.exporting.run import export_run

    exported = export_run(parsed.run, parsed.out, parsed.to, push_to=parsed.push)
    for note in exported.notes:
        output.note(f"note: {note}")
    for side, difference in exported.differences.items():
        output.line(f"{side}: cosines differ from the run's by {difference:.0e} at most (three items)")
    output.line(f"written: {parsed.out} (README.md says how to load it)")
    if exported.address is not None:
        output.line(f"pushed: {exported.address}")
    output.summary(asdict(exported))
