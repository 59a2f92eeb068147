"""``truepair evaluate``: recall of trained runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import parse
from truepair.errors import ConfigError

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from truepair.evaluation.recall import RetrievalMetrics

MAIN = ("runs", "split", "folds", "state", "index", "device")


@dataclass(frozen=True)
class Evaluate:
    """Recall, median and mean rank of a trained run on its test pairs.

    Several runs are taken as one model: their similarities are averaged. They may differ in everything but their data
    and how many networks they have: a run with SAF and one with SGR together are SGRAF. An evaluation that takes longer
    than 10 seconds saves its state; the same command goes on from there.

    For example:
      truepair evaluate runs/crcl
      truepair evaluate runs/saf runs/sgr --split dev
      truepair evaluate runs/coco --folds 1
      truepair evaluate --index index/
    """

    runs: Positional[tuple[Path, ...]] = ()
    """Folders of trained runs."""
    split: Literal["test", "dev"] = "test"
    """Which pairs to search."""
    folds: int | None = None
    """Number of equal parts that the images are cut into, searched one by one, and averaged. By default as the runs'
    recipes say for the test split (data.test_folds; 5 for MS-COCO 1K), and 1 for the development split."""
    state: Path | None = None
    """Folder for the state of a long evaluation; by default the first run's."""
    index: Path | None = None
    """In place of runs, an index of 'truepair index': recall of its own pairs, recall of an approximate index against
    exact search, and the time of a query."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; "auto" takes a GPU if there is one."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, evaluate, print."""
    parsed = parse(Evaluate, "evaluate", arguments, main=MAIN)
    if parsed.index is not None:
        _evaluate_index(parsed, parsed.index, output)
        return
    from truepair.cli.tables import mismatches
    from truepair.data.noise import noise_level
    from truepair.evaluation.retrieval import evaluate
    from truepair.training.device import make_fabric
    from truepair.training.folder import load_runs

    if not parsed.runs:
        raise ConfigError("name at least one run: truepair evaluate runs/…")
    device = make_fabric(parsed.device).device
    runs = load_runs(parsed.runs)
    first = runs[0]
    pairs = getattr(first.splits, parsed.split)
    of_recipe = {"test": (first.recipe.data.test_split, first.recipe.data.test_folds), "dev": ("dev", 1)}
    split, folds = of_recipe[parsed.split]
    folds = folds if parsed.folds is None else parsed.folds
    models = [model.to(device) for run in runs for model in run.models]
    metrics = evaluate(models, pairs, folds, state=parsed.state or first.folder)

    protocol = f"{len(pairs.images):,} images × {len(pairs):,} captions"
    if folds > 1:
        protocol += f", in {folds} folds of {len(pairs.images) // folds:,} images, averaged"
    if len(models) > 1:
        protocol += f"; mean similarity of {len(models)} models"
    output.line(f"{first.corpus.splits.name}, {split} split: {protocol}")
    _say_recall(metrics, output)
    noise = [(run.train.realised_noise_rate, noise_level(run.train)) for run in runs]
    for rate, level in dict.fromkeys(noise):
        if rate:
            output.line(mismatches(rate, level))
    output.summary(
        {
            "corpus": first.corpus.splits.name,
            "split": split,
            "images": len(pairs.images),
            "captions": len(pairs),
            "folds": folds,
            "models": len(models),
            "noise": [{"realised_rate": rate, "realised_level": level and asdict(level)} for rate, level in noise],
            **metrics.as_dict(),
        }
    )


def _say_recall(metrics: RetrievalMetrics, output: Output) -> None:
    """Recall and ranks, a line a direction."""
    for way, short in (("image_to_text", "image → text"), ("text_to_image", "text → image")):
        values = {name: getattr(metrics, f"{way}_{name}") for name in ("r1", "r5", "r10", "median_rank", "mean_rank")}
        output.line(
            f"{short}   R@1 {values['r1']:5.1f}  R@5 {values['r5']:5.1f}  R@10 {values['r10']:5.1f}   "
            f"median rank {values['median_rank']:g}, mean {values['mean_rank']:.1f}"
        )
    output.line(f"rSum {metrics.rsum:.1f} of 600")


def _evaluate_index(parsed: Evaluate, folder: Path, output: Output) -> None:
    """Measure an index."""
    unread = [
        name
        for name in ("runs", "split", "folds", "state", "device")
        if getattr(parsed, name) != getattr(Evaluate, name)
    ]
    if unread:
        raise ConfigError(f"--index is {folder}, which is measured as a whole: leave {' and '.join(unread)} out")
    from truepair.cli.index import calibration_lines
    from truepair.search.index import open_index
    from truepair.search.measuring import measure_index

    index = open_index(folder)
    metrics = measure_index(index)
    counts = {side: index.manifest.count(side) for side in ("images", "captions")}
    output.line(f"{folder}: {counts['images']:,} images × {counts['captions']:,} captions")
    _say_recall(metrics.retrieval, output)
    for side, recall in metrics.recall_of_approximate.items():
        output.line(f"{side}: the approximate index finds {recall:.1%} of the ten best")
    for side, (p50, p95) in metrics.milliseconds.items():
        output.line(f"{side}: ten best of one encoded query in {p50:.1f} ms (median), {p95:.1f} ms (95 %)")
    for line in calibration_lines(index.manifest):
        output.line(line)
    output.summary({"index": folder, **counts, **metrics.as_dict()})
