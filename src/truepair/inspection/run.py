"""An inspection from beginning to end: codes of a run, what they hold, and a page of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from truepair import __version__
from truepair.data.pairs import Pairs
from truepair.errors import ConfigError
from truepair.files.json import write_json
from truepair.files.locking import alone_in
from truepair.inspection.charts import code_map, histogram_edges, history_chart, similarity_histogram
from truepair.inspection.codes import Codes, codes_of, drawn
from truepair.inspection.history import EpochOfCodes, history_of
from truepair.inspection.maps import plane_map
from truepair.inspection.measures import (
    FEWEST_ITEMS,
    WIDEST_TARGET,
    Probe,
    SharedInformation,
    exclusive_information,
    probes_of,
    shared_information,
)
from truepair.inspection.neighbours import directions, nearest
from truepair.inspection.page import examples_of, write_inspection
from truepair.inspection.separation import Separation, separations, truth_is_of_use
from truepair.progress import progress
from truepair.random_streams import Stream
from truepair.training.folder import TrainedRun
from truepair.training.log import read_log

_NEIGHBOURS = 8
_PAIRS_ON_MAPS = 300
"""So that two maps take a few seconds."""
_USUAL_TEMPERATURE = 0.05
"""For InfoNCE bounds of a method without a temperature of its own."""

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


@dataclass(frozen=True, eq=False)
class _Found:
    """What was measured on some pairs of a run."""

    train: Pairs
    test: Pairs
    codes: Mapping[str, Codes]
    separation: Mapping[str, Separation]
    shared: SharedInformation | None
    exclusive: Mapping[str, float | None] | None
    probes: Sequence[Probe]
    maps: Mapping[str, str | None]
    neighbours: Mapping[int, Mapping[str, list[int] | None]]


def inspect_run(run: TrainedRun, out: Path, *, items: int, examples: int, seed: int) -> dict[str, Any]:
    """Look at the shared and exclusive codes of a run's best checkpoint.

    `out` then holds ``inspect.html`` and ``inspect.json``. Of a run with several networks, similarities are means over
    all of them, and codes are the first one's. The same run and options give the same bytes.

    Args:
        run: A run whose network has codes.
        out: The folder to write to; made if missing.
        items: Training pairs, and as many test pairs, that are looked at; all if there are fewer.
        examples: Images whose neighbours are shown.
        seed: Draws pairs, examples and what is estimated.

    Returns:
        What ``inspect.json`` holds.

    Raises:
        ConfigError: If the run has no codes, an option is out of range, `out` cannot be made, or another process is
            writing to it.
    """
    _refuse(run, items, examples)
    with alone_in(out):
        return _inspect(run, out, items=items, examples=examples, seed=seed)


def _inspect(run: TrainedRun, out: Path, *, items: int, examples: int, seed: int) -> dict[str, Any]:
    """As `inspect_run`, in a folder that no other process writes to."""
    found = _measured(run, items=items, examples=examples, seed=seed)
    summary = _summary(run, found, seed)
    kinds = summary["separation"]["kinds"]
    charts = {
        "history": history_chart(_history(run), run.recipe.method.warmup_epochs),
        "shared_similarity": similarity_histogram(found.separation["shared"], "Similarity in the shared space", kinds),
        "features_similarity": similarity_histogram(found.separation["features"], "Cosine of the features h", kinds),
    }
    write_inspection(
        summary, examples_of(found.train, found.neighbours), charts | dict(found.maps), out / "inspect.html"
    )
    write_json(out / "inspect.json", summary)
    return summary


def _refuse(run: TrainedRun, items: int, examples: int) -> None:
    if run.recipe.network.codes == "none":
        raise ConfigError(
            f"the run in {run.folder} was trained with method {run.recipe.method.name!r}, whose network makes no "
            'shared or exclusive codes: inspect a run with method.name = "disncl"'
        )
    if items < 2:
        raise ConfigError(f"--items is {items}, but pairs are compared with one another: ask for at least 2")
    if examples < 0:
        raise ConfigError(f"--examples is {examples}, but a number of images is at least 0")


def _measured(run: TrainedRun, *, items: int, examples: int, seed: int) -> _Found:
    generator = Stream.INSPECTION.generator(seed)
    train, test = (drawn(pairs, items, generator) for pairs in (run.train, run.splits.test))
    if min(len(train), len(test)) < 2:
        raise ConfigError(
            f"{run.corpus.splits.name} has {len(train):,} training and {len(test):,} test images, but at least 2 of "
            "each are needed to compare pairs: inspect a run on more data"
        )
    model = run.models[0]
    with progress("looking", "steps", 8) as shown:

        def step(what: str, work: Callable[_Given, _Made], *given: _Given.args, **named: _Given.kwargs) -> _Made:
            shown.describe(what)
            made = work(*given, **named)
            shown.advance()
            return made

        codes = step("codes of training pairs", codes_of, model, train, seed)
        test_codes = step("codes of test pairs", codes_of, model, test, seed)
        return _Found(
            train=train,
            test=test,
            codes=codes,
            separation=step("similarities", separations, run.models, train, codes, generator),
            shared=step(
                "shared information", shared_information, run.models, train, test, _temperature(run), generator
            ),
            exclusive=step("exclusive information", exclusive_information, codes, seed),
            probes=step("probes", probes_of, codes, test_codes, seed),
            maps=step("maps", _maps, codes, train, generator, seed),
            neighbours=step("neighbours", _neighbours, codes["image"], examples, generator),
        )


def _summary(run: TrainedRun, found: _Found, seed: int) -> dict[str, Any]:
    train, image = found.train, found.codes["image"]
    known = truth_is_of_use(train)
    batch = _batch(run)
    return {
        "run": str(run.folder),
        "corpus": run.corpus.splits.name,
        "method": run.recipe.method.name,
        "networks": len(run.models),
        "widths": {
            "features": image.features.shape[1],
            "shared": image.shared.shape[1],
            "exclusive": None if image.exclusive is None else image.exclusive.shape[1],
        },
        "exclusive_codes": _exclusive_codes(run),
        "pairs": len(train),
        "test_pairs": len(found.test),
        "pairs_on_maps": min(_PAIRS_ON_MAPS, len(train)),
        "seed": seed,
        "truth_known": known,
        "clean_share": 1 - run.train.realised_noise_rate if run.train.realised_noise_rate is not None else None,
        "temperature": _temperature(run),
        "history": {"batch": batch, "most": math.log(batch), "epochs": [asdict(epoch) for epoch in _history(run)]},
        "separation": {
            "kinds": ("matching pairs", "mismatched pairs") if known else ("your pairs", "random pairings"),
            **{space: _numbers(separation) for space, separation in found.separation.items()},
        },
        "shared_information": None if found.shared is None else asdict(found.shared),
        "exclusive_information": found.exclusive,
        "fewest_items": FEWEST_ITEMS,
        "probes": [asdict(probe) for probe in found.probes],
        "widest_target": WIDEST_TARGET,
        "neighbours": _by_name(train, found.neighbours),
        "truepair": __version__,
    }


def _exclusive_codes(run: TrainedRun) -> str:
    """Whether there are any, and if not, why."""
    if run.models[0].exclusive is not None:
        return "there"
    return "not trained" if run.recipe.network.codes == "shared" else "dropped"


def _temperature(run: TrainedRun) -> float:
    return float(getattr(run.recipe.method, "temperature", _USUAL_TEMPERATURE))


def _batch(run: TrainedRun) -> int:
    return min(run.recipe.training.batch_size, len(run.train))


def _history(run: TrainedRun) -> list[EpochOfCodes]:
    """Empty where the log was not kept."""
    path = run.folder / "log.jsonl"
    return history_of(read_log(path), _batch(run)) if path.exists() else []


def _numbers(separation: Separation) -> dict[str, Any]:
    edges = histogram_edges(separation)
    return {
        "auroc": separation.auroc,
        "edges": edges.tolist(),
        "matching": np.histogram(separation.matching.double().numpy(), edges)[0].tolist(),
        "mismatched": np.histogram(separation.mismatched.double().numpy(), edges)[0].tolist(),
    }


def _maps(codes: Mapping[str, Codes], pairs: Pairs, generator: np.random.Generator, seed: int) -> dict[str, str | None]:
    """Charts of both kinds of codes of some pairs, image and text together; None where there is nothing to draw."""
    rows = torch.from_numpy(generator.permutation(len(pairs))[:_PAIRS_ON_MAPS])
    image, text = codes["image"], codes["text"]
    clean = pairs.is_clean
    joined = list(range(len(rows))) if clean is None else clean[rows].nonzero().flatten().tolist()
    together = {"shared_map": directions(torch.cat([image.shared[rows], text.shared[rows]]))}
    if image.exclusive is not None and text.exclusive is not None:
        together["exclusive_map"] = torch.cat([image.exclusive[rows], text.exclusive[rows]])
    charts: dict[str, str | None] = {"shared_map": None, "exclusive_map": None}
    for name, values in together.items():
        placed = plane_map(values, seed)
        if placed is not None:
            charts[name] = code_map(placed[: len(rows)], placed[len(rows) :], joined)
    return charts


def _neighbours(image: Codes, examples: int, generator: np.random.Generator) -> dict[int, dict[str, list[int] | None]]:
    """Some images, and those closest to each by its shared and by its exclusive code."""
    asked = torch.from_numpy(generator.permutation(len(image.shared))[:examples])
    shared = nearest(directions(image.shared), asked, _NEIGHBOURS).tolist()
    exclusive = None if image.exclusive is None else nearest(image.exclusive, asked, _NEIGHBOURS).tolist()
    return {
        row: {"shared": shared[place], "exclusive": None if exclusive is None else exclusive[place]}
        for place, row in enumerate(asked.tolist())
    }


def _by_name(pairs: Pairs, neighbours: Mapping[int, Mapping[str, list[int] | None]]) -> list[dict[str, Any]]:
    names = [pairs.image_ids[image] for image in pairs.image_of_caption.tolist()]
    return [
        {"image": names[row]}
        | {kind: None if rows is None else [names[other] for other in rows] for kind, rows in close.items()}
        for row, close in neighbours.items()
    ]
