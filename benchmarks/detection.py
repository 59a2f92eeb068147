"""How well mismatched pairs are found and mended: an audit against named baselines, and what mending buys.

    python benchmarks/detection.py demo --out runs/detection                # measure what is missing, print the tables
    python benchmarks/detection.py FOLDER --out runs/detection              # the same on a folder in SCAN's layout
    python benchmarks/detection.py demo --out runs/detection --table        # print the tables of what there is
    python benchmarks/detection.py demo --out runs/detection --fix          # what training gains from mended pairs
    python benchmarks/detection.py demo --out runs/detection --systems audit --audit.folds 8

All pairs of the demo are audited, and the training pairs of a FOLDER, with five captions an image, whose regions are
averaged to one vector, as in ``accuracy.py``. Captions are shuffled at random, or among captions that are
alike (hard noise). Every system sees the same noise, and has the audit's backbone, batches, folds (four unless given)
and repetitions; options that begin with --audit are the audit's own.

Of the baselines (see ``detection_baselines.py``), plain InfoNCE trains on every pair for --epochs passes. Of 4, 8 and
16, 8 were by and large best for them on the demo at 10 % and 40 %, with the truth in hand: the choice favours them.

best F1 is that of the best threshold, chosen with the truth in hand. ECE is the expected calibration error of the
mismatch probability (15 bins), and the estimated rate its mean, for systems that give one. "offered" is the share of
all shuffled captions whose suggested picture is their own, "given back" of those that get it by the suggestions that
the audit believes most, as many as leave at least 90 % of them right.

--fix trains plainly, on the demo by its recipe and on folders with options of its own: on the noisy training pairs, on
those that an audit of them keeps, on those and the ones that it gave another picture, and on the truly matching ones.

Everything runs on one thread, a result is saved as soon as it is there, and the same command goes on where it stopped.
Two processes may share a folder if they are given different --seeds.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import tyro
from accuracy import pooled
from detection_baselines import BASELINES, GIVE_PROBABILITIES, PlainConfig, PlainNetworks
from jaxtyping import Bool
from tables import spread
from torch import Tensor

from truepair.audit.run import audit_pairs
from truepair.cleaning.decisions import decide
from truepair.cleaning.summary import AuditSummary, read_summary
from truepair.cli.demo import recipes
from truepair.config import (
    BaselineConfig,
    DataConfig,
    ModelConfig,
    NoiseConfig,
    OptimisationConfig,
    Recipe,
    TrainingConfig,
)
from truepair.config.audit import AuditConfig
from truepair.data.corpora import Corpus, load_corpus
from truepair.data.noise import noisy
from truepair.data.pairs import Pairs
from truepair.data.text import Vocabulary
from truepair.data.whole import every_pair
from truepair.errors import ConfigError, TruepairError
from truepair.evaluation.detection import detection_metrics
from truepair.files.json import read_json, write_json
from truepair.training.fit import differences
from truepair.training.run import run

AUDIT, FIX = "audit", "fix"
SYSTEMS = (AUDIT, *BASELINES)
RATES = (0.1, 0.4, 0.2, 0.05)
PARTNERS = ("random", "similar")
ALIKE = {"random": "", "similar": " among captions that are alike"}
LEAST_PRECISION = 0.9
"""Of suggestions that count as given back."""
PLAIN_ON_THE_DEMO = recipes(0, TrainingConfig(), rate=0.0)["plain"]
# Step size 1e-3, a tenth of it after 7 of at most 12 passes, stopped after 4 without progress.
PLAIN_ON_FOLDERS = Recipe(
    model=ModelConfig(embedding=256, words="mean", input_dropout=0.2),
    method=BaselineConfig(epochs=12, optimisation=OptimisationConfig(learning_rate=1e-3, decay_epochs=7)),
    training=TrainingConfig(patience=4),
)
SETS = ("noisy", "kept", "mended", "oracle")
Measured = Mapping[str, float | None]


@dataclass(frozen=True)
class Bench:
    """A corpus and where its results go.

    Attributes:
        corpus: Its splits, and the vocabulary that made their tokens.
        pairs: Which of its pairs are audited, as they are on disk.
        plain: Plain training on it, for `fix_pays`; baselines take its loss and optimiser.
        out: The folder of the results.
    """

    corpus: Corpus
    pairs: Pairs
    plain: Recipe
    out: Path

    @classmethod
    def of(cls, data: str, out: Path) -> Bench:
        if data == "demo":
            corpus = load_corpus(DataConfig("demo"))
            return cls(corpus, every_pair(corpus.splits), PLAIN_ON_THE_DEMO, out)
        config = DataConfig(str(pooled(Path(data), out)), captions_per_image=5)
        corpus = load_corpus(config)
        return cls(corpus, corpus.splits.train, replace(PLAIN_ON_FOLDERS, data=config), out)


# --- Finding ----------------------------------------------------------------------------------------------------------


def measured_audit(pairs: Pairs, vocabulary: Vocabulary | None, folder: Path, config: AuditConfig) -> Measured:
    """What an audit finds; its whole output stays in `folder`."""
    summary = audited(pairs, vocabulary, folder, config)
    names = ("auroc", "average_precision", "best_f1", "expected_calibration_error", "true_noise_rate")
    found = {name: summary.truth[name] for name in names}
    found |= {"estimated_noise_rate": summary.estimated_noise_rate}
    return found | suggestions(folder / "findings.parquet", pairs)


def audited(pairs: Pairs, vocabulary: Vocabulary | None, folder: Path, config: AuditConfig) -> AuditSummary:
    """The summary of an audit with these options, made now unless `folder` holds it."""
    if not (folder / "summary.json").exists():
        return audit_pairs(pairs, vocabulary, folder, config)
    summary = read_summary(folder)
    refuse_others(folder, summary.audit, asdict(config))
    return summary


def measured_baseline(networks: PlainNetworks, system: str) -> Measured:
    """What a baseline finds."""
    found = detection_metrics(BASELINES[system](networks), truth(networks.pairs)).as_dict()
    if system not in GIVE_PROBABILITIES:  # a cosine may happen to lie in [0, 1]
        found |= {"expected_calibration_error": None, "estimated_noise_rate": None}
    return found


def truth(pairs: Pairs) -> Bool[Tensor, " pairs"]:
    """True where a pair matches."""
    is_clean = pairs.is_clean
    assert is_clean is not None  # noise was injected
    return is_clean


def suggestions(findings: Path, pairs: Pairs) -> Measured:
    """How many mismatched captions are offered their own picture, and get it by offers right to `LEAST_PRECISION`.

    Offers are taken in the order of the audit's probability of them, or, if it has none, the mutual ones in the order
    of the pairs' mismatch probability. Both numbers are shares of all mismatched captions.
    """
    table = pq.read_table(findings).to_pydict()
    true_image = pairs.true_image_of_caption
    assert true_image is not None  # noise was injected
    own = {name: pairs.image_ids[image] for name, image in zip(pairs.caption_ids, true_image.tolist(), strict=True)}
    is_own = [
        own[caption] == image for caption, image in zip(table["caption_id"], table["suggested_image_id"], strict=True)
    ]
    confidence = table.get("suggestion_probability")
    if confidence is None:
        mutual = zip(table["mismatch_probability"], table["suggestion_is_mutual"], strict=True)
        confidence = [probability if is_mutual else None for probability, is_mutual in mutual]
    offered = zip(confidence, is_own, table["suggested_image_id"], strict=True)
    offers = [(probability, right) for probability, right, image in offered if None not in (probability, image)]
    probability, is_right = np.array(offers, dtype=float).reshape(-1, 2).T
    mismatched = table["is_clean"].count(False)
    return {
        "given_back": right_at_precision(probability, is_right, LEAST_PRECISION) / mismatched,
        "suggested_right": sum(is_own) / mismatched,
    }


def right_at_precision(probability: np.ndarray, is_right: np.ndarray, least: float) -> int:
    """How many answers are right from the lowest threshold on at which at least the share `least` of them is."""
    order = np.argsort(-probability, kind="stable")
    right = is_right[order].cumsum()
    ends_tie = np.append(np.diff(probability[order]) != 0, True)[: len(order)]  # no threshold separates equal ones
    reached = ends_tie & (right / np.arange(1, len(order) + 1) >= least)
    return int(right[reached].max(initial=0))


# --- Mending ----------------------------------------------------------------------------------------------------------


def fix_pays(bench: Bench, noise: NoiseConfig, config: AuditConfig, folder: Path) -> Measured:
    """Test rSum, of 600, of plain training on noisy pairs, on what an audit makes of them, and on the matching ones."""
    train = noisy(bench.corpus.splits.train, noise)
    audited(train, bench.corpus.vocabulary, folder / AUDIT, config)
    kept, mended = cleaned(train, folder / AUDIT, config.threshold)
    clean, clean_kept, clean_mended = (truth(pairs) for pairs in (train, kept, mended))
    training = replace(bench.plain.training, seed=noise.seed, device=config.device)
    recipe = replace(bench.plain, training=training)
    sets = dict(zip(SETS, (train, kept, mended, train.select(clean.nonzero().flatten())), strict=True))
    corpora = {
        name: replace(bench.corpus, splits=replace(bench.corpus.splits, train=pairs)) for name, pairs in sets.items()
    }
    rsum = {name: run(recipe, folder / name, corpus).test.rsum for name, corpus in corpora.items()}
    return rsum | {
        "noise_kept": 1 - clean_kept.double().mean().item(),
        "re_paired": len(mended) - len(kept),
        "re_paired_right": int(clean_mended.sum() - clean_kept.sum()),
    }


def cleaned(pairs: Pairs, audit: Path, threshold: float) -> tuple[Pairs, Pairs]:
    """The pairs that an audit keeps, and those together with the pairs that get the image it suggests."""
    image_of_name = {name: image for image, name in enumerate(pairs.image_ids)}
    caption_of_name = {name: caption for caption, name in enumerate(pairs.caption_ids)}
    decisions = decide(pq.read_table(audit / "findings.parquet"), threshold=threshold, re_pair=True)
    stay = [
        (caption_of_name[one.caption_id], image_of_name[one.image_id], one.action == "keep")
        for one in decisions
        if one.action != "drop"
    ]
    captions, images, is_kept = (torch.tensor(column) for column in zip(*stay, strict=True))
    return pairs.select(captions[is_kept]), replace(pairs.select(captions), image_of_caption=images)


# --- Results ----------------------------------------------------------------------------------------------------------


def name_of(system: str, partners: str, rate: float, seed: int | str) -> str:
    return f"{re.sub(r'[^a-z0-9]+', '_', system.lower())}_{partners}_{100 * rate:g}_{seed}"


def refuse_others(path: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a result that was made with other options."""
    different = differences(known, json.loads(json.dumps(wanted)))
    if different:
        raise ConfigError(f"{path} was made with other options ({'; '.join(different)}): choose another --out")


def remembered(path: Path, options: Mapping[str, Any], measure: Callable[[], Measured]) -> Measured:
    """What `measure` gives, or gave with the same options before."""
    known = read_json(path)
    if known is not None:
        refuse_others(path, known["options"], options)
        return known["measured"]
    measured = measure()
    write_json(path, {"options": options, "measured": measured})
    return measured


def results(out: Path, system: str, partners: str, rate: float) -> list[dict[str, Any]]:
    """What was measured of a system, one entry a seed."""
    paths = sorted(out.glob(f"{name_of(system, partners, rate, '*')}.json"))
    return [json.loads(path.read_text())["measured"] for path in paths]


def markdown(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table under a title; nothing without rows."""
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([f"### {title}", "", *lines]) if len(lines) > 2 else ""


def cell(runs: Sequence[Mapping[str, Any]], name: str, digits: int, scale: float = 1.0) -> str:
    """Mean ± standard deviation over the seeds, or a dash."""
    values = [scale * one[name] for one in runs if one.get(name) is not None]
    return spread(values, digits) if values else "–"


def finding_table(out: Path, partners: str, rate: float) -> str:
    """One row a system."""
    metrics = {"AUROC": "auroc", "AP": "average_precision", "best F1": "best_f1", "ECE": "expected_calibration_error"}
    shares = {"estimated rate %": "estimated_noise_rate", "its error": "error"}
    shares |= {"offered %": "suggested_right", "given back %": "given_back"}
    head = ("system", "seeds", *metrics, *shares)
    rows = []
    for system in SYSTEMS:
        runs = results(out, system, partners, rate)
        for one in runs:
            estimated = one["estimated_noise_rate"]
            one["error"] = None if estimated is None else abs(estimated - one["true_noise_rate"])
        cells = [cell(runs, name, 3) for name in metrics.values()]
        cells += [cell(runs, name, 1, 100) for name in shares.values()]
        rows += [[system, str(len(runs)), *cells]] if runs else []
    return markdown(f"{100 * rate:g} % of the captions shuffled{ALIKE[partners]}", head, rows)


def fixing_table(out: Path, partners: str, rates: Iterable[float]) -> str:
    """One row a noise rate."""
    head = ("noise %", "seeds", *(f"rSum {name}" for name in SETS), "noise kept %", "re-paired", "of them right")
    rows = []
    for rate in rates:
        runs = results(out, FIX, partners, rate)
        cells = [cell(runs, name, 1) for name in SETS]
        cells += [cell(runs, "noise_kept", 1, 100), cell(runs, "re_paired", 0), cell(runs, "re_paired_right", 0)]
        rows += [[f"{100 * rate:g}", str(len(runs)), *cells]] if runs else []
    return markdown(f"Plain training on captions shuffled{ALIKE[partners]}", head, rows)


def tables(out: Path, rates: Sequence[float]) -> str:
    """All tables of what there is."""
    found = [finding_table(out, partners, rate) for partners in PARTNERS for rate in rates]
    return "\n\n".join(filter(None, [*found, *(fixing_table(out, partners, rates) for partners in PARTNERS)]))


# --- The ladder -------------------------------------------------------------------------------------------------------


def measure(bench: Bench, noise: NoiseConfig, systems: Iterable[str], audit: AuditConfig, plain: PlainConfig) -> None:
    """Every system on one noise; networks that several baselines read are trained once."""
    pairs, vocabulary = noisy(bench.pairs, noise), bench.corpus.vocabulary
    networks = PlainNetworks(pairs, vocabulary, plain)
    for system in systems:
        path = bench.out / f"{name_of(system, noise.partners, noise.rate, noise.seed)}.json"
        if system == AUDIT:
            work = partial(measured_audit, pairs, vocabulary, path.with_suffix(""), audit)
            found = remembered(path, asdict(audit), work)
        else:
            found = remembered(path, asdict(plain), partial(measured_baseline, networks, system))
        print(f"{path.stem}: AUROC {found['auroc']:.3f}", flush=True)


def measure_fix(bench: Bench, noise: NoiseConfig, audit: AuditConfig) -> None:
    """`fix_pays` on one noise."""
    path = bench.out / f"{name_of(FIX, noise.partners, noise.rate, noise.seed)}.json"
    audit = replace(audit, re_pair=True)
    options = {"audit": asdict(audit), "plain": asdict(bench.plain)}
    found = remembered(path, options, partial(fix_pays, bench, noise, audit, path.with_suffix("")))
    print(f"{path.stem}: rSum {', '.join(f'{name} {found[name]:.1f}' for name in SETS)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, default=Path("runs/detection"), help="a folder a corpus is made in it")
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    parser.add_argument("--partners", nargs="*", choices=PARTNERS, default=PARTNERS)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    parser.add_argument("--epochs", type=int, default=8, help="data passes of the baselines")
    parser.add_argument("--early-epochs", type=int, default=4, help="of them, before losses are ranked")
    parser.add_argument("--fix", action="store_true", help="train on mended pairs instead")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    arguments, of_audit = parser.parse_known_args()
    out = arguments.out / Path(arguments.data).resolve().name
    out.mkdir(parents=True, exist_ok=True)
    if not arguments.table:
        try:
            ladder(arguments, of_audit, Bench.of(arguments.data, out))
        except TruepairError as error:
            parser.exit(1, f"{error}\n")
    print(tables(out, sorted({*RATES, *arguments.rates})))


def ladder(arguments: argparse.Namespace, of_audit: Sequence[str], bench: Bench) -> None:
    """Measure what was asked for and is not there."""
    torch.set_num_threads(1)
    options = audit_options(of_audit)
    assert isinstance(bench.plain.method, BaselineConfig)
    for seed, partners, rate in product(arguments.seeds, arguments.partners, arguments.rates):
        noise, audit = NoiseConfig(rate=rate, partners=partners, seed=seed), replace(options, seed=seed)
        plain = PlainConfig(
            model=audit.model,
            method=replace(bench.plain.method, epochs=arguments.epochs),
            early_epochs=arguments.early_epochs,
            batch_size=audit.batch_size,
            folds=audit.folds or 4,
            repetitions=audit.repetitions or PlainConfig.repetitions,
            device=audit.device,
            seed=seed,
        )
        if arguments.fix:
            measure_fix(bench, noise, audit)
        else:
            measure(bench, noise, arguments.systems, audit, plain)


def audit_options(words: Sequence[str]) -> AuditConfig:
    """What ``--audit.…`` on the command line says."""

    @tyro.conf.configure(tyro.conf.AvoidSubcommands)
    def parsed(audit: AuditConfig = AuditConfig()) -> AuditConfig:  # noqa: B008 (frozen)
        return audit

    return tyro.cli(parsed, prog="detection.py", args=words)


if __name__ == "__main__":
    main()
