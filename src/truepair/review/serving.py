"""What the pages have in common: an application that only its own browser may ask, and that answers in sentences."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import AfterValidator
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from truepair.errors import DataError, TruepairError
from truepair.pages.html import filled
from truepair.review.guard import Guard, cookie_of_token, refusal

_STATIC = Path(__file__).parent / "static"
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
COOKIE_OPTIONS: dict[str, Any] = {"httponly": True, "samesite": "strict", "path": None}
"""How cookies are set: of this address only, and not of all that a proxy has under its name."""


class UnknownError(DataError):
    """Something was asked for that is not there."""


def guarded_app(title: str, hosts: Sequence[str], larger: Mapping[str, int] = MappingProxyType({})) -> FastAPI:
    """An application without routes; ``app.state.token`` is what a page's address must hold (``/?token=…``).

    Args:
        title: What it is called.
        hosts: Names that it answers to besides 127.0.0.1 and localhost, with or without a port.
        larger: See `Guard`.
    """
    # No pages about the interface, which would load scripts from elsewhere, and no telemetry, whatever the environment
    # of the process says: captions stay here.
    app = FastAPI(title=title, openapi_url=None, docs_url=None, redoc_url=None, telemetry=_NO_TELEMETRY)
    app.state.token = secrets.token_urlsafe(24)
    app.mount("/static", StaticFiles(directory=_STATIC))
    app.add_middleware(Guard, token=app.state.token, hosts=tuple(hosts), larger=larger)
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)
    return app


def page_of(request: Request, template: str, shown: Mapping[str, Any]) -> HTMLResponse:
    """A page, which gives the browser the token as a cookie."""
    answer = HTMLResponse(filled("truepair.review", template, **shown))
    answer.set_cookie(cookie_of_token(request.scope), request.app.state.token, **COOKIE_OPTIONS)
    return answer


def _encodable(text: str) -> str:
    """A text that is one: JSON can say half a character."""
    text.encode("utf-8")  # a UnicodeEncodeError is a ValueError, which is answered
    return text


Text = Annotated[str, AfterValidator(_encodable)]


def number(value: float | None) -> float | None:
    """As JSON can say it: None where unknown."""
    return None if value is None or math.isnan(value) else value


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


_ANSWERS: dict[type[Exception], Callable[[Request, Exception], Any]] = {
    UnknownError: _unknown,
    TruepairError: _mendable,
    RequestValidationError: _misshapen,
    HTTPException: _impossible,
}
