"""Stores to read from: one in memory, and a web server in this process, with ranges, checksums and what goes wrong."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import fsspec
import pytest

from truepair.sources import stores


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of copies, and no waiting between attempts."""
    folder = tmp_path / "copies"
    monkeypatch.setenv("TRUEPAIR_CACHE", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(stores, "_PAUSES", (0.0, 0.0))
    return folder / "shards"


@pytest.fixture
def memory():
    """An empty file system in memory."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def in_memory(path: Path) -> str:
    """The address of a copy of a file's folder, or of a folder, in memory."""
    system = fsspec.filesystem("memory")
    folder = path if path.is_dir() else path.parent
    for file in folder.rglob("*"):
        if file.is_file():
            system.pipe_file(f"/bucket/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return "memory://bucket" if path.is_dir() else f"memory://bucket/{path.name}"


class Site:
    """Files of a web server.

    Attributes:
        files: Content by path, ``shards/0.tar``.
        answers: By path, the statuses of the next answers; after them the file is given.
        status: By path, the status of every answer.
        later: By path, the status of every answer with content.
        cut: By path, how many of the next bodies stop half-way.
        has_ranges: Whether parts are given.
        asked: Method, path and range of every request.
        delay: Seconds before each answer.
        rate: Bytes a second of each answer; None for all at once.
        url: Where it is.
    """

    def __init__(self, files: dict[str, bytes], url: str) -> None:
        self.files = dict(files)
        self.answers: dict[str, list[int]] = {}
        self.status: dict[str, int] = {}
        self.later: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.has_ranges = True
        self.asked: list[tuple[str, str, str | None]] = []
        self.delay = 0.0
        self.rate: float | None = None
        self.url = url

    def ranges(self) -> list[str | None]:
        """What was asked for of contents."""
        return [asked for method, _, asked in self.asked if method == "GET"]

    def answer(self, path: str, *, with_body: bool) -> int:
        """The status to answer with."""
        status = self.status.get(path, self.later.get(path) if with_body else None)
        if status is not None:
            return status
        if self.answers.get(path):
            return self.answers[path].pop(0)
        return 200 if path in self.files else 404


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        site, path = self.server.site, unquote(self.path.lstrip("/"))
        site.asked.append((self.command, path, self.headers.get("Range")))
        time.sleep(site.delay)
        status = site.answer(path, with_body=with_body)
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        whole = site.files[path]
        content = whole
        asked = self.headers.get("Range") if site.has_ranges else None
        self.send_response(206 if asked else 200)
        if asked:
            start, end = asked.removeprefix("bytes=").split("-")
            content = whole[int(start) : int(end) + 1 if end else None]
            self.send_header("Content-Range", f"bytes {start}-{int(start) + len(content) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()[:12]}"')
        self.end_headers()
        if with_body:
            self._send(site, path, content)

    def _send(self, site, path, content):
        if site.cut.get(path, 0) > 0:
            site.cut[path] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        if site.rate is None:
            self.wfile.write(content)
            return
        started, step = time.perf_counter(), 1 << 17
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            time.sleep(max(0.0, (start + step) / site.rate - (time.perf_counter() - started)))


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Site]:
    """A site with some files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.site = site = Site(files, f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
