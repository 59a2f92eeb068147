"""Whatever is asked, the page answers with what was asked for or with a sentence; it never fails."""

import shutil

import pytest
from any_requests import ANY, JSON, PORT, any_asked, any_body, any_headers, any_query, check_answer
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as some

from truepair.review.app import make_app

READ = ("/", "/api/pairs", "/api/pairs", "/api/cut", "/pictures/3")
CHANGED = ("/api/decide", "/api/decide", "/api/undo", "/api/redo")
TAILED = ("/pictures", "/static", "/static", "/api", "/nowhere")
PARAMETERS = (
    "offset", "limit", "filter", "order", "probability_from", "probability_to", "text", "issue", "as_of", "threshold",
    "size", "v",
)  # fmt: skip
DECIDED = {
    "caption_id": some.just("k3") | JSON,
    "action": some.sampled_from(["keep", "re-pair"]) | JSON,
    "image_id": some.just("4.png") | JSON,
    "threshold": JSON,
}


@pytest.fixture(scope="module")
def asked(audited, tmp_path_factory):
    """What a request is answered; an error of the application is raised here."""
    app = make_app(shutil.copytree(audited, tmp_path_factory.mktemp("any") / "audit"))
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}", cookies={f"truepair-token-{PORT}": app.state.token})
    return client.request


@ANY
@given(any_asked(READ, CHANGED, TAILED), any_query(PARAMETERS), any_headers, any_body(DECIDED))
def test_any_request_is_answered_or_refused_in_a_sentence(asked, what, query, headers, body):
    check_answer(asked, what, query, headers, body)
