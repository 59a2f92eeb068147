"""``truepair reproduce``: published numbers, and ours beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import parse
from truepair.cli.tables import mismatches
from truepair.config import Recipe
from truepair.errors import ConfigError, TrainingError, TruepairError
from truepair.files.locking import alone_in
from truepair.files.names import slug
from truepair.files.replacing import replacing
from truepair.spread import plus_minus
from truepair.training.recipe import RecipeFile, load_recipe_file

LABELS = {
    "image_to_text_r1": "i2t R@1",
    "image_to_text_r5": "i2t R@5",
    "image_to_text_r10": "i2t R@10",
    "text_to_image_r1": "t2i R@1",
    "text_to_image_r5": "t2i R@5",
    "text_to_image_r10": "t2i R@10",
    "rsum": "rSum",
}


MAIN = ("recipes", "data", "out", "seeds", "rehearse", "noise.index", "compare-anyway", "device", "precision")


@dataclass(frozen=True)
class NoiseIndex:
    """A noise index for all recipes."""

    index: Path | None = None
    """A published noise index (.npy) to use instead of the noise of the recipes."""
    index_convention: Literal["per_caption", "per_image"] = "per_caption"
    """What the index holds: the image of each caption (NCR, CRCL, MSCN) or a permutation of images (DECL)."""


@dataclass(frozen=True)
class Reproduce:
    """Train by recipes, once for each seed, test by the papers' protocol, and print ours / published / difference.

    Where a recipe has members (SGRAF is a SAF and an SGR network), each is trained, and their similarities are
    averaged. The same command again goes on where it stopped; finished runs are read, not trained again. The corpora
    are not part of truepair: docs/data_formats.md says which files are expected.

    For example:
      truepair reproduce crcl_sgraf_f30k_40 --data /corpora --rehearse
      truepair reproduce crcl_sgraf_f30k_20 crcl_sgraf_f30k_40 --data /corpora --out reproductions
      truepair reproduce crcl_ablation --data /corpora --seeds 0
    """

    recipes: Positional[tuple[Path, ...]]
    """Recipes, or sets of recipes, each a table: files, or names of those that come with truepair."""
    seeds: tuple[int, ...] | None = None
    """One run each, or one of each member; a seed is that of the noise and of the training. 0, 1 and 2 by default, and
    0 alone for a rehearsal; seeds that were run before are summarised with them."""
    data: Path = Path("data")
    """The folder that stands for data/ in the recipes."""
    out: Path = Path("reproductions")
    """The folder to write to; each recipe gets one in it."""
    rehearse: bool = False
    """Run the same path with a tiny network for one epoch, in OUT/rehearsal, to see that files and disk are right
    before hours of training."""
    compare_anyway: bool = False
    """Put numbers beside a published row although the noise index has another rate or level; they are then labelled as
    not comparable. Without it, such an index is refused before anything is trained."""
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None
    """Where to train, whatever the recipes say; "auto" takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed"] | None = None
    """Arithmetic of the forward pass in training, whatever the recipes say."""
    noise: NoiseIndex = field(default_factory=NoiseIndex)
    """Mismatches put in on purpose."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, check that all recipes can run, then train, test and print them one by one."""
    parsed = parse(Reproduce, "reproduce", arguments, main=MAIN)
    if not parsed.recipes:
        raise ConfigError("name at least one recipe: truepair reproduce crcl_sgraf_f30k_40")
    name, again = Counter(path.stem for path in parsed.recipes).most_common(1)[0]
    if again > 1:
        raise ConfigError(f"{again} recipes are called {name}, and would share a folder: reproduce them one by one")
    from truepair.training.recipe_sets import find_set, load_set

    files, sets = dict[str, RecipeFile](), dict[str, tuple[str, dict[str, str]]]()
    for path in parsed.recipes:
        of_set = find_set(path)
        if of_set is None:
            files[path.stem] = load_recipe_file(path)
            continue
        found, rows = load_set(of_set)
        folders = {row: f"{of_set.stem}/{slug(row)}" for row in rows}
        if len({*folders.values()}) < len(rows):
            raise ConfigError(f"{of_set}: two rows would share a folder ({', '.join(folders.values())}): rename one")
        sets[of_set.stem] = found.title, folders
        files |= {folders[row]: file for row, file in rows.items()}
    from truepair.training.reproduce import plan, rehearsal, reproduce, with_data_in

    out = parsed.out / "rehearsal" if parsed.rehearse else parsed.out
    seeds = parsed.seeds if parsed.seeds is not None else (0,) if parsed.rehearse else (0, 1, 2)
    for name, file in files.items():  # the last recipe may be days away
        recipe = _with_hardware(with_data_in(file.recipe, parsed.data), parsed)
        _refuse_missing(recipe, name)
        files[name] = replace(file, recipe=rehearsal(recipe) if parsed.rehearse else recipe)
    if parsed.noise.index is not None:
        files = _with_noise_index(files, parsed)
    for name, file in files.items():
        plan(file, out / name, seeds)
    summaries, failed = dict[str, dict[str, Any]](), dict[str, str]()
    for name, file in files.items():
        try:
            summary = summaries[name] = reproduce(file, out / name, seeds)
        except TruepairError as error:  # the others may be days of work
            if len(files) == 1:
                raise
            failed[name] = str(error)
            output.note(f"{name} failed: {error}")
            continue
        output.line(comparison(name, summary, is_rehearsal=parsed.rehearse))
        output.line(f"runs: {out / name}\n")
    for name, (title, folders) in sets.items():
        written = set_table(title, folders, summaries, is_rehearsal=parsed.rehearse)
        with alone_in(out / name), replacing(out / name / "table.md") as temporary:
            temporary.write_text(written, encoding="utf-8")
        output.line(f"{written}\ntable: {out / name / 'table.md'}\n")
    output.summary({"out": out, "is_rehearsal": parsed.rehearse, "recipes": summaries, "failed": failed})
    if failed:
        raise TrainingError(f"{len(failed)} of {len(files)} recipes failed: {', '.join(failed)}")


def set_table(
    title: str, folders: Mapping[str, str], summaries: Mapping[str, Mapping[str, Any]], *, is_rehearsal: bool
) -> str:
    """The rows of a set as a Markdown table; a row that failed has dashes.

    Args:
        title: Of the table.
        folders: Row → its name among the summaries.
        summaries: What `reproduce` returned, by name.
        is_rehearsal: Say so in the title.
    """
    lines = [
        f"{'REHEARSAL, the numbers mean nothing: ' if is_rehearsal else ''}{title}",
        "",
        f"| | {' | '.join(LABELS.values())} | published rSum | difference | noise | seeds |",
        f"|---|{'---|' * (len(LABELS) + 4)}",
    ]
    for row, name in folders.items():
        summary = summaries.get(name)
        if summary is None:
            lines.append(f"| {row} | {' | '.join(['–'] * (len(LABELS) + 4))} |")
            continue
        ours = [plus_minus(**summary["ours"][measure]) for measure in LABELS]
        published, difference = "–", "–"
        if summary["published"] is not None:
            published, difference = f"{summary['published']['rsum']:.1f}", f"{summary['difference']['rsum']:+.1f}"
        level, rate = summary["realised_noise_level"], summary["realised_noise_rate"]
        noise = "not known" if rate is None else f"{100 * rate:.1f} %, {level['level'] if level else 'level not known'}"
        difference = "not comparable" if summary["warnings"] else "–" if is_rehearsal else difference
        seeds = ", ".join(map(str, summary["seeds"]))
        lines.append(f"| {row} | {' | '.join(ours)} | {published} | {difference} | {noise} | {seeds} |")
    return "\n".join([*lines, ""])


def _with_hardware(recipe: Recipe, parsed: Reproduce) -> Recipe:
    training = recipe.training
    return replace(
        recipe,
        training=replace(
            training,
            device=parsed.device or training.device,
            precision=parsed.precision or training.precision,
        ),
    )


def _refuse_missing(recipe: Recipe, name: str) -> None:
    from truepair.training.reproduce import missing_file

    missing = missing_file(recipe)
    if missing is not None:
        option, path = missing
        raise ConfigError(
            f"{name}: {option} '{path}' does not exist; name the folder that holds the corpora with --data "
            "(docs/data_formats.md says which files are expected)"
        )


def _with_noise_index(files: Mapping[str, RecipeFile], parsed: Reproduce) -> dict[str, RecipeFile]:
    """The recipes with the noise of an index file, which is tried on the training pairs of each.

    Raises:
        ConfigError: If its rate or level is not that of a published row, unless that is asked for.
    """
    from truepair.data.corpora import corpora_one_by_one
    from truepair.data.noise import noise_level
    from truepair.training.reproduce import noise_differences, with_noise_index
    from truepair.training.splits import prepared_splits

    assert parsed.noise.index is not None
    corpus, noisy = corpora_one_by_one(), {}
    for name, file in files.items():
        try:
            noisy[name] = with_noise_index(file, parsed.noise.index, parsed.noise.index_convention)
            recipe = noisy[name].recipe
            train = prepared_splits(recipe, corpus(recipe)).splits.train
        except TruepairError as error:
            raise type(error)(f"{name}: {error}") from error
        different = noise_differences(noisy[name], train.realised_noise_rate, noise_level(train))
        if different and not parsed.compare_anyway:
            raise ConfigError(f"{name}: {'; '.join(different)}. With --compare-anyway they are compared, and labelled")
    return noisy


def comparison(name: str, summary: Mapping[str, Any], *, is_rehearsal: bool = False) -> str:
    """A recipe's results beside the published ones, and everything that they depend on.

    Args:
        name: The recipe's.
        summary: What `reproduce` returned.
        is_rehearsal: Say so in every line that has a number.
    """
    from truepair.data.noise import NoiseLevel

    level = summary["realised_noise_level"]
    ours = {measure: plus_minus(**summary["ours"][measure]) for measure in LABELS}
    head = "REHEARSAL" if is_rehearsal else "ours"
    rows = [("", head, "published", "NOT COMPARABLE" if summary["warnings"] else "difference")]
    for measure, label in LABELS.items():
        published, difference = "-", "-"
        if summary["published"] is not None:
            published = f"{summary['published'][measure]:.1f}"
            difference = f"{summary['difference'][measure]:+.1f}"
        rows.append((label, ours[measure], published, "-" if is_rehearsal else difference))
    seeds = ", ".join(map(str, summary["seeds"]))
    return "\n".join(
        [
            f"{'REHEARSAL, the numbers mean nothing: ' if is_rehearsal else ''}{name}",
            *(f"{a:<9} {b:>13} {c:>10} {d:>14}" for a, b, c, d in rows),
            f"seeds: {seeds}{' (mean ± standard deviation)' if len(summary['seeds']) > 1 else ''}",
            mismatches(summary["realised_noise_rate"], NoiseLevel(**level) if level else None),
            *(f"warning: {line}" for line in summary["warnings"]),
            f"protocol: {summary['protocol']}",
            f"published: {summary['source'] or 'no number in the recipe'}",
            *(f"note: {line}" for line in summary["notes"]),
            *(f"may differ: {line}" for line in summary["known_differences"]),
        ]
    )
