"""The review page as an application: a folder in, something that answers a browser out."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.decisions_db import HandDecisions, fault_of
from truepair.cleaning.fixing import check_target
from truepair.errors import TruepairError
from truepair.review.captions import CaptionsOfImages
from truepair.review.cut import Cut
from truepair.review.guard import Guard, refusal
from truepair.review.issues import PairIssues
from truepair.review.routes import Review, UnknownError, router

_STATIC = Path(__file__).parent / "static"
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def make_app(folder: Path, *, export: Path | None = None, hosts: Sequence[str] = ()) -> FastAPI:
    """The page that reviews an audit; ``app.state.token`` is what its address must hold (``/?token=…``).

    Decisions are kept in ``review.sqlite`` in the audit's folder.

    Args:
        folder: The audit's folder.
        export: Where the cleaned copy goes; ``reviewed`` in the audit's folder by default.
        hosts: Names that the page answers to besides 127.0.0.1 and localhost, with or without a port.

    Raises:
        ConfigError: If the folder holds no audit, or its corpus cannot be opened.
        DataError: If the audit is damaged, the corpus or the findings have changed since the review began, or `export`
            holds something else.
    """
    audit = open_audit(folder)
    export = folder / "reviewed" if export is None else export
    check_target(audit, export)
    decisions = HandDecisions(folder / "review.sqlite", audit.digest, audit.findings_file)
    cut = Cut(audit.probability, audit.may_re_pair, re_pair=audit.re_pairs)

    # No pages about the interface, which would load scripts from elsewhere, and no telemetry, whatever the environment
    # of the process says: captions stay here.
    app = FastAPI(title="truepair review", openapi_url=None, docs_url=None, redoc_url=None, telemetry=_NO_TELEMETRY)
    app.state.review = Review(
        audit,
        decisions,
        cut,
        PairIssues(audit),
        CaptionsOfImages(audit.image, audit.probability),
        export,
        pictures_version=secrets.token_hex(4),
    )
    app.state.token = secrets.token_urlsafe(24)
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=_STATIC))
    app.add_middleware(Guard, token=app.state.token, hosts=tuple(hosts))
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)
    return app


def _unknown(_: Request, error: Exception) -> JSONResponse:
    return refusal(404, str(error))


def _mendable(_: Request, error: Exception) -> JSONResponse:
    return refusal(400, str(error))


def _impossible(_: Request, error: Exception) -> JSONResponse:
    """A path or method that there is not, or a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, error.detail, error.headers)


def _misshapen(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    why = "; ".join(f"{'.'.join(map(str, each['loc'][1:])) or 'the body'}: {each['msg']}" for each in error.errors())
    return refusal(400, why)


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


_ANSWERS: dict[type[Exception], Callable[[Request, Exception], Any]] = {
    UnknownError: _unknown,
    TruepairError: _mendable,
    RequestValidationError: _misshapen,
    HTTPException: _impossible,
    sqlite3.Error: _not_saved,
    OSError: _not_written,
}
