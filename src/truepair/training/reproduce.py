"""From a recipe to numbers beside published ones: every member and seed trained, tested by the papers' protocol."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from tqdm import tqdm

from truepair import __version__
from truepair.config import CrclConfig, Recipe
from truepair.data.corpora import Corpus, load_corpus
from truepair.errors import ConfigError
from truepair.evaluation.retrieval import evaluate
from truepair.training.recipe import Member, Published
from truepair.training.run import finished, load_run, read_json, run, write_json

MEASURES = (*(f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)), "rsum")
"""What is compared: the six recalls, in percent, and their sum."""


def reproduce(recipe: Recipe, published: Published | None, folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Train and test by `recipe` once for each seed, which is that of the noise and of the training.

    A recipe of several members (SGRAF: a SAF and an SGR network) trains each by itself, in a folder of its own, and
    tests the mean of their similarity matrices. What is done is not done again: the same call resumes, and adds seeds.

    Args:
        recipe: What to do; its own seeds are not used.
        published: What to compare with, and the members.
        folder: Where to: ``<member>_<seed>/`` for each run, and ``reproduction.json``.
        seeds: Different numbers, at least 0.

    Returns:
        What ``reproduction.json`` holds: mean and standard deviation over the seeds of each of `MEASURES`, the
        published numbers, the differences, and all that they depend on.

    Raises:
        ConfigError: If there is no seed, or one twice.
        CheckpointError: If a run's folder holds a run of another recipe.
        TruepairError: If the data or an option is wrong.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds are {', '.join(map(str, seeds)) or 'missing'}: name one or more, each once")
    members = (published and published.members) or (recipe.model.similarity,)
    corpus = cache(lambda: load_corpus(recipe.data))
    runs = []
    with tqdm(total=len(seeds) * len(members), unit="run", disable=None, file=sys.stderr) as bar:
        for seed in seeds:
            results: dict[str, Any] = {}
            for member in members:
                bar.set_description(f"{folder.name}/{member}_{seed}")
                of_member = member_recipe(recipe, member, seed)
                here = folder / f"{member}_{seed}"
                results[member] = finished(of_member, here) or run(of_member, here, corpus())
                bar.update()
            test = _test(recipe.data.test_folds, results, folder, seed, corpus)
            runs.append({"seed": seed, "members": results, "test": test})
    summary = _summary(recipe, published, members, runs)
    write_json(folder / "reproduction.json", summary)
    return summary


def member_recipe(recipe: Recipe, similarity: Member, seed: int) -> Recipe:
    """The recipe of one run: its similarity, and the seed of its noise and training.

    Members of one seed meet the same mismatches, as those of an ensemble must.
    """
    return replace(
        recipe,
        model=replace(recipe.model, similarity=similarity),
        noise=replace(recipe.noise, seed=seed),
        training=replace(recipe.training, seed=seed),
    )


def rehearsal(recipe: Recipe) -> Recipe:
    """The same path through the same files with a tiny network and a single data pass: its numbers mean nothing."""
    method = recipe.method
    return replace(
        recipe,
        model=replace(recipe.model, embedding=16, word_size=16, similarity_size=8),
        method=replace(method, stages=(1,), frozen_epochs=0)
        if isinstance(method, CrclConfig)
        else replace(method, epochs=1),
    )


def with_data_in(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its files in `folder` instead of ``data/``; paths that do not start there stay."""

    def moved(path: str) -> str:
        parts = Path(path).parts
        return str(folder.joinpath(*parts[1:])) if parts[:1] == ("data",) else path

    data, noise = recipe.data, recipe.noise
    vocabulary = data.vocabulary and moved(data.vocabulary)
    return replace(
        recipe,
        data=replace(data, path=moved(data.path), vocabulary=vocabulary),
        noise=replace(noise, index=noise.index and moved(noise.index)),
    )


def _test(
    folds: int, results: Mapping[str, Any], folder: Path, seed: int, corpus: Callable[[], Corpus]
) -> dict[str, float]:
    """Test metrics of one seed: the single network's own, or those of the mean of the members' similarities."""
    if len(results) == 1:
        (only,) = results.values()
        return dict(only["test"])
    path = folder / f"ensemble_{seed}.json"
    known = read_json(path)
    if known is None or known["members"] != results:  # other runs, if only by the seconds that they took
        runs = [load_run(folder / f"{member}_{seed}", corpus()) for member in results]
        device = Fabric(accelerator=runs[0].recipe.training.accelerator, devices=1).device
        models = [run.model.to(device) for run in runs]
        metrics = evaluate(models, corpus().splits.test, folds, state=folder / f"ensemble_{seed}")
        known = {"members": results, "test": metrics.as_dict()}
        write_json(path, known)
    return dict(known["test"])


def _summary(
    recipe: Recipe, published: Published | None, members: Sequence[str], runs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    tested = {name: [run["test"][name] for run in runs] for name in MEASURES}
    mean = {name: statistics.fmean(values) for name, values in tested.items()}
    sd = {name: statistics.stdev(values) if len(values) > 1 else None for name, values in tested.items()}
    theirs = None
    if published is not None:
        numbers = (*published.image_to_text, *published.text_to_image, published.rsum)
        theirs = dict(zip(MEASURES, numbers, strict=True))
    first = next(iter(runs[0]["members"].values()))
    return {
        "method": recipe.method.name,
        "members": list(members),
        "seeds": [run["seed"] for run in runs],
        "protocol": _protocol(recipe, members, first),
        "realised_noise_rate": first["noise"]["realised_rate"],
        "ours": {name: {"mean": mean[name], "sd": sd[name]} for name in MEASURES},
        "published": theirs,
        "difference": theirs and {name: mean[name] - theirs[name] for name in MEASURES},
        "source": published and published.source,
        "note": published and published.note,
        "known_differences": [*_known_differences(recipe), *first["notes"]],
        "recipe": asdict(recipe),
        "truepair": __version__,
        "runs": list(runs),
    }


def _protocol(recipe: Recipe, members: Sequence[str], results: Mapping[str, Any]) -> str:
    test = results["protocol"]
    size = f"{test['images'] // test['folds']:,} images × {test['captions'] // test['folds']:,} captions"
    folds = f"mean over {test['folds']} folds of {size}" if test["folds"] > 1 else size
    networks = "one network" if len(members) == 1 else f"mean similarity of {len(members)} networks"
    return (
        f"{results['corpus']}, {test['split']} split, {folds}; {networks} ({', '.join(members)}); "
        f"checkpoint by rSum on {results['pairs']['dev']:,} development captions"
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
