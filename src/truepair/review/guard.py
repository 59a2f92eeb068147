"""Who may talk to a page: a browser on this computer that was given the page's address, and nobody else."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 64 * 1024
"""Bytes of a request's body."""

_DIGITS = 20
"""Of the longest length that is read as a number."""
_NAMES = ("127.0.0.1", "localhost")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Lets a request through if it asks this very server, comes from its own page, and knows the token.

    - Its Host is 127.0.0.1 or localhost with the server's port, or one of `hosts`: a name that somebody else points
      here is refused.
    - Its Origin, where it has one, is that host: other sites cannot decide or export.
    - It has the token, as a cookie or in the address: other users of the computer do not.
    - Its body is at most `LARGEST_BODY` long, or as long as its path may have it.

    Answers get headers that forbid browsers to run, embed or send on anything.
    """

    def __init__(
        self, app: ASGIApp, token: str, hosts: Sequence[str] = (), larger: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """Guard an application.

        Args:
            app: The application.
            token: What the address or a cookie must hold.
            hosts: Names of proxies that browsers may come through, with a port, or without one for any.
            larger: Paths whose requests may be larger, with the most bytes of a body.
        """
        self.app = app
        self.token = token
        self.hosts = frozenset(host.lower() for host in hosts)
        self.larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it (ASGI)."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        body = refused or await _body(scope, receive, self.larger.get(scope["path"], LARGEST_BODY))
        if isinstance(body, JSONResponse):
            await body(scope, receive, send_guarded)
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, receive_again, send_guarded)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """Why not; None if nothing speaks against it."""
        headers = Headers(scope=scope)
        host, port = headers.get("host", ""), scope["server"][1]
        allowed = [f"{name}:{port}" for name in _NAMES] + (list(_NAMES) if port == 80 else [])
        is_proxy = bool(self.hosts & {host.lower(), host.lower().rpartition(":")[0]})
        if host not in allowed and not is_proxy:
            return refusal(
                403,
                f"this page answers to {' and '.join(allowed)}, not to {host[:200]!r}: open the address that the "
                f"command printed; through SSH, forward the same port (ssh -L {port}:127.0.0.1:{port} …); through a "
                "proxy that you trust, name it (--allow-host NAME)",
            )
        origin = headers.get("origin")
        own = (f"http://{host}", f"https://{host}") if is_proxy else (f"http://{host}",)
        if origin is not None and origin not in own:
            return refusal(403, f"a page of {origin[:200]} must not use this one")
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        given.append(HTTPConnection(scope).cookies.get(cookie_of_token(scope), ""))
        if not any(secrets.compare_digest(token.encode(), self.token.encode()) for token in given):
            return refusal(
                403,
                "the page is of another start of the command, or the address lacks its token: open the whole "
                "address that the command printed",
            )
        return None


def cookie_of_token(scope: Scope) -> str:
    """The token's cookie: one a port, because browsers send cookies of one port to all of a computer's."""
    return f"truepair-token-{scope['server'][1]}"


async def _body(scope: Scope, receive: Receive, most: int) -> bytes | JSONResponse:
    """A request's body; a refusal if it is too long, of which no more is read."""
    length = Headers(scope=scope).get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        return refusal(400, f"Content-Length is {length[:200]!r}, but must be a number of bytes")
    too_large = refusal(413, f"the request is larger than {most:,} bytes, the most that is read of one")
    if len(length) > _DIGITS or int(length) > most:
        return too_large
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            return too_large
        if not message.get("more_body", False):
            return bytes(body)


def refusal(status: int, why: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A refusal in a sentence; characters that are none, which a request may hold, are spelled out."""
    return JSONResponse({"error": why.encode("utf-8", "backslashreplace").decode("utf-8")}, status, headers)
