"""``truepair review``: look at an audit's suspects, and decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import parse, together
from truepair.cli.serving import Listening, Served, serve

if TYPE_CHECKING:  # an optional package
    from fastapi import FastAPI

MAIN = ("audit", "port", "export", "browser", "export-decisions", "index")


@dataclass(frozen=True)
class Review:
    """Look at the suspects of an audit in a browser: keep, drop or re-pair them, choose where to cut, write the rest.

    The page is served on this computer only, to whoever has the address that is printed. Decisions are saved one by
    one in review.sqlite in the audit's folder; the same command goes on from there. Needs 'truepair[review]'.

    For example:
      truepair review audit/
      truepair review audit/ --port 8765 --export cleaned/ --no-browser
      truepair review audit/ --export-decisions decisions.csv
    """

    audit: Positional[Path]
    """The audit's folder."""
    port: int = 0
    """The port to listen on; 0 takes a free one."""
    export: Path | None = None
    """The folder that the cleaned copy is written to; by default reviewed/ in the audit's folder."""
    browser: bool = True
    """Open the page in a browser, if run in a terminal."""
    allow_host: tuple[str, ...] = ()
    """A name by which browsers come to the page besides 127.0.0.1, such as that of a notebook's proxy; may be given
    several times. Whoever can use that proxy and knows the page's address can then decide, see SECURITY.md."""
    export_decisions: Path | None = None
    """Write the decisions to this table (.csv, .parquet), which 'truepair fix --decisions' takes, and end. It also
    reads what is left of a review.sqlite that is damaged or locked."""

    index: Path | None = None
    """An index of 'truepair index', to look in for the image of a caption; by default index/ in the audit's folder, if
    it is there ('truepair index audit/ --out audit/index' makes it)."""

    def __post_init__(self) -> None:
        """Refuse a port or a name that cannot be."""
        self.listening()

    def listening(self) -> Listening:
        """Where the page is served."""
        return Listening(self.port, self.browser, self.allow_host)


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, open the audit, say where the page is, serve it until interrupted."""
    parsed = parse(Review, "review", together(arguments, "--allow-host"), main=MAIN)
    if parsed.export_decisions is not None:
        _export(parsed.audit, parsed.export_decisions, output)
        return

    def make() -> FastAPI:
        from truepair.review.app import make_app

        return make_app(parsed.audit, export=parsed.export, hosts=parsed.allow_host, index=parsed.index)

    note = "Ctrl-C ends it; decisions are saved as they are made"
    serve(Served("review", make, "?token={token}", note, {"audit": parsed.audit}), parsed.listening(), output)


def _export(folder: Path, table: Path, output: Output) -> None:
    """Write the decisions of an audit to a table, whatever state their database is in."""
    from truepair.cleaning.audit_folder import open_audit
    from truepair.cleaning.decision_tables import check_table, write_decisions
    from truepair.cleaning.decisions_rescue import rescued_decisions

    check_table(table)
    audit = open_audit(folder)
    found = rescued_decisions(folder / "review.sqlite")
    unknown = write_decisions(found.decisions, table, audit)
    written = len(found.decisions) - unknown
    output.line(f"{written:,} decisions: {table}\nread them with: truepair fix {folder} --decisions {table}")
    if found.lost:
        output.note(
            f"warning: review.sqlite is damaged: at most {found.lost:,} decisions could not be read; "
            f"{found.from_history:,} were found in its history instead, and may be older than the last about their pair"
        )
    if unknown:
        output.note(f"warning: {unknown:,} decisions are about pairs or images that the audit does not have: left out")
    output.summary({"decisions": written, "table": table, "unknown": unknown, "lost": found.lost})
