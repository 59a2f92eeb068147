"""``truepair demo``: mistakes put in, mistakes found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from truepair.cli.output import Output
from truepair.cli.parsing import parse
from truepair.config import AuditConfig, DataConfig, NoiseConfig, Recipe, TrainingConfig
from truepair.training.recipe import load_recipe

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from truepair.cleaning.summary import AuditSummary
    from truepair.data.corpora import Corpus
    from truepair.training.results import RunResults

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
    """Put mistakes into real pairs, find them again, and train on mistakes plainly and robustly.

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
    from truepair.data.corpora import load_corpus

    corpus = load_corpus(DataConfig(path="demo"))
    splits = corpus.splits
    pairs = len(splits.train) + len(splits.dev) + len(splits.test)
    audit = AuditConfig(seed=parsed.seed, folds=3, repetitions=1)
    first, second = parsed.out / "audit-as-it-is", parsed.out / "audit"

    output.line(f"1 of 3. {pairs:,} drawings with a caption each, as they came:")
    first_audit = _audited(corpus, NoiseConfig(), first, audit, output)

    output.line(
        f"\n2 of 3. Mistakes put in: {SHUFFLED_FOR_THE_AUDIT:.0%} of the captions changed places. Are they found?"
    )
    noise = NoiseConfig(rate=SHUFFLED_FOR_THE_AUDIT, seed=parsed.seed)
    second_audit = _audited(corpus, noise, second, audit, output)
    output.line(found_again(second_audit))

    output.line(
        f"\n3 of 3. Training with {SHUFFLED_FOR_TRAINING:.0%} of the captions on the wrong image. Which methods mind?"
    )
    results = _trained(parsed, corpus, output)
    output.line(f"\nreport: {second / second_audit.files.report} (open it in a browser)")
    output.line(f"next: truepair review {second}, or your own pictures: truepair audit captions.csv --out audit/")
    output.summary(
        {"out": parsed.out, "audit_as_it_is": asdict(first_audit), "runs": results, "audit": asdict(second_audit)}
    )


def _audited(corpus: Corpus, noise: NoiseConfig, out: Path, config: AuditConfig, output: Output) -> AuditSummary:
    from truepair.audit.run import audit_corpus
    from truepair.cli.audit import say_audit

    summary = audit_corpus(corpus, DataConfig(path="demo"), noise, out, config)
    say_audit(summary, out, output)
    return summary


def found_again(audit: AuditSummary) -> str:
    """How many of the mistakes that were put in are among an audit's suspects."""
    assert audit.truth is not None  # mistakes were put in
    found, wrong = audit.truth["suspects_mismatched"], audit.truth["mismatched"]
    return f"of the {wrong:,} captions that changed places, {found:,} are among the {audit.suspects:,} suspects"


def _trained(parsed: Demo, corpus: Corpus, output: Output) -> dict[str, RunResults]:
    """The runs of the table, by the name of their folder; the table and what it says are printed."""
    from truepair.cli.tables import results_table
    from truepair.training.run import run

    wanted = recipes(parsed.seed, TrainingConfig(seed=parsed.seed))
    results = {name: run(recipe, parsed.out / name, corpus) for name, recipe in wanted.items()}
    trusted = results["mscn"].pairs.trusted
    output.line(results_table({ROWS[name].format(trusted=trusted): result for name, result in results.items()}))
    output.line(
        f"rSum and recall in percent on the {len(corpus.splits.test)} test pairs, which were left as they are; "
        "AUROC of finding the wrong training pairs"
    )
    output.line(lost_to_the_mistakes({name: result.test.rsum for name, result in results.items()}))
    return results


def lost_to_the_mistakes(rsum: Mapping[str, float]) -> str:
    """How far plain training, the papers' methods and the default are from training on true pairs alone.

    >>> lost_to_the_mistakes({"plain": 157.0, "crcl": 177.0, "teacher": 187.5, "oracle": 199.0})
    'rSum below the oracle: plain InfoNCE 42.0, CRCL 22.0, teacher (the default) 11.5'
    """
    names = {name: ROWS[name].partition(" (two")[0] for name in rsum if name != "oracle"}
    lost = ", ".join(f"{title} {rsum['oracle'] - rsum[name]:.1f}" for name, title in names.items())
    return f"rSum below the oracle: {lost}"
