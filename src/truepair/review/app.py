"""The review page as an application: a folder in, something that answers a browser out."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from errno import EDQUOT, ENOSPC
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse

from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.decisions_db import HandDecisions, fault_of
from truepair.cleaning.fixing import check_target
from truepair.review.captions import CaptionsOfImages
from truepair.review.cut import Cut
from truepair.review.guard import refusal
from truepair.review.issues import PairIssues
from truepair.review.routes import Review, router
from truepair.review.search_app import LARGER_REQUESTS, add_search
from truepair.review.serving import guarded_app

INDEX = "index"
"""The folder in an audit's where an index is looked for."""


def make_app(
    folder: Path, *, export: Path | None = None, hosts: Sequence[str] = (), index: Path | None = None
) -> FastAPI:
    """The page that reviews an audit; ``app.state.token`` is what its address must hold (``/?token=…``).

    Decisions are kept in ``review.sqlite`` in the audit's folder.

    Args:
        folder: The audit's folder.
        export: Where the cleaned copy goes; ``reviewed`` in the audit's folder by default.
        hosts: Names that the page answers to besides 127.0.0.1 and localhost, with or without a port.
        index: An index in which a caption's image can be looked for; by default ``index`` in the audit's folder, if it
            is there.

    Raises:
        ConfigError: If the folder holds no audit, or its corpus cannot be opened.
        DataError: If the audit is damaged, the corpus or the findings have changed since the review began, the index
            cannot be opened, or `export` holds something else.
    """
    audit = open_audit(folder)
    audit.check_source()
    export = folder / "reviewed" if export is None else export
    check_target(audit, export)
    decisions = HandDecisions(folder / "review.sqlite", audit.digest, audit.findings_file)
    cut = Cut(audit.probability, audit.may_re_pair, re_pair=audit.re_pairs)
    if index is None and (folder / INDEX).exists():
        index = folder / INDEX

    app = guarded_app("truepair review", hosts, LARGER_REQUESTS)
    app.state.review = Review(
        audit,
        decisions,
        cut,
        PairIssues(audit),
        CaptionsOfImages(audit.image, audit.probability),
        export,
        pictures_version=secrets.token_hex(4),
        can_search=index is not None,
    )
    app.include_router(router)
    if index is not None:
        add_search(app, index)
    app.add_exception_handler(sqlite3.Error, _not_saved)
    app.add_exception_handler(OSError, _not_written)
    return app


def _not_saved(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, sqlite3.Error)
    is_full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return refusal(507 if is_full else 503, fault_of(request.app.state.review.decisions.path, error))


def _not_written(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    is_full = error.errno in (ENOSPC, EDQUOT)
    step = "free some space" if is_full else "see that its folder is there and writable"
    out = request.app.state.review.export
    why = f"{out} was not written ({error.strerror or error}); what was there is unchanged: {step}, and try again"
    return refusal(507 if is_full else 503, why)
