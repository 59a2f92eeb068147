"""From a recipe to numbers beside published ones: every member and seed trained, tested by the papers' protocol."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from truepair import __version__
from truepair.config import NoiseConfig, Recipe
from truepair.data.corpora import Corpus, load_corpus
from truepair.data.noise import NoiseLevel
from truepair.data.precomputed import is_precomputed
from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.retrieval import evaluate
from truepair.files.json import read_json, write_json
from truepair.files.locking import alone_in
from truepair.progress import progress
from truepair.sources.opening import is_source_folder
from truepair.training.device import make_fabric
from truepair.training.folder import finished, load_runs, refuse_another_run
from truepair.training.paths import FILES
from truepair.training.recipe import Member, RecipeFile
from truepair.training.results import RunResults
from truepair.training.run import run

MEASURES = (*(f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)), "rsum")
"""What is compared: the six recalls, in percent, and their sum."""

_RATES_DIFFER = 0.01
"""How far apart noise rates may be before a reproduction warns; published index files are off by less than 0.0001."""

Plan = Mapping[int, Mapping[Member, tuple[Recipe, Path]]]
"""Seed → network → recipe and folder of its run."""


@dataclass(frozen=True)
class _Seed:
    """The runs of one seed, by network, and the test metrics of all together."""

    seed: int
    members: Mapping[str, RunResults]
    test: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        members = {name: results.as_dict() for name, results in self.members.items()}
        return {"seed": self.seed, "members": members, "test": dict(self.test)}


def reproduce(file: RecipeFile, folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Train and test by a recipe once for each seed, which is that of the noise and of the training.

    A recipe of several members (SGRAF: a SAF and an SGR network) trains each by itself, in a folder of its own, and
    tests the mean of their similarity matrices. What is done is not done again: the same call resumes, and one with
    other seeds adds them to those that ``reproduction.json`` already has.

    Args:
        file: What to do, and what to compare with; the recipe's own seeds are not used.
        folder: Where to: ``<member>_<seed>/`` for each run, and ``reproduction.json``.
        seeds: Different numbers, at least 0.

    Returns:
        What ``reproduction.json`` holds: mean and standard deviation over the seeds of each of `MEASURES`, the
        published numbers, the differences, and all that they depend on.

    Raises:
        ConfigError: If there is no seed, one twice or one below 0, or another process is writing to `folder`.
        CheckpointError: If `folder` holds a reproduction of another recipe, or a damaged file.
        TruepairError: If the data or an option is wrong.
    """
    with alone_in(folder):
        return _reproduced(file, folder, plan(file, folder, seeds))


def _reproduced(file: RecipeFile, folder: Path, planned: Plan) -> dict[str, Any]:
    """As `reproduce`, in a folder that no other process writes to."""
    corpus = cache(lambda: load_corpus(file.recipe.data, file.recipe.model))
    runs = []
    with progress(folder.name, "runs", len(planned) * len(file.similarities)) as shown:
        for seed, members in planned.items():
            results: dict[str, RunResults] = {}
            for member, (recipe, here) in members.items():
                shown.describe(f"{folder.name}/{here.name}")
                results[member] = finished(recipe, here) or run(recipe, here, corpus())
                shown.advance()
            folders = [here for _, here in members.values()]
            test = _test(file.recipe, results, folders, folder / f"ensemble_{seed}.json", corpus)
            runs.append(_Seed(seed, results, test))
    summary = _summary(file, runs)
    write_json(folder / "reproduction.json", summary)
    return summary


def plan(file: RecipeFile, folder: Path, seeds: Sequence[int]) -> Plan:
    """All runs of a reproduction, those of earlier seeds included; nothing is trained or written.

    Args:
        file: See `reproduce`.
        folder: See `reproduce`.
        seeds: See `reproduce`.

    Raises:
        ConfigError: See `reproduce`.
        CheckpointError: See `reproduce`.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds are {', '.join(map(str, seeds)) or 'missing'}: name one or more, each once")
    path = folder / "reproduction.json"
    earlier = read_json(path, {"seeds": list, "members": list}) or {"seeds": [], "members": [*file.similarities]}
    if earlier["members"] != [*file.similarities]:
        raise CheckpointError(
            f"{path} is of other networks ({', '.join(map(str, earlier['members']))} there, "
            f"{', '.join(file.similarities)} here): choose a new folder, or delete this one"
        )
    planned: dict[int, dict[Member, tuple[Recipe, Path]]] = {}
    for seed in dict.fromkeys([*earlier["seeds"], *seeds]):
        planned[seed] = {}
        for member in file.similarities:
            recipe, here = member_recipe(file.recipe, member, seed), folder / f"{member}_{seed}"
            refuse_another_run(here, recipe)
            planned[seed][member] = recipe, here
    return planned


def member_recipe(recipe: Recipe, similarity: Member, seed: int) -> Recipe:
    """The recipe of one run: its similarity, and the seed of its noise and training.

    Members of one seed meet the same mismatches, as those of an ensemble must.
    """
    return replace(
        recipe,
        model=recipe.model.compared_by(similarity),
        noise=replace(recipe.noise, seed=seed),
        trusted=replace(recipe.trusted, seed=seed),
        training=replace(recipe.training, seed=seed),
    )


def rehearsal(recipe: Recipe) -> Recipe:
    """The same path through the same files, a tiny network, one epoch of each kind: its numbers mean nothing."""
    small = {"embedding": 16, "word_size": 16, "similarity_size": 8}
    read: dict[str, Any] = {name: size for name, size in small.items() if name not in recipe.network.unread}
    if recipe.model.projection == "identity":  # which has the width of the network's vectors
        read["projection"] = "plain"
    return replace(
        recipe,
        model=replace(recipe.model, projection_epochs=None, **read),
        method=recipe.method.rehearsed(),
    )


def with_data_in(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its files in `folder` instead of ``data/``; paths that do not start there stay."""

    def moved(path: str | None) -> str | None:
        parts = Path(path or "").parts
        return str(folder.joinpath(*parts[1:])) if parts[:1] == ("data",) else path

    def with_moved(config: Any, names: Sequence[str]) -> Any:
        name, *inner = names
        value = getattr(config, name)
        return replace(config, **{name: with_moved(value, inner) if inner else moved(value)})

    for option in FILES:
        recipe = with_moved(recipe, option.split("."))
    return recipe


def with_noise_index(file: RecipeFile, index: Path, convention: Literal["per_caption", "per_image"]) -> RecipeFile:
    """The recipe with the noise of a published index file in place of its own; the published row keeps its rate.

    Raises:
        ConfigError: If the recipe takes its trusted pairs from those that the index numbers.
    """
    noise = NoiseConfig(index=str(index), index_convention=convention)
    published = file.published and replace(file.published, noise_rate=_published_noise_rate(file))
    return replace(file, recipe=replace(file.recipe, noise=noise), published=published)


def missing_file(recipe: Recipe) -> tuple[str, Path] | None:
    """The first file that the recipe needs and that is not there, with the option that names it; None if all are.

    Of a folder of region features, also the file of each split is looked for, not what is in it.
    """
    named = [(option, attrgetter(option)(recipe)) for option in FILES]
    needed = [(option, Path(path)) for option, path in named if path not in (None, "demo")]
    folder = Path(recipe.data.path)
    if recipe.data.path != "demo" and folder.is_dir() and (is_precomputed(folder) or not is_source_folder(folder)):
        needed += [("data.path", folder / f"{split}_ims.npy") for split in ("train", "dev", recipe.data.test_split)]
        if recipe.trusted.source == "split":
            needed.append(("trusted.split", folder / f"{recipe.trusted.split}_ims.npy"))
    return next(((option, path) for option, path in needed if not path.exists()), None)


def _test(
    recipe: Recipe, results: Mapping[str, RunResults], folders: Sequence[Path], path: Path, corpus: Callable[[], Corpus]
) -> dict[str, float]:
    """Test metrics of one seed: the single network's own, or those of the mean of the members' similarities."""
    if len(results) == 1:
        (only,) = results.values()
        return only.test.as_dict()
    known = read_json(path, {"members": dict, "test": dict.fromkeys(MEASURES, int | float)})
    members = {name: run_results.as_dict() for name, run_results in results.items()}
    if known is None or known["members"] != members:  # other runs, if only by the seconds that they took
        runs = load_runs(folders, corpus())
        device = make_fabric(recipe.training.device).device
        models = [model.to(device) for run in runs for model in run.models]
        metrics = evaluate(models, runs[0].splits.test, recipe.data.test_folds, state=path.with_suffix(""))
        known = {"members": members, "test": metrics.as_dict()}
        write_json(path, known)
    return dict(known["test"])


def _summary(file: RecipeFile, runs: Sequence[_Seed]) -> dict[str, Any]:
    recipe, published = file.recipe, file.published
    tested = {name: [run.test[name] for run in runs] for name in MEASURES}
    mean = {name: statistics.fmean(values) for name, values in tested.items()}
    sd = {name: statistics.stdev(values) if len(values) > 1 else None for name, values in tested.items()}
    theirs = None
    if published is not None:
        numbers = (*published.image_to_text, *published.text_to_image, published.rsum)
        theirs = dict(zip(MEASURES, numbers, strict=True))
    first = next(iter(runs[0].members.values()))
    notes = [note for run in runs for results in run.members.values() for note in results.notes]
    return {
        "method": recipe.method.name,
        "members": list(file.similarities),
        "seeds": [run.seed for run in runs],
        "protocol": _protocol(file.similarities, first),
        "realised_noise_rate": first.realised_noise_rate,
        "realised_noise_level": first.realised_noise_level and asdict(first.realised_noise_level),
        "warnings": noise_differences(file, first.realised_noise_rate, first.realised_noise_level),
        "ours": {name: {"mean": mean[name], "sd": sd[name]} for name in MEASURES},
        "published": theirs,
        "difference": theirs and {name: mean[name] - theirs[name] for name in MEASURES},
        "source": published and published.source,
        "notes": [*([published.note] if published and published.note else []), *dict.fromkeys(notes)],
        "known_differences": _known_differences(recipe),
        "recipe": asdict(recipe),
        "truepair": __version__,
        "runs": [run.as_dict() for run in runs],
    }


def _published_noise_rate(file: RecipeFile) -> float | None:
    """The noise rate of the published row; None if there is no row, or an index file stands for its noise."""
    if file.published is None:
        return None
    own = file.recipe.noise.rate if file.recipe.noise.index is None else None
    return own if file.published.noise_rate is None else file.published.noise_rate


def noise_differences(file: RecipeFile, rate: float | None, level: NoiseLevel | None) -> list[str]:
    """Why the noise of a run makes its numbers another thing than those of the published row; nothing if it does not.

    Args:
        file: The recipe, with the row.
        rate: Share of the training captions that were found mismatched; None if the truth is not known.
        level: At which level they were.
    """
    warnings = []
    theirs, ours = _published_noise_rate(file), rate or 0.0
    if theirs is not None and abs(ours - theirs) > _RATES_DIFFER:
        warnings.append(
            f"{ours:.2%} of the training captions were mismatched here, but {theirs:.0%} for the published row: the "
            "numbers are not comparable"
        )
    row = file.published and file.published.noise_level
    if row is not None and level is not None and level.level in {"caption", "image", "mixed"} - {row}:
        held = "this run has" if file.recipe.noise.index is None else "this index holds"
        warnings.append(
            f"{held} {level.level}-level noise ({level.in_words}), but the row was measured with {row}-level noise: "
            "the numbers are not comparable"
        )
    return warnings


def _protocol(members: Sequence[str], results: RunResults) -> str:
    test = results.protocol
    size = f"{test.images // test.folds:,} images × {test.captions // test.folds:,} captions"
    folds = f"mean over {test.folds} folds of {size}" if test.folds > 1 else size
    count = len(members) * results.networks
    networks = "one network" if count == 1 else f"mean similarity of {count} networks"
    return (
        f"{results.corpus}, {test.split} split, {folds}; {networks} ({', '.join(members)}); "
        f"checkpoint by rSum on {results.pairs.dev:,} development captions"
    )


def _known_differences(recipe: Recipe) -> list[str]:
    """What need not be the same in the published run, where it cannot be checked here."""
    differences = [
        "features: those in data.path; other extractions of the same pictures give other numbers",
        "checkpoint: the best development epoch; how a second-hand number chose its own may differ",
        "ties in a ranking count against the model here, by position in the released codes",
    ]
    if recipe.noise.rate:
        drawn = (
            "noise: drawn by the seed, exactly at the rate; published index files are other draws, a little below it"
        )
        differences.insert(1, drawn)
    return differences
