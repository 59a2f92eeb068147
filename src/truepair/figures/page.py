"""From finished runs to one page of figures, and an SVG file for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from truepair import __version__
from truepair.config import Recipe
from truepair.data.corpora import Corpus, corpora_one_by_one
from truepair.errors import ConfigError, TruepairError
from truepair.figures.charts import (
    components_chart,
    confidence_histogram,
    curves_chart,
    margin_chart,
    mixture_chart,
    scalar_chart,
    state_chart,
    tolerance_chart,
)
from truepair.figures.curves import MEASURES, Curve, NoiseFigure, noise_figures, option_figures
from truepair.figures.runs import SIMILAR, FinishedRun, LeftOut, find_runs, short
from truepair.files.locking import alone_in
from truepair.files.names import slug
from truepair.files.parquet import read_parquet
from truepair.files.replacing import replacing
from truepair.inspection.charts import similarity_histogram
from truepair.inspection.codes import drawn
from truepair.inspection.separation import Separation, truth_is_of_use
from truepair.pages.html import write_page
from truepair.progress import progress
from truepair.random_streams import Stream
from truepair.scoring.encodings import similarity_of_pairs
from truepair.spread import plus_minus
from truepair.training.folder import load_run, recipe_from_here
from truepair.training.log import means_by_epoch

_MOST_SHOWN = 8
"""Systems whose training pairs are drawn."""
_OF_MIXTURES = ("noise_rate", "mismatched_a", "mismatched_b", "clean_a", "clean_b")
"""Scalars that MSCN logs of a mixture."""


@dataclass(frozen=True)
class Figure:
    """A chart, the name of its file, and what to see in it."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Numbers behind a figure."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """Figures that belong together."""

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def draw_figures(folders: Sequence[Path], out: Path, *, pairs: int, rate: float, seed: int) -> dict[str, Any]:
    """Draw all that the runs have: ``figures.html``, and a file ``NAME.svg`` for each figure, in `out`.

    Without a run, only what needs none. The runs are never changed.

    Args:
        folders: Of runs, or that hold runs.
        out: Where to; made if missing.
        pairs: Training pairs of a run whose similarities are drawn; 0 draws no similarities.
        rate: Of each system, the run at the noise rate nearest to it shows its pairs.
        seed: Draws the pairs.

    Returns:
        The figures' files and captions by name, the runs drawn and those left out.

    Raises:
        ConfigError: If a folder holds no run, none has finished, or another process is writing to `out`.
    """
    if pairs < 0 or pairs == 1:
        raise ConfigError(f"--pairs is {pairs}, but pairs are compared with one another: ask for 2 or more, or 0")
    runs, left_out = find_runs(folders)
    if folders and not runs:
        raise ConfigError(f"no run there has finished: {'; '.join(f'{each.folder} ({each.why})' for each in left_out)}")
    with alone_in(out):
        return _draw(runs, left_out, out, pairs=pairs, rate=rate, seed=seed)


def _draw(
    runs: Sequence[FinishedRun], left_out: list[LeftOut], out: Path, *, pairs: int, rate: float, seed: int
) -> dict[str, Any]:
    """As `draw_figures`, in a folder that no other process writes to; the page is written last."""
    sections = list(sections_of(runs, left_out, pairs=pairs, rate=rate, seed=seed))
    figures = [figure for section in sections for figure in section.figures]
    for figure in figures:
        with replacing(out / f"{figure.name}.svg") as temporary:
            temporary.write_text(figure.svg, encoding="utf-8")
    write_page(
        "truepair.figures",
        "figures.html",
        out / "figures.html",
        {figure.name: figure.svg for figure in figures},
        sections=sections,
        runs=[str(run.folder) for run in runs],
        left_out=left_out,
        version=__version__,
    )
    return {
        "page": out / "figures.html",
        "figures": {figure.name: figure.caption for figure in figures},
        "runs": len(runs),
        "left_out": {str(each.folder): each.why for each in left_out},
    }


def sections_of(
    runs: Sequence[FinishedRun], left_out: list[LeftOut], *, pairs: int, rate: float, seed: int
) -> Iterable[Section]:
    """All sections, in the page's order; runs whose data cannot be read are added to `left_out`."""
    noise = noise_figures(runs)
    several = [figure for figure in noise if figure.rates > 1]
    yield from (_noise_section(number, figure) for number, figure in enumerate(several, 1))
    yield from _option_sections(runs)
    everything = list(_shown(noise, runs, rate))
    shown = everything[:_MOST_SHOWN]
    corpus = corpora_one_by_one()
    with progress("pairs", "runs", len(shown)) as bar:
        for number, (system, run) in enumerate(shown, 1):
            bar.describe(str(run.folder))
            yield _pairs_section(number, system, run, corpus, left_out, pairs, seed)
            bar.advance()
    if len(everything) > len(shown):
        others = ", ".join(f"{system} ({run.folder})" for system, run in everything[len(shown) :])
        said = f"The training pairs of {_MOST_SHOWN} systems are drawn. Name fewer runs to see those of {others}."
        yield Section("Training pairs of other systems", (said,))
    yield Section(
        "What noise can cost the complementary loss",
        (
            "CRCL's Figure 2: bounds on the difference between what the minimiser of the clean risk and that of the "
            "noisy risk come to, for uniform noise η among 100 candidates, one direction. Both shrink to 0 as q goes "
            "to 1, where noise leaves the order of all models as it is.",
        ),
        (
            Figure("tolerance", tolerance_chart(), "Solid: noisy risk, at most. Dashed: clean risk, at least."),
            Figure("tolerance_02", tolerance_chart((0.2,)), "The paper's setting alone: η = 0.2, N = 100."),
        ),
    )


def _noise_section(number: int, figure: NoiseFigure) -> Section:
    level = {
        "caption": "captions moved singly",
        SIMILAR: "captions exchanged with similar ones",
        "image": "all captions of an image moved together",
    }
    said = "without noise" if figure.level == "none" else level.get(figure.level, f"level: {figure.level}")
    name = f"noise_{number}_{slug(figure.corpus.split(',')[0])}_{slug(figure.level)}"
    figures = [
        Figure(
            f"{name}_{measure}",
            curves_chart(
                _in_percent(curves), "Noise rate, %", MEASURES[measure], f"{MEASURES[measure]} by noise rate."
            ),
            f"{MEASURES[measure]} of the test pairs. Bars are standard deviations over seeds, where there are several.",
        )
        for measure, curves in figure.curves.items()
    ]
    rows = [
        [curve.label, f"{100 * point.at:g} %", plus_minus(point.mean, point.sd), ", ".join(map(str, point.seeds))]
        for curve in figure.curves["rsum"]
        for point in curve.points
    ]
    text = [f"{figure.corpus}; {said}.", *_missing_seeds(figure.curves["rsum"])]
    return Section("Against the noise rate", text, figures, (Table(("system", "noise", "rSum", "seeds"), rows),))


def _in_percent(curves: Sequence[Curve]) -> list[Curve]:
    return [
        replace(curve, points=tuple(replace(point, at=100 * point.at) for point in curve.points)) for curve in curves
    ]


def _missing_seeds(curves: Sequence[Curve]) -> list[str]:
    """A sentence where cells have different seeds, so that their means are not of the same noise."""
    every = {point.seeds for curve in curves for point in curve.points}
    if len(every) < 2:
        return []
    return ["Cells have different seeds (the table says which): differences between their means are partly the seeds'."]


def _option_sections(runs: Sequence[FinishedRun]) -> Iterable[Section]:
    for number, figure in enumerate(option_figures(runs), 1):
        curves = figure.curves["rsum"]
        short_name = figure.option.rpartition(".")[2]
        chart = curves_chart(curves, figure.option, "rSum", f"rSum by {figure.option}.")
        rows = [
            [curve.label or "–", short(point.at), plus_minus(point.mean, point.sd), ", ".join(map(str, point.seeds))]
            for curve in curves
            for point in curve.points
        ]
        yield Section(
            f"Against {figure.option}",
            (f"{figure.method} on {figure.corpus}; {figure.noise}.", *_missing_seeds(curves)),
            (Figure(f"option_{number}_{figure.method}_{slug(short_name)}", chart, "rSum of the test pairs."),),
            (Table(("other options", short_name, "rSum", "seeds"), rows),),
        )


def _shown(
    figures: Sequence[NoiseFigure], runs: Sequence[FinishedRun], rate: float
) -> Iterable[tuple[str, FinishedRun]]:
    """Of each system at each level, the run nearest to the rate, with the first seed."""
    by_folder, done = {run.folder: run for run in runs}, set[Path]()
    for figure in figures:
        for system in dict.fromkeys(figure.systems.values()):
            of_system = [by_folder[folder] for folder, name in figure.systems.items() if name == system]
            run = min(of_system, key=lambda run: (abs(run.rate - rate), run.results.seed))
            if run.folder not in done:
                done.add(run.folder)
                yield system, run


def _pairs_section(
    number: int,
    system: str,
    run: FinishedRun,
    corpus: Callable[[Recipe], Corpus],
    left_out: list[LeftOut],
    pairs: int,
    seed: int,
) -> Section:
    """Similarities, confidence and state of a run's training pairs, and what else its method has."""
    name = f"pairs_{number}_{slug(system)}_{slug(run.level)}_{100 * run.rate:.0f}"
    figures = [
        *_similarities(name, run, corpus, left_out, pairs, seed),
        *_confidences(name, run),
        *_histories(name, run),
    ]
    if run.recipe.method.name == "mscn":
        margin = margin_chart(run.recipe.method.margin)
        figures.append(Figure(f"{name}_margin", margin, "The margin that a pair of some similarity must keep (MSCN)."))
    return Section(
        f"Training pairs: {system}", (f"{run.results.corpus}, {run.noise}, seed {run.results.seed}.",), figures
    )


def _similarities(
    name: str, run: FinishedRun, corpus: Callable[[Recipe], Corpus], left_out: list[LeftOut], count: int, seed: int
) -> Iterable[Figure]:
    if not count:
        return
    try:
        trained = load_run(run.folder, corpus(recipe_from_here(run.folder, run.recipe)))
    except TruepairError as error:
        left_out.append(LeftOut(run.folder, f"its pairs are not drawn: {error}"))
        return
    if not truth_is_of_use(trained.train):
        return
    some = drawn(trained.train, count, Stream.INSPECTION.generator(seed))
    if not truth_is_of_use(some):
        return
    similarity = similarity_of_pairs(trained.models, some)
    assert some.is_clean is not None
    separation = Separation(similarity[some.is_clean], similarity[~some.is_clean])
    chart = similarity_histogram(separation, "Similarity", ("matching", "mismatched"))
    yield Figure(f"{name}_similarity", chart, f"Similarity of {len(some):,} training pairs, in evaluation mode.")


def _confidences(name: str, run: FinishedRun) -> Iterable[Figure]:
    """Of ``pairs.parquet``: the confidence, and what the method itself remembers of its pairs."""
    path = run.folder / "pairs.parquet"
    if not path.exists():
        return
    table = read_parquet(path)
    is_clean = table["is_clean"].to_numpy() if "is_clean" in table.column_names else None
    captions = {"confidence": "Confidence that each training pair matches, of the tested checkpoint."}
    captions |= {
        column: "What the method itself remembers of each pair after the last epoch."
        for column in table.column_names
        if column.startswith("last_")
    }
    for column, caption in captions.items():
        values = table[column].to_numpy()
        is_known = ~np.isnan(values)
        if not is_known.any() or np.nanmin(values) == np.nanmax(values):
            continue  # the method has no such state, or does not change it
        rows_of = {"all": is_known}
        if is_clean is not None:
            rows_of = {"matching": is_known & is_clean, "mismatched": is_known & ~is_clean}
        kinds = {kind: values[rows] for kind, rows in rows_of.items() if rows.any()}
        said = column.removeprefix("last_")
        yield Figure(f"{name}_{column}", confidence_histogram(kinds, said), caption)


def _histories(name: str, run: FinishedRun) -> Iterable[Figure]:
    """Of ``log.jsonl``: the state of pairs after each epoch, and MSCN's meta loss."""
    log = run.log()
    epochs = {line["epoch"] + 1: line.get("pair_state", {}) for line in log if line["kind"] == "epoch"}
    for state in dict.fromkeys(state for states in epochs.values() for state in states):
        history = {epoch: states[state] for epoch, states in epochs.items() if state in states}
        if len({str(kinds) for kinds in history.values()}) < 2:
            continue  # nothing happens
        chart = state_chart(history, state)
        caption = f"The method's {state} of its pairs after each epoch: median, and the middle 80 % of the pairs."
        yield Figure(f"{name}_{state}_by_epoch", chart, caption)
    yield from _mixtures(name, log, {epoch: states.get("similarity", {}) for epoch, states in epochs.items()})
    meta = means_by_epoch(log, "meta_loss")
    if meta:
        yield Figure(f"{name}_meta_loss", scalar_chart(meta, "meta loss"), "Loss of the head on labelled pairs (MSCN).")


def _mixtures(
    name: str, log: Sequence[Mapping[str, Any]], similarities: Mapping[int, Mapping[str, Sequence[int]]]
) -> Iterable[Figure]:
    """MSCN's mixtures: both components by epoch, and the first and the last one over the similarities."""
    of_names = {each: means_by_epoch(log, f"mixture_{each}") for each in _OF_MIXTURES}
    mixtures = {epoch: {each: of_names[each][epoch] for each in of_names} for epoch in of_names["noise_rate"]}
    mixtures = {epoch: mixture for epoch, mixture in mixtures.items() if similarities.get(epoch)}
    if not mixtures:
        return
    if len(mixtures) > 1:
        said = "Means of both Betas of MSCN's mixture, and its share of mismatched pairs, in each epoch that purifies."
        yield Figure(f"{name}_mixture_by_epoch", components_chart(mixtures), said)
    for epoch in dict.fromkeys((min(mixtures), max(mixtures))):
        chart = mixture_chart(similarities[epoch], mixtures[epoch])
        said = (
            f"Similarities of the training pairs and the mixture of two Betas that chose pairs in epoch {epoch} (MSCN)."
        )
        yield Figure(f"{name}_mixture_{epoch}", chart, said)
