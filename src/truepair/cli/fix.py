"""``truepair fix``: the corpus without the pairs that do not match, in its own format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import parse
from truepair.errors import ConfigError, DataError, of_system

MAIN = ("audit", "out", "threshold", "re-pair", "decisions")


@dataclass(frozen=True)
class Fix:
    """Write a copy of the audited corpus without its mismatched pairs, in the format that it came in.

    Pairs that were decided by hand (in review.sqlite, which 'truepair review' writes, or in a table of decisions) are
    kept, dropped or re-paired as decided, all others by the rule. provenance.parquet beside the copy says of every row
    of the input what became of it and why. The corpus is never touched: to undo all, delete the copy.

    For example:
      truepair fix audit/ --out cleaned/
      truepair fix audit/ --out cleaned/ --threshold 0.8 --re-pair --drop-issues blank duplicate
      truepair fix audit/ --out cleaned/ --decisions checked.csv
    """

    audit: Positional[Path]
    """The audit's folder."""
    out: Path
    """The folder to write to: new, empty, or what an earlier fix wrote, which is replaced as a whole."""
    threshold: float | None = None
    """Mismatch probability from which on a pair is dropped; by default that of the audit."""
    re_pair: bool = False
    """Give suspects the suggested image where it is likely to be theirs; also done if the audit was made with
    --re-pair."""
    drop_issues: tuple[str, ...] = ()
    """Also drop pairs with these issues: blank, tiny, placeholder, duplicate, near-duplicate, empty caption,
    boilerplate. Of duplicates the first image that keeps a caption stays."""
    keep_unaudited: bool = False
    """Keep rows without a finding, such as unreadable pictures; by default they are left out, and counted."""
    decisions: Path | None = None
    """A table (.csv, .tsv, .jsonl, .parquet) with the columns caption_id, action (keep, drop, re-pair) and, for
    re-pair, image_id. It goes before decisions of a review."""
    drop_most: bool = False
    """Write the copy even if more than half of the audited pairs, or all of them, are dropped."""

    def __post_init__(self) -> None:
        """Refuse what is no probability, and issues that there are not."""
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}, but it is a probability above 0")
        if self.drop_issues:
            from truepair.cleaning.decisions import refuse_unknown

            refuse_unknown(self.drop_issues)


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, copy, say what became of the pairs."""
    parsed = parse(Fix, "fix", arguments, main=MAIN)
    from truepair.cleaning.audit_folder import open_audit
    from truepair.cleaning.decision_tables import read_decisions
    from truepair.cleaning.decisions_db import decisions_of
    from truepair.cleaning.fixing import FixOptions, check_target, fix

    audit = open_audit(parsed.audit)
    check_target(audit, parsed.out)
    by_hand = decisions_of(parsed.audit / "review.sqlite", audit.digest, audit.findings_file)
    if parsed.decisions is not None:
        by_hand |= read_decisions(parsed.decisions, audit)
    options = FixOptions(
        threshold=audit.threshold if parsed.threshold is None else parsed.threshold,
        re_pair=parsed.re_pair or audit.re_pairs,
        drop_issues=parsed.drop_issues,
        keep_unaudited=parsed.keep_unaudited,
        drop_most=parsed.drop_most,
    )
    for warning in audit.summary.warnings:
        output.note(f"warning: {warning}")
    try:
        fixed = fix(audit, by_hand, parsed.out, options)
    except OSError as error:
        raise DataError(f"{parsed.out} was not written ({of_system(error)}); what was there is unchanged") from error
    output.line(f"{fixed.account}; {fixed.by_hand:,} of these decided by hand")
    if sum(fixed.account.not_audited.values()):
        output.line(f"not audited: see the rule in {parsed.out / fixed.files[-1]}")
    output.line(f"copy: {parsed.out}")
    if fixed.image_root is not None:
        output.line(f"its picture paths start at {fixed.image_root}: read it with --image-root {fixed.image_root}")
    output.summary({"out": parsed.out, **asdict(fixed)})
