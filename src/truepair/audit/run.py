"""An audit from beginning to end: score the pairs, find the suspects, write findings, issues and report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair import __version__
from truepair.audit.crossfit import trained_without
from truepair.audit.findings import Findings, find, findings_table, precision_at, right_suggestions
from truepair.audit.image_facts import image_facts
from truepair.audit.issues import KINDS, issues_of, issues_table
from truepair.audit.judging import Judgement, judged
from truepair.audit.report import write_report
from truepair.audit.score import scores_by_a_run
from truepair.audit.sensitivity import sensitivity
from truepair.cleaning.generation import FILES, generation_of, marked, next_generation
from truepair.cleaning.summary import IN_MEMORY, AuditSummary, Files, Finds, ScoredBy, Together
from truepair.config import DataConfig, NoiseConfig
from truepair.config.audit import AuditConfig
from truepair.data.corpora import Corpus
from truepair.data.embeddings import stored_encoders, stored_source
from truepair.data.noise import noisy
from truepair.data.pairs import Pairs
from truepair.data.splitting import pairs_and_their_images
from truepair.data.text import Vocabulary
from truepair.data.whole import every_pair, in_order_of_names
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.evaluation.detection import detection_metrics
from truepair.files.locking import alone_in
from truepair.files.names import FINDINGS, ISSUES, REPORT
from truepair.files.parquet import read_parquet, write_parquet
from truepair.model import MatchingModel
from truepair.scoring.best import NONE
from truepair.scoring.confidence import warnings_about
from truepair.scoring.cross_fitting import candidates_of
from truepair.scoring.encodings import are_local
from truepair.scoring.log_odds import Scores
from truepair.scoring.noise_rate import share_above
from truepair.scoring.probability import Probabilities, noise_rate_interval
from truepair.sources.decoding import UNREADABLE
from truepair.sources.protocol import Skipped
from truepair.sources.skipped import SKIPPED, read_skipped, write_skipped
from truepair.training.device import hardware, make_fabric, peak_memory_mb
from truepair.training.folder import TrainedRun
from truepair.training.log import read_log
from truepair.training.paths import whole_data

_MEASURED = ("seconds", "peak_memory_mb", "hardware")
"""What of a summary is not the same for every audit with the same results."""
_MANY_TIMES = 4
"""So many times as many pairs as models learned: hardly any of the pairs that partners are sought for was learned."""


@dataclass(frozen=True)
class _Audited:
    """Where audited pairs come from."""

    name: str
    data: DataConfig
    noise: NoiseConfig
    corpus: Corpus | None
    left_out: Sequence[Skipped] = ()
    """Beside what was left out when the corpus was read."""

    @property
    def encoders(self) -> tuple[str, str] | None:
        """What made the embeddings of images and of captions, where that is known."""
        return stored_encoders(Path(self.data.path)) if self.corpus is not None else None

    @property
    def is_noisy(self) -> bool:
        """Whether pairs were mismatched on purpose, which are in no file."""
        return self.noise.rate > 0 or self.noise.index is not None

    @property
    def features(self) -> dict[str, str]:
        """Feature files beside a table."""
        files = {"images": self.data.image_features, "captions": self.data.caption_features}
        return {name: str(Path(path).resolve()) for name, path in files.items() if path is not None}


def audit_corpus(corpus: Corpus, data: DataConfig, noise: NoiseConfig, out: Path, config: AuditConfig) -> AuditSummary:
    """Audit a corpus by cross-fitting: no pair is judged by a model that saw its image or its caption.

    `out` then holds ``findings.parquet``, ``issues.parquet``, ``report.html``, ``summary.json`` and, if anything could
    not be read, ``skipped.csv``, all of this audit (see `cleaning.generation`). Nothing else is touched;
    `cleaning.fixing.fix` makes a cleaned copy from it.

    Args:
        corpus: What ``load_corpus(data)`` gave.
        data: Where it is from.
        noise: Mismatches to put in first, to see whether they are found; none by default.
        out: The folder to write to; made if missing.
        config: How.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ConfigError: If there are too few pairs, or another process is writing to `out`.
        DataError: If an output would overwrite the input.
    """
    started = time.perf_counter()
    refuse_inputs(data, out)
    with alone_in(out):
        pairs = noisy(every_pair(corpus.splits) if config.pairs == "all" else corpus.splits.train, noise)
        source = _Audited(_name_of(corpus), data, noise, corpus)
        return _cross_fit(pairs, corpus.vocabulary, source, out, config, started)


def audit_run(run: TrainedRun, out: Path, config: AuditConfig) -> AuditSummary:
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
        ConfigError: If pairs shall be re-paired by a run that suggests no partners, or another process is writing to
            `out`.
        DataError: If an output would overwrite the input.
    """
    started = time.perf_counter()
    refuse_inputs(run.recipe.data, out)
    if config.re_pair and are_local(run.models):
        raise ConfigError(
            f"--re-pair needs suggested partners, and the run in {run.folder}, with similarity "
            f"{run.recipe.model.similarity!r}, makes none: audit the corpus, or a run with similarity 'cosine'"
        )
    with alone_in(out):
        return _by_run(run, out, config, started)


def _by_run(run: TrainedRun, out: Path, config: AuditConfig, started: float) -> AuditSummary:
    device = make_fabric(config.device).device
    confidence, pairs, left_out = _confidence(run)
    mismatch, warnings = 1 - confidence, list[str]()
    if (mismatch == mismatch[0]).all():  # 0 or ½, where a method found no two kinds of pairs
        mismatch = torch.full_like(mismatch, torch.nan)
        warnings.append(
            f"the run in {run.folder} learned nothing consistent about its pairs: it has the same confidence in all of "
            "them, and no pair is called a suspect; train on more pairs or longer, or audit the corpus itself"
        )
    models = [model.to(device) for model in run.models]
    scores = scores_by_a_run(
        models, pairs, candidates=config.candidates, temperature=config.temperature, seed=config.seed
    )
    findings = find(
        pairs,
        scores,
        mismatch,
        lambda _: models,
        threshold=config.threshold,
        re_pair_threshold=config.re_pair_threshold,
        at_least=config.cards,
        at_most=config.partners,
        seed=config.seed,
    )
    source = _Audited(_name_of(run.corpus), run.recipe.data, run.recipe.noise, run.corpus, left_out)
    log = read_log(run.folder / "log.jsonl")
    scored_by = ScoredBy(
        how="run",
        run=str(run.folder.resolve()),
        method=run.recipe.method.name,
        saw_the_pairs=True,
        candidates=candidates_of(models, config.candidates),
    )
    return _write(_Found(findings, scored_by, warnings=warnings), source, out, config, _Work(started, device, log))


def audit_pairs(pairs: Pairs, vocabulary: Vocabulary | None, out: Path, config: AuditConfig) -> AuditSummary:
    """Audit pairs that are in memory, by cross-fitting; as `audit_corpus` otherwise."""
    started = time.perf_counter()
    source = _Audited(IN_MEMORY, DataConfig(IN_MEMORY), NoiseConfig(), None)
    with alone_in(out):
        return _cross_fit(pairs, vocabulary, source, out, config, started)


def _cross_fit(
    given: Pairs, vocabulary: Vocabulary | None, source: _Audited, out: Path, config: AuditConfig, started: float
) -> AuditSummary:
    device = make_fabric(config.device).device  # refused here, in words, where there is none
    pairs, places = in_order_of_names(given)
    judgement = judged(pairs, vocabulary, source.encoders, config)
    folds, found = judgement.models.folds, judgement.found
    scores = Scores(judgement.features.pairs[:, 0], found.log_odds.float(), found.random_log_odds.float())
    findings = find(
        pairs,
        scores,
        1 - judgement.match,
        lambda asked: _models_for_partners(asked, judgement, pairs, vocabulary, config),
        threshold=config.threshold,
        re_pair_threshold=config.re_pair_threshold,
        at_least=config.cards,
        at_most=config.partners,
        seed=config.seed,
    )
    finds = None
    if found.weights:
        finds = sensitivity(
            folds,
            pairs,
            found,
            frozen=judgement.frozen,
            threshold=config.threshold,
            candidates=config.candidates,
            temperature=config.temperature,
            seed=config.seed,
        )
    interval = noise_rate_interval(judgement.features, found, config.seed) if found.unknown is None else None
    return _write(
        _Found(findings, _scored_by(judgement, config), found, finds, judgement.together, interval, places),
        source,
        out,
        config,
        _Work(started, device, []),
    )


def _models_for_partners(
    asked: Int[Tensor, " asked"],
    judgement: Judgement,
    pairs: Pairs,
    vocabulary: Vocabulary | None,
    config: AuditConfig,
) -> list[MatchingModel]:
    """Models that learned none of the pairs asked for, or few of them."""
    models = judgement.models
    if not judgement.is_trained:
        return models.folds[0].models
    is_mostly_new = len(pairs) >= _MANY_TIMES * len(models.folds[-1].learned)
    return models.of_all if is_mostly_new else trained_without(asked, pairs, vocabulary, config)


def _scored_by(judgement: Judgement, config: AuditConfig) -> ScoredBy:
    """Which models scored the pairs."""
    folds = judgement.models.folds
    candidates = candidates_of(folds[0].models, config.candidates)
    if not judgement.is_trained:
        return ScoredBy(how="zero-shot", saw_the_pairs=False, candidates=candidates)
    return ScoredBy(
        how="cross-fitting",
        saw_the_pairs=False,
        candidates=candidates,
        method=config.method.name,
        folds=judgement.models.cut,
        learned=len(folds[0].learned),
        repetitions=len(judgement.models.of_all),
        epochs=judgement.models.epochs,
        untrained=judgement.frozen is not None,
        of_all=judgement.models.learned_all and judgement.prior is not None,
    )


@dataclass(frozen=True)
class _Found:
    """What an audit found, and how."""

    findings: Findings
    scored_by: ScoredBy
    probabilities: Probabilities | None = None
    finds: Finds | None = None
    together: Together | None = None
    interval: tuple[float, float] | None = None
    places: Int[Tensor, " pairs"] | None = None
    """Of each pair its place among the pairs as they were given; None where they are in that order."""
    warnings: Sequence[str] = ()
    """Why not to rely on the probabilities, beside what pairs and probabilities say themselves."""


@dataclass(frozen=True)
class _Work:
    """What it took: when it started, where it computed, and a run's log."""

    started: float
    device: torch.device
    log: Sequence[dict[str, Any]]


def _write(found: _Found, source: _Audited, out: Path, config: AuditConfig, work: _Work) -> AuditSummary:
    """Everything that goes into the folder."""
    findings, pairs = found.findings, found.findings.pairs
    store = Path(source.data.path)
    facts = image_facts(pairs, store if store.is_dir() else None, config.most_checked)
    issues = issues_of(pairs, facts)
    skipped = _skipped(source)
    summary = replace(
        _summary(found, source, config, work),
        skipped=dict(Counter(skip.reason for skip in skipped).most_common()),
        images_checked=None if facts is None else len(facts) - facts.count(None),
        issues={kind: sum(issue.issue == kind for issue in issues) for kind in KINDS},
        files=Files(FINDINGS, ISSUES, SKIPPED if skipped else None, REPORT),
    )
    tables = {FINDINGS: _with_references(findings, found.places), ISSUES: issues_table(issues)}
    results = {name: value for name, value in summary.as_dict().items() if name not in _MEASURED}
    left_out = [(skip.where, skip.reason, skip.detail) for skip in skipped]
    summary = replace(summary, generation=generation_of([*tables.values()], results | {"left_out": left_out}))
    with next_generation(out) as folder:
        for name, table in tables.items():
            write_parquet(marked(table, str(summary.generation)), folder / name)
        if skipped:
            write_skipped(skipped, folder / SKIPPED)
        page, shown = folder / REPORT, summary.as_dict()
        write_report(findings, issues, shown, page, folder=out, log=work.log, cards=config.cards, seed=config.seed)
        summary = replace(summary, seconds=round(time.perf_counter() - work.started, 1))
        summary.write(folder)
    return summary


def _summary(found: _Found, source: _Audited, config: AuditConfig, work: _Work) -> AuditSummary:
    """What can be said before anything is written."""
    findings, pairs, scores = found.findings, found.findings.pairs, found.findings.scores
    mismatch, is_known = findings.mismatch_probability.double(), not findings.is_unknown
    probabilities = found.probabilities
    return AuditSummary(
        corpus=source.name,
        pairs=len(pairs),
        images=len(pairs.image_of_caption.unique()),
        estimated_mismatches=round(float(mismatch.sum()), 1) if is_known else None,
        estimated_noise_rate=round(float(mismatch.mean()), 4) if is_known else None,
        noise_rate_interval=None if found.interval is None else [round(end, 4) for end in found.interval],
        evidence_weights=None if probabilities is None else probabilities.weights,
        warnings=[*warnings_about(pairs), *(() if probabilities is None else probabilities.warnings), *found.warnings],
        separation=round(share_above(scores.log_odds, scores.random_log_odds), 4),
        scored_by=found.scored_by,
        finds=found.finds,
        captions_together=found.together,
        threshold=config.threshold,
        suspects=int(findings.is_suspect.sum()),
        may_re_pair=int((findings.is_suspect & findings.may_re_pair).sum()),
        skipped={},
        source=None if source.corpus is None or source.corpus.source is None else dict(source.corpus.source),
        features=source.features,
        can_copy=source.corpus is not None and source.corpus.source is not None and not source.is_noisy,
        truth=_against_the_truth(findings, 1 - findings.mismatch_probability) if is_known else None,
        images_checked=None,
        issues={},
        files=Files(FINDINGS, ISSUES, None, REPORT),
        data=asdict(whole_data(source.data)),
        noise=asdict(source.noise),
        audit=asdict(config),
        seconds=round(time.perf_counter() - work.started, 1),
        peak_memory_mb=peak_memory_mb(),
        hardware=hardware(work.device),
        truepair=__version__,
    )


def _with_references(findings: Findings, places: Int[Tensor, " pairs"] | None) -> pa.Table:
    """The findings, with each pair's place as it was given, and what the source finds each image's picture by."""
    table, pictures = findings_table(findings), findings.pairs.pictures
    if places is not None:
        given = pa.array(places[findings.order].numpy())
        table = table.set_column(table.column_names.index("pair"), "pair", given)
    images = findings.pairs.image_of_caption[findings.order].tolist()
    references = [None if pictures is None else pictures.reference(image) for image in images]
    return table.append_column("image_reference", pa.array(references, pa.string()))


def _skipped(source: _Audited) -> Sequence[Skipped]:
    """What was left out when the pairs were read, or when they were embedded."""
    if source.corpus is None:
        return []
    stored = Path(source.data.path) / SKIPPED
    if stored_source(Path(source.data.path)) is not None and stored.is_file():
        return read_skipped(stored)
    return [*source.corpus.skipped, *source.left_out]


def _name_of(corpus: Corpus) -> str:
    """What people call the corpus: by the source's name, not by that of a folder of features."""
    described = corpus.source
    return corpus.splits.name if described is None else Path(str(described["path"])).name


def _confidence(run: TrainedRun) -> tuple[Float[Tensor, " pairs"], Pairs, Sequence[Skipped]]:
    """The confidence in a run's training pairs, these pairs, and what it left out as it found no picture."""
    path = run.folder / "pairs.parquet"
    if not path.exists():
        raise CheckpointError(
            f"the run in {run.folder} has not finished (no pairs.parquet): resume it with 'truepair train'"
        )
    table = read_parquet(path, ["caption_id", "confidence"], is_full=True)
    if table["caption_id"].to_pylist() != list(run.train.caption_ids):
        raise CheckpointError(
            f"{path} is of other pairs than {run.recipe.data.path} now holds: was the corpus changed after training?"
        )
    confidence, train = torch.tensor(table["confidence"].to_numpy()), run.train
    if "left_out" not in pq.read_schema(path).names:
        return confidence, train, []
    why = read_parquet(path, ["left_out"])["left_out"].to_pylist()
    lost: dict[int, list[int]] = {}  # image → its pairs
    for pair, image in enumerate(train.image_of_caption.tolist()):
        if why[pair] is not None:
            lost.setdefault(image, []).append(pair)
    name_of = train.image_ids.__getitem__ if train.pictures is None else train.pictures.reference
    skipped = [
        Skipped(name_of(image), UNREADABLE, why[there[0]], tuple(train.caption_ids[pair] for pair in there))
        for image, there in lost.items()
    ]
    kept = [pair for pair, said in enumerate(why) if said is None]
    return confidence[kept], pairs_and_their_images(train, kept), skipped


def refuse_inputs(data: DataConfig, out: Path) -> None:
    """Before any work: refuse a folder in which an output would overwrite an input."""
    inputs = [Path(p) for p in (data.path, data.image_features, data.caption_features) if p is not None]
    for name in FILES:
        for path in inputs:
            output = out / name
            are_there = output.exists() and path.exists()  # "demo" and addresses are no paths
            if output.resolve() == path.resolve() or (are_there and output.samefile(path)):
                raise DataError(f"{out / name} is the input itself, which is only read: choose another output folder")


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
