"""``truepair evaluate``: recall of trained runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Evaluate:
    """Recall, median and mean rank of a trained run on its test pairs, every image against every caption.

    Several runs are taken as one model: their similarities are averaged. Where noise was injected, a single run's
    detection of it is printed too.

    For example:
      truepair evaluate runs/crcl
      truepair evaluate runs/saf runs/sgr --split dev
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of trained runs."""
    split: Literal["test", "dev"] = "test"
    """Which pairs to search."""


def command(arguments: Sequence[str]) -> None:
    """Parse, evaluate, print."""
    parsed = tyro.cli(Evaluate, prog="truepair evaluate", args=arguments)
    from truepair.errors import ConfigError
    from truepair.evaluation.retrieval import evaluate
    from truepair.training.run import load_run

    if not parsed.runs:
        raise ConfigError("name at least one run: truepair evaluate runs/…")
    runs = [load_run(folder) for folder in parsed.runs]
    splits = {run.corpus.splits.name: run.corpus.splits for run in runs}
    if len({run.recipe.data for run in runs}) > 1:
        raise ConfigError(
            f"the runs are of different data ({', '.join(splits)}): only runs of the same data can be one model"
        )
    pairs = getattr(next(iter(splits.values())), parsed.split)
    metrics = evaluate([run.model for run in runs], pairs)
    print(f"{runs[0].corpus.splits.name}, {parsed.split} split: {len(pairs.images):,} images × {len(pairs):,} captions")
    for way, short in (("image_to_text", "image → text"), ("text_to_image", "text → image")):
        values = {name: getattr(metrics, f"{way}_{name}") for name in ("r1", "r5", "r10", "median_rank", "mean_rank")}
        print(
            f"{short}   R@1 {values['r1']:5.1f}  R@5 {values['r5']:5.1f}  R@10 {values['r10']:5.1f}   "
            f"median rank {values['median_rank']:g}, mean {values['mean_rank']:.1f}"
        )
    print(f"rSum {metrics.rsum:.1f} of 600")
