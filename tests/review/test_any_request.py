"""Whatever is asked, the page answers with what was asked for or with a sentence; it never fails."""

import json
import shutil
from string import printable
from urllib.parse import quote, urlencode

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from truepair.review.app import make_app

PORT = 8765
READ = ("/", "/api/pairs", "/api/pairs", "/api/cut", "/pictures/3")
CHANGED = ("/api/decide", "/api/decide", "/api/undo", "/api/redo")
TAILED = ("/pictures", "/static", "/static", "/api", "/nowhere")
PARAMETERS = (
    "offset", "limit", "filter", "order", "probability_from", "probability_to", "text", "issue", "as_of", "threshold",
    "size", "v",
)  # fmt: skip
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
DECIDED = some.fixed_dictionaries(
    {}, optional={"caption_id": some.just("k3") | JSON, "action": some.sampled_from(["keep", "re-pair"]) | JSON,
                  "image_id": some.just("4.png") | JSON, "threshold": JSON}
)  # fmt: skip
BODIES = (
    (JSON | DECIDED).map(lambda value: json.dumps(value).encode())
    | some.binary(max_size=40)
    | some.sampled_from([b"[" * 60_000, b'{"a":' * 10_000, b'{"threshold":' + b"9" * 60_000 + b"}", b"\xef\xbb\xbf{}"])
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
ASKED = (
    some.tuples(some.just("GET"), some.sampled_from(READ))
    | some.tuples(some.just("POST"), some.sampled_from(CHANGED))
    | some.tuples(some.just("GET"), some.builds("{}/{}".format, some.sampled_from(TAILED), VALUES))
    | some.tuples(METHODS, some.sampled_from(READ + CHANGED))
)


@pytest.fixture(scope="module")
def asked(audited, tmp_path_factory):
    """What a request is answered; an error of the application is raised here."""
    app = make_app(shutil.copytree(audited, tmp_path_factory.mktemp("any") / "audit"))
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}", cookies={f"truepair-token-{PORT}": app.state.token})
    return client.request


@settings(max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    what=ASKED,
    query=some.dictionaries(some.sampled_from(PARAMETERS), VALUES, max_size=3),
    headers=some.just({"Content-Type": "application/json"}) | HEADERS,
    body=BODIES,
)
def test_any_request_is_answered_or_refused_in_a_sentence(asked, what, query, headers, body):
    method, path = what
    path, query = quote(path, errors="replace"), urlencode(query, errors="replace")
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = asked(method, f"{path}?{query}", headers=encoded, content=None if method == "GET" else body)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and method != "HEAD" and answer.headers["content-type"] == "application/json":
        assert set(answer.json()) == {"error"}
        assert answer.json()["error"]
        assert "Traceback" not in answer.text
