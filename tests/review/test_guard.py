import json

import pytest
from fastapi.testclient import TestClient

from truepair.review.app import make_app
from truepair.review.guard import LARGEST_BODY

PORT = 8765


@pytest.fixture
def asked(app):
    """What a request that knows the token is answered."""
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}")

    def answer(path="/api/pairs", method="GET", headers=None, **options):
        separator = "&" if "?" in path else "?"
        return client.request(method, f"{path}{separator}token={app.state.token}", headers=headers, **options)

    return answer


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}"])
def test_its_own_names_are_answered(asked, host):
    assert asked(headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:8766", f"127.0.0.1.evil.example:{PORT}", ""],
)
def test_other_names_are_refused(asked, host):
    answer = asked(headers={"Host": host})
    assert answer.status_code == 403
    assert f"127.0.0.1:{PORT}" in answer.json()["error"]


ELSEWHERE = (
    "http://evil.example",
    "null",
    f"https://127.0.0.1:{PORT}",
    "http://127.0.0.1:1",
    f"http://localhost:{PORT}",
)


@pytest.mark.parametrize(
    ("path", "origin"),
    [("/api/decide", origin) for origin in ELSEWHERE] + [("/api/undo", ELSEWHERE[0]), ("/api/export", ELSEWHERE[0])],
)
def test_other_sites_cannot_do_anything(asked, browser, path, origin):
    answer = asked(path, "POST", {"Origin": origin}, json={"threshold": 0.5})
    assert answer.status_code == 403
    assert browser.pairs()["progress"]["decided"] == 0


def test_its_own_page_can(asked, browser):
    pair = browser.pairs()["pairs"][0]
    body = {"caption_id": pair["caption_id"], "action": "keep"}
    answer = asked("/api/decide", "POST", {"Origin": f"http://127.0.0.1:{PORT}"}, json=body)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/pairs", "/pictures/0", "/static/review.js", "/api/cut?threshold=0.5"])
def test_nothing_is_shown_to_who_lacks_the_token(app, path):
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}")
    for query in ("", "token=wrong", "token="):
        answer = client.get(f"{path}{'&' if '?' in path else '?'}{query}")
        assert answer.status_code == 403
        assert "address" in answer.json()["error"]
    client.cookies.set(f"truepair-token-{PORT}", "wrong")
    assert client.get(path).status_code == 403


def test_the_page_gives_the_token_as_a_cookie_that_scripts_and_other_sites_do_not_get(app):
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}")
    answer = client.get("/", params={"token": app.state.token})
    cookies = answer.headers.get_list("set-cookie")
    assert len(cookies) == 2
    assert all("HttpOnly" in cookie and "SameSite=strict" in cookie for cookie in cookies)
    assert client.get("/api/pairs").status_code == 200


def test_odd_cookies_of_other_servers_on_this_computer_are_no_hindrance(app):
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}")
    cookies = f'other={{"a": [1, 2]}}; =; broken; truepair-token-{PORT}={app.state.token}'
    assert client.get("/api/pairs", headers={"Cookie": cookies}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/api/pairs", "/static/review.css", "/nowhere", "/pictures/0", "/api/pairs?limit=0"]
)
def test_every_answer_forbids_what_the_page_does_not_need(asked, path):
    headers = asked(path).headers
    assert "default-src 'self'; img-src 'self' data:" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert not [name for name in headers if name.startswith("access-control")]


def test_refusals_have_the_same_headers(asked):
    assert asked(headers={"Host": "evil.example"}).headers["x-content-type-options"] == "nosniff"


def test_a_body_that_is_too_large_is_refused(asked):
    large = json.dumps({"caption_id": "x" * LARGEST_BODY, "action": "keep"})
    assert asked("/api/decide", "POST", content=large).status_code == 413
    pieces = (piece for piece in [large[:1000].encode()] * 70)  # of no announced length
    answer = asked("/api/decide", "POST", content=pieces)
    assert answer.status_code == 413
    assert "65,536 bytes" in answer.json()["error"]


def test_a_body_in_pieces_below_the_limit_is_read_whole(asked, browser):
    body = json.dumps({"caption_id": browser.pairs()["pairs"][0]["caption_id"], "action": "keep"}).encode()
    pieces = (body[start : start + 5] for start in range(0, len(body), 5))
    assert asked("/api/decide", "POST", {"Content-Type": "application/json"}, content=pieces).status_code == 200


@pytest.mark.parametrize(("length", "status"), [("9" * 5000, 413), ("-1", 400), ("1e3", 400), ("²", 400), ("", 400)])
def test_a_length_that_is_none_is_refused(asked, length, status):
    answer = asked("/api/decide", "POST", {"Content-Length": length.encode("latin-1")}, content=b"{}")
    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.fixture
def through_proxy(folder):
    """What a request through a proxy that is allowed, and knows the token, is answered."""
    app = make_app(folder, hosts=("Hub.example.org", "other.example:8000"))
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}")

    def answer(host, origin=None):
        headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
        return client.get("/", params={"token": app.state.token}, headers=headers).status_code

    return answer


@pytest.mark.parametrize("host", ["hub.example.org", "hub.example.org:8443", "other.example:8000", f"localhost:{PORT}"])
def test_a_host_that_is_allowed_is_answered(through_proxy, host):
    assert through_proxy(host) == 200


@pytest.mark.parametrize(
    "host", ["other.example", "evil.example", "evil.hub.example.org", "hub.example.org.evil.example"]
)
def test_no_other_host_is(through_proxy, host):
    assert through_proxy(host) == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://hub.example.org", 200),
        ("http://hub.example.org", 200),
        ("https://evil.example", 403),
        ("https://other.example:8000", 403),
        ("null", 403),
    ],
)
def test_an_allowed_host_takes_requests_of_its_own_pages_only(through_proxy, origin, status):
    assert through_proxy("hub.example.org", origin) == status


def test_an_allowed_host_still_needs_the_token(folder):
    client = TestClient(make_app(folder, hosts=("hub.example.org",)), base_url="http://hub.example.org")
    assert client.get("/").status_code == 403


def test_cookies_are_of_the_address_that_the_page_has_and_no_more(app):
    """Behind a proxy other pages have the same name: what has no path is sent to this one's folder only."""
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}")
    cookies = client.get("/", params={"token": app.state.token}).headers.get_list("set-cookie")
    assert not any("path=" in cookie.lower() or "domain=" in cookie.lower() for cookie in cookies)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_there_are_no_pages_that_load_from_elsewhere(asked, path):
    assert asked(path).status_code == 404
