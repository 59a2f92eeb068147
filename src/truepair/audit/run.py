"""An audit from beginning to end: score the pairs, find the suspects, write findings, cleaned manifest and report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair import __version__
from truepair.audit.crossfit import at_most, cross_fitted, repetitions_of, trained_models, zero_shot
from truepair.audit.findings import Findings, find, findings_table, precision_at, right_suggestions
from truepair.audit.issues import KINDS, issues_of, write_issues
from truepair.audit.looking import looks_of
from truepair.audit.partners import NONE
from truepair.audit.probability import Probabilities, probabilities
from truepair.audit.report import write_report
from truepair.audit.score import candidates_of, cross_fitted_evidence, scores_by_a_run
from truepair.audit.sensitivity import sensitivity
from truepair.audit.siblings import judged_together
from truepair.cleaning.audit_folder import IN_MEMORY
from truepair.cleaning.decisions import decide
from truepair.cleaning.manifest import refuse_overwriting, write_pairs, write_table
from truepair.config import DataConfig, NoiseConfig
from truepair.config.audit import AuditConfig
from truepair.data.corpora import Corpus
from truepair.data.embeddings import stored_source
from truepair.data.pairs import Pairs
from truepair.data.text import Vocabulary
from truepair.data.whole import every_pair
from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.detection import detection_metrics
from truepair.files.json import write_json
from truepair.files.parquet import write_parquet
from truepair.model import MatchingModel
from truepair.scoring.judgement import share_above, warnings_about
from truepair.scoring.plausibility import Scores, are_local
from truepair.sources.table_files import is_table
from truepair.training.device import hardware, make_fabric, peak_memory_mb
from truepair.training.log import read_log
from truepair.training.run import TrainedRun, noisy


@dataclass(frozen=True)
class _Source:
    """Where audited pairs come from."""

    name: str
    data: DataConfig
    noise: NoiseConfig
    corpus: Corpus | None


def audit_corpus(
    corpus: Corpus, data: DataConfig, noise: NoiseConfig, out: Path, config: AuditConfig
) -> dict[str, Any]:
    """Audit a corpus by cross-fitting: no pair is judged by a model that saw its image or its caption.

    `out` then holds ``findings.parquet``, ``kept.*`` (the cleaned manifest), ``dropped.csv``, ``report.html`` and
    ``summary.json``. Nothing else is touched.

    Args:
        corpus: What ``load_corpus(data)`` gave.
        data: Where it is from.
        noise: Mismatches to put in first, to see whether they are found; none by default.
        out: The folder to write to; made if missing.
        config: How.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ConfigError: If there are too few pairs.
        DataError: If an output would overwrite the input.
    """
    started = time.perf_counter()
    _refuse_inputs(data, out)
    pairs = noisy(every_pair(corpus.splits) if config.split == "all" else corpus.splits.train, noise)
    source = _Source(corpus.splits.name, data, noise, corpus)
    return _cross_fit(pairs, corpus.vocabulary, source, out, config, started)


def audit_run(run: TrainedRun, out: Path, config: AuditConfig) -> dict[str, Any]:
    """Audit the training pairs of a run, by the confidence that its method came to.

    The model has been trained on the pairs that it judges here: quick, and it finds fewer mistakes than
    `audit_corpus`. `out` is as there. A run with SAF or SGR suggests no partners: to compare every suspect with the
    whole corpus would take days.

    Args:
        run: The run.
        out: The folder to write to; made if missing.
        config: Threshold, re-pairing, candidates, temperature, seed and cards; the rest is of no use here.

    Returns:
        What ``summary.json`` holds.

    Raises:
        CheckpointError: If the run has not finished, or its ``pairs.parquet`` is of other pairs.
        ConfigError: If pairs shall be re-paired by a run that suggests no partners.
        DataError: If an output would overwrite the input.
    """
    started = time.perf_counter()
    _refuse_inputs(run.recipe.data, out)
    if config.re_pair and are_local(run.models):
        raise ConfigError(
            f"audit.re_pair needs suggested partners, and the run in {run.folder}, with similarity "
            f"{run.recipe.model.similarity!r}, makes none: audit the corpus, or a run with similarity 'cosine'"
        )
    device = make_fabric(config.device).device
    confidence = _confidence(run)
    models = [model.to(device) for model in run.models]
    scores = scores_by_a_run(
        models, run.train, candidates=config.candidates, temperature=config.temperature, seed=config.seed
    )
    findings = find(
        run.train,
        scores,
        1 - confidence,
        lambda _: models,
        threshold=config.threshold,
        re_pair_threshold=config.re_pair_threshold,
        at_least=config.cards,
        at_most=config.partners,
        seed=config.seed,
    )
    source = _Source(run.corpus.splits.name, run.recipe.data, run.recipe.noise, run.corpus)
    log = read_log(run.folder / "log.jsonl")
    described = {
        "how": "run",
        "run": str(run.folder),
        "method": run.recipe.method.name,
        "saw_the_pairs": True,
        "candidates": candidates_of(models, config.candidates),
    }
    more = {"finds": None, "captions_together": None}
    return _write(
        findings, None, source, out, config, started=started, device=device, log=log, described=described, more=more
    )


def audit_pairs(pairs: Pairs, vocabulary: Vocabulary | None, out: Path, config: AuditConfig) -> dict[str, Any]:
    """Audit pairs that are in memory, by cross-fitting; as `audit_corpus` otherwise."""
    started = time.perf_counter()
    source = _Source(IN_MEMORY, DataConfig(), NoiseConfig(), None)
    return _cross_fit(pairs, vocabulary, source, out, config, started)


def _cross_fit(
    pairs: Pairs, vocabulary: Vocabulary | None, source: _Source, out: Path, config: AuditConfig, started: float
) -> dict[str, Any]:
    device = make_fabric(config.device).device  # refused here, in words, where there is none
    folds = zero_shot(pairs) if config.zero_shot else cross_fitted(pairs, vocabulary, config)
    evidence = cross_fitted_evidence(
        folds, pairs, candidates=config.candidates, temperature=config.temperature, seed=config.seed
    )
    found = probabilities(evidence, config.seed)
    scores = Scores(evidence.pairs[:, 0], found.log_odds.float(), found.random_log_odds.float())
    together = judged_together(folds, pairs, found.match, found.log_odds, config.seed) if found.weights else None
    match = found.match if together is None else together.match

    def judges(asked: Int[Tensor, " asked"]) -> list[MatchingModel]:
        """Models trained on what looks right, or, if nearly nothing does, on all pairs; zero-shot, the very same."""
        if config.zero_shot:
            return folds[0].models
        rest = torch.ones(len(pairs), dtype=torch.bool)
        rest[asked] = False
        learned = rest.nonzero().flatten() if rest.sum() >= config.batch_size else torch.arange(len(pairs))
        some = at_most(learned, config.most_learned, config.seed)
        return trained_models(
            pairs, [some], vocabulary, config, seed=config.seed + 1, description="learning from the rest"
        )[0]

    findings = find(
        pairs,
        scores,
        1 - match,
        judges,
        threshold=config.threshold,
        re_pair_threshold=config.re_pair_threshold,
        at_least=config.cards,
        at_most=config.partners,
        seed=config.seed,
    )
    trained = {
        "how": "cross-fitting",
        "folds": len(folds),
        "learned": len(folds[0].learned),
        "repetitions": repetitions_of(len(folds[0].learned), config),
        "method": config.method.name,
        "epochs": config.method.epochs,
    }
    described = ({"how": "zero-shot"} if config.zero_shot else trained) | {
        "saw_the_pairs": False,
        "candidates": candidates_of(folds[0].models, config.candidates),
    }
    more = {"finds": None, "captions_together": None if together is None else together.as_dict()}
    if found.weights:
        finds = sensitivity(
            folds,
            pairs,
            found,
            threshold=config.threshold,
            candidates=config.candidates,
            temperature=config.temperature,
            seed=config.seed,
        )
        more["finds"] = asdict(finds)
    return _write(
        findings, found, source, out, config, started=started, device=device, log=[], described=described, more=more
    )


def _write(
    findings: Findings,
    found: Probabilities | None,
    source: _Source,
    out: Path,
    config: AuditConfig,
    *,
    started: float,
    device: torch.device,
    log: Sequence[dict[str, Any]],
    described: dict[str, Any],
    more: dict[str, Any],
) -> dict[str, Any]:
    """Everything that goes into the folder."""
    pairs, scores = findings.pairs, findings.scores
    out.mkdir(parents=True, exist_ok=True)
    table_of_findings = findings_table(findings)
    write_parquet(table_of_findings, out / "findings.parquet")
    store = Path(source.data.path)
    looks = looks_of(pairs, store if store.is_dir() else None, config.look_at)
    issues = issues_of(pairs, looks)
    write_issues(issues, out / "issues.parquet")
    decisions = decide(table_of_findings, threshold=findings.threshold, re_pair=config.re_pair)
    table = _table(source)
    if table is not None and source.corpus is not None:
        corpus = source.corpus
        files = write_table(table, every_pair(corpus.splits), decisions, corpus.skipped, out)
    else:
        files = write_pairs(pairs, decisions, out)
    actions = [decision.action for decision in decisions]
    summary = {
        "corpus": source.name,
        "pairs": len(pairs),
        "images": len(pairs.image_of_caption.unique()),
        "estimated_mismatches": round(float(findings.mismatch_probability.double().sum()), 1),
        "estimated_noise_rate": round(float(findings.mismatch_probability.double().mean()), 4),
        "noise_rate_interval": None if found is None else [round(end, 4) for end in found.interval],
        "evidence_weights": None if found is None else found.weights,
        "warnings": [*warnings_about(pairs), *(() if found is None else found.warnings)],
        "separation": round(share_above(scores.log_odds, scores.random_log_odds), 4),
        "scored_by": described,
        **more,
        "threshold": config.threshold,
        "suspects": int(findings.is_suspect.sum()),
        "kept": actions.count("keep"),
        "dropped": actions.count("drop"),
        "re_paired": actions.count("re-pair"),
        "skipped": 0 if source.corpus is None else len(source.corpus.skipped),
        "source_kind": _source_kind(source),
        "image_root": None if table is None else str(Path(table.image_root or Path(table.path).parent)),
        "truth": _against_the_truth(findings, 1 - findings.mismatch_probability),
        "looked_at": None if looks is None else len(looks) - looks.count(None),
        "issues": {kind: sum(issue.issue == kind for issue in issues) for kind in KINDS},
        "files": {
            "findings": "findings.parquet",
            "issues": "issues.parquet",
            "manifest": files[0].name,
            "others": [file.name for file in files[1:]],
            "report": "report.html",
        },
        "data": asdict(source.data),
        "noise": asdict(source.noise),
        "audit": asdict(config),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_mb": peak_memory_mb(),
        "hardware": hardware(device),
        "truepair": __version__,
    }
    write_report(findings, issues, summary, out / "report.html", log=log, cards=config.cards)
    write_json(out / "summary.json", summary)
    return summary


def _confidence(run: TrainedRun) -> Float[Tensor, " pairs"]:
    path = run.folder / "pairs.parquet"
    if not path.exists():
        raise CheckpointError(
            f"the run in {run.folder} has not finished (no pairs.parquet): resume it with 'truepair train'"
        )
    table = pq.read_table(path, columns=["caption_id", "confidence"])
    if table["caption_id"].to_pylist() != list(run.train.caption_ids):
        raise CheckpointError(
            f"{path} is of other pairs than {run.recipe.data.path} now holds: was the corpus changed after training?"
        )
    return torch.tensor(table["confidence"].to_numpy())


def _table(source: _Source) -> DataConfig | None:
    """The table to clean; None for all that is none, and for pairs that were mismatched on purpose, in no file."""
    from_table = source.data.path != "demo" and is_table(Path(source.data.path))
    return source.data if source.corpus is not None and from_table and not _is_noisy(source) else None


def _source_kind(source: _Source) -> str | None:
    """What a feature store was made of, which ``truepair fix`` can copy; None as for `_table`."""
    store = stored_source(Path(source.data.path)) if source.corpus is not None else None
    return None if store is None or _is_noisy(source) else str(store["kind"])


def _is_noisy(source: _Source) -> bool:
    return source.noise.rate > 0 or source.noise.index is not None


def _refuse_inputs(data: DataConfig, out: Path) -> None:
    """Before any work: refuse a folder in which an output would overwrite an input."""
    inputs = [Path(p) for p in (data.path, data.image_features, data.caption_features) if p is not None]
    suffixes = {".csv", Path(data.path).suffix}
    names = ["findings.parquet", "issues.parquet", "dropped.csv", "re_paired.csv", "report.html", "summary.json"]
    names += ["kept_image_features.npy", "kept_caption_features.npy", *(f"kept{suffix}" for suffix in suffixes)]
    for name in names:
        refuse_overwriting(out / name, inputs)


def _against_the_truth(findings: Findings, confidence: Float[Tensor, " pairs"]) -> dict[str, Any] | None:
    """How well the audit did, where mistakes were put in on purpose."""
    clean = findings.pairs.is_clean
    if clean is None:
        return None
    suspects = findings.is_suspect
    mutual = suspects & findings.partners.is_mutual
    return detection_metrics(confidence, clean).as_dict() | {
        "mismatched": int((~clean).sum()),
        "suspects_mismatched": int((findings.is_suspect & ~clean).sum()),
        "precision_at_50": precision_at(findings, 50),
        "precision_at_100": precision_at(findings, 100),
        "suggested": int((suspects & ~clean & (findings.partners.image != NONE)).sum()),
        "suggested_right": right_suggestions(findings, suspects & ~clean),
        "mutual": int(mutual.sum()),
        "mutual_right": right_suggestions(findings, mutual),
    }
