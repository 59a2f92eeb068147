"""Any request to a page, and what each must be answered with."""

import json
from string import printable
from urllib.parse import quote, urlencode

from hypothesis import HealthCheck, settings
from hypothesis import strategies as some

PORT = 8765
ODD = (
    "", "0", "-1", "1e999", "NaN", "-inf", "0.5", "1_0", "9" * 20, "9" * 5000, "\x00", "null", "suspects,", "%", "é",
    "\ud800", "suspicious", "..", "../../summary.json", "a" * 3000, "0x10", "１",
)  # fmt: skip
VALUES = some.sampled_from(ODD) | some.text(printable, max_size=12) | some.integers().map(str) | some.floats().map(str)
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=8) | some.sampled_from(ODD),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.sampled_from(ODD), inner, max_size=3),
    max_leaves=6,
)
HEADERS = some.dictionaries(
    some.sampled_from(
        ["Content-Type", "Range", "If-Modified-Since", "If-None-Match", "Cookie", "Origin", "Host", "Content-Length",
         "Accept-Encoding", "X-HTTP-Method-Override"]
    ),
    some.sampled_from(
        ["", "application/json", "text/plain", "multipart/form-data", "application/json; charset=utf-99", "bytes=9-1",
         "bytes=0-1,5-" + "9" * 30, "yesterday", f"http://127.0.0.1:{PORT}", "null", "9" * 5000, "-1", "1e3",
         "\xff;=\xfe", 'truepair-reviewer="\\377\\000"', "truepair-reviewer=" + "x" * 5000]
    ),
    max_size=3,
)  # fmt: skip
METHODS = some.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "BREW"])
ANY = settings(
    max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def any_asked(read, changed, tailed):
    """A method and a path: paths that are read, that change something, and that go on with a value."""
    return (
        some.tuples(some.just("GET"), some.sampled_from(read))
        | some.tuples(some.just("POST"), some.sampled_from(changed))
        | some.tuples(some.just("GET"), some.builds("{}/{}".format, some.sampled_from(tailed), VALUES))
        | some.tuples(METHODS, some.sampled_from(read + changed))
    )


def any_query(names):
    """Parameters of an address."""
    return some.dictionaries(some.sampled_from(names), VALUES, max_size=3)


def any_body(known):
    """Bytes of a body; `known` is what a right one may hold."""
    return (
        (JSON | some.fixed_dictionaries({}, optional=known)).map(lambda value: json.dumps(value).encode())
        | some.binary(max_size=40)
        | some.sampled_from(
            [b"[" * 60_000, b'{"a":' * 10_000, b'{"threshold":' + b"9" * 60_000 + b"}", b"\xef\xbb\xbf{}"]
        )
    )


any_headers = some.just({"Content-Type": "application/json"}) | HEADERS


def check_answer(request, what, query, headers, body):
    """The request is answered, or refused in a sentence."""
    method, path = what
    path, query = quote(path, errors="replace"), urlencode(query, errors="replace")
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = request(method, f"{path}?{query}", headers=encoded, content=None if method == "GET" else body)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and method != "HEAD" and answer.headers["content-type"] == "application/json":
        assert set(answer.json()) == {"error"}
        assert answer.json()["error"]
        assert "Traceback" not in answer.text
