"""``truepair demo``: mistakes put in, mistakes found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from truepair.cli.output import Output
from truepair.cli.parsing import parse
from truepair.config import DataConfig, NoiseConfig, Recipe, TrainingConfig
from truepair.training.recipe import load_recipe

# What measured best on the demo's development pairs; backbone, learning rate, schedule and temperature are the same.
METHODS = ("baseline", "crcl", "mscn", "disncl", "teacher")
SHUFFLED_FOR_TRAINING = 0.4
SHUFFLED_FOR_THE_AUDIT = 0.1


def recipes(seed: int, training: TrainingConfig, rate: float = SHUFFLED_FOR_TRAINING) -> dict[str, Recipe]:
    """The runs of the table, by the name of their folder: shipped recipes, and plain training on true pairs."""
    runs = {}
    for method in METHODS:
        recipe = load_recipe(f"{method}_cosine_demo_40")
        noise, trusted = replace(recipe.noise, rate=rate, seed=seed), replace(recipe.trusted, seed=seed)
        runs[method] = replace(recipe, noise=noise, trusted=trusted, training=training)
    plain = runs.pop("baseline")
    return {"plain": plain, **runs, "oracle": replace(plain, training=replace(training, oracle="clean_pairs"))}


ROWS = {
    "plain": "plain InfoNCE",
    "crcl": "CRCL",
    "mscn": "MSCN (two networks, {trusted} trusted pairs)",
    "disncl": "DisNCL",
    "teacher": "teacher (the default)",
    "oracle": "oracle (plain, true pairs only)",
}


MAIN = ("out", "seed")


@dataclass(frozen=True)
class Demo:
    """Audit real pairs, shuffle 40 % of their captions, and train on them plainly and robustly.

    Needs no data and no network: 2,365 pictures with captions come with truepair. Takes about three minutes on 2 cores.

    For example:
      truepair demo --out demo-run
    """

    out: Path = Path("demo-run")
    """The folder to write to. The same command again goes on where it stopped."""
    seed: int = 0
    """Seed of shuffles, weights and order."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, audit, train, audit, print."""
    parsed = parse(Demo, "demo", arguments, main=MAIN)
    from truepair.files.locking import alone_in

    with alone_in(parsed.out):
        _demonstrate(parsed, output)


def _demonstrate(parsed: Demo, output: Output) -> None:
    from truepair.audit.run import audit_corpus
    from truepair.cli.audit import say_audit
    from truepair.cli.tables import results_table
    from truepair.config.audit import AuditConfig
    from truepair.data.corpora import load_corpus
    from truepair.training.run import run

    data = DataConfig(path="demo")
    corpus = load_corpus(data)
    splits = corpus.splits
    output.line(
        f"demo corpus: {len(splits.train):,} training, {len(splits.dev)} development and {len(splits.test)} test pairs"
    )

    output.line("\nThe pairs as they are:")
    as_it_is = parsed.out / "audit-as-it-is"
    audit = AuditConfig(seed=parsed.seed, folds=3, repetitions=1)
    first_audit = audit_corpus(corpus, data, NoiseConfig(), as_it_is, audit)
    say_audit(first_audit, as_it_is, output)

    output.line(f"\nTraining with {SHUFFLED_FOR_TRAINING:.0%} of the training captions shuffled:")
    wanted = recipes(parsed.seed, TrainingConfig(seed=parsed.seed))
    results = {name: run(recipe, parsed.out / name, corpus) for name, recipe in wanted.items()}
    trusted = results["mscn"].pairs.trusted
    output.line(results_table({ROWS[name].format(trusted=trusted): result for name, result in results.items()}))
    output.line(
        f"rSum and recall in percent on the {len(splits.test)} test pairs; AUROC of finding the shuffled captions"
    )

    output.line(f"\nAn audit with {SHUFFLED_FOR_THE_AUDIT:.0%} shuffled, to look at:")
    noise = NoiseConfig(rate=SHUFFLED_FOR_THE_AUDIT, seed=parsed.seed)
    shuffled = parsed.out / "audit"
    second_audit = audit_corpus(corpus, data, noise, shuffled, audit)
    say_audit(second_audit, shuffled, output)
    output.summary(
        {"out": parsed.out, "audit_as_it_is": asdict(first_audit), "runs": results, "audit": asdict(second_audit)}
    )
