"""A page on this computer's own address, until interrupted."""

from __future__ import annotations

import os
import re
import socket
import sys
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from truepair.cli.output import Output
from truepair.errors import ConfigError

if TYPE_CHECKING:  # an optional package
    from fastapi import FastAPI

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?::\d{1,5})?")


@dataclass(frozen=True)
class Served:
    """A page to serve.

    Attributes:
        title: What it is called.
        make: Makes the application.
        path: What of its address is behind the host, with the place of the token, ``{token}``.
        note: A line to print below the address.
        summary: What ``--json`` says beside the address.
    """

    title: str
    make: Callable[[], FastAPI]
    path: str
    note: str
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class Listening:
    """Where a page is served.

    Attributes:
        port: The port to listen on; 0 takes a free one.
        browser: Whether to open the page in a browser, if run in a terminal.
        hosts: Names of proxies that browsers may come through.
    """

    port: int = 0
    browser: bool = True
    hosts: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse a port or a name that cannot be."""
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}, but ports are 0 to 65535")
        for name in self.hosts:
            if not _HOST.fullmatch(name):
                raise ConfigError(
                    f"allow_host is {name!r}, but must be a name such as hub.example.org, without http://"
                )


def serve(page: Served, where: Listening, output: Output) -> None:
    """Make an application, say where it is, and serve it until a signal ends it.

    Raises:
        ConfigError: If a package is missing, or the port cannot be had.
        KeyboardInterrupt: When a signal ended it.
    """
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the {page.title} page needs {' and '.join(missing)}: pip install 'truepair[review]'")
    import uvicorn

    with closing(_listening(where.port)) as listening:
        app = page.make()
        port = listening.getsockname()[1]
        address = f"http://127.0.0.1:{port}/{page.path.format(token=app.state.token)}"
        output.line(f"{page.title}: {address}\n{page.note}")
        for name in where.hosts:
            output.line(f"also at the address that {name} gives port {port}, with the same token")
        output.summary({"address": address, **page.summary})
        if where.browser and sys.stdout.isatty() and _has_display():
            webbrowser.open(address)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, ws="none", lifespan="off", timeout_keep_alive=75
        )
        uvicorn.Server(config).run(sockets=[listening])
        raise KeyboardInterrupt  # a signal ended it, which uvicorn does not always raise again


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
