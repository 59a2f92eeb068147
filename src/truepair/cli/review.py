"""``truepair review``: look at an audit's suspects, and decide."""

from __future__ import annotations

import os
import re
import socket
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import parse, together
from truepair.errors import ConfigError

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?::\d{1,5})?")
MAIN = ("audit", "port", "export", "browser", "export-decisions")


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

    def __post_init__(self) -> None:
        """Refuse a port or a name that cannot be."""
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}, but ports are 0 to 65535")
        for name in self.allow_host:
            if not _HOST.fullmatch(name):
                raise ConfigError(
                    f"allow_host is {name!r}, but must be a name such as hub.example.org, without http://"
                )


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, open the audit, say where the page is, serve it until interrupted."""
    parsed = parse(Review, "review", together(arguments, "--allow-host"), main=MAIN)
    if parsed.export_decisions is not None:
        _export(parsed.audit, parsed.export_decisions, output)
        return
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the review page needs {' and '.join(missing)}: pip install 'truepair[review]'")
    import uvicorn

    from truepair.review.app import make_app

    with closing(_listening(parsed.port)) as listening:
        app = make_app(parsed.audit, export=parsed.export, hosts=parsed.allow_host)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/?token={app.state.token}"
        output.line(f"review: {address}\nCtrl-C ends it; decisions are saved as they are made")
        for name in parsed.allow_host:
            output.line(f"also at the address that {name} gives port {listening.getsockname()[1]}, with the same token")
        output.summary({"address": address, "audit": parsed.audit})
        if parsed.browser and sys.stdout.isatty() and _has_display():
            webbrowser.open(address)
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", lifespan="off")
        uvicorn.Server(config).run(sockets=[listening])
        raise KeyboardInterrupt  # a signal ended it, which uvicorn does not always raise again


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


def _listening(port: int) -> socket.socket:
    """A socket that listens on this computer's own address, so that a browser that is early waits."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on port {port} ({error.strerror}): choose another --port, or 0") from error
    listening.listen()
    return listening


def _has_display() -> bool:
    """Where there is none, a browser would be one that takes over the terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
