"""The page that searches: its answers are those of the index, in parts, and everything else is a sentence."""

import io
import shutil

import pytest
from any_requests import ANY, JSON, PORT, any_asked, any_body, any_headers, any_query, check_answer
from embedding_samples import encoded, picture
from fastapi.testclient import TestClient
from html_page import Page
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from truepair.errors import DataError
from truepair.review import searching
from truepair.review.app import make_app
from truepair.review.search_app import make_search_app
from truepair.search.building import build_index
from truepair.search.index import open_index

ADDRESS = f"http://127.0.0.1:{PORT}"


class Visitor:
    """A browser on a search page."""

    def __init__(self, app):
        self.client = TestClient(app, base_url=ADDRESS)
        self.html = self.client.get("/search", params={"token": app.state.token}).text

    def search(self, *, status=200, **asked):
        answer = self.client.post("/api/search", json=asked)
        assert answer.status_code == status, answer.text
        return answer.json() if status == 200 else answer.json()["error"]

    def drop(self, data, status=200):
        answer = self.client.post("/api/picture", content=data)
        assert answer.status_code == status, answer.text
        return answer.json()["picture" if status == 200 else "error"]


@pytest.fixture
def words(of_words):
    return Visitor(make_search_app(of_words.folder))


@pytest.fixture
def vectors_page(made):
    return Visitor(make_search_app(made))


@pytest.fixture(scope="module")
def seen(of_photographs):
    """A page with pictures."""
    return Visitor(make_search_app(of_photographs))


def test_a_text_finds_what_the_index_finds(words, of_words):
    answer = words.search(text="a red heart", limit=7)
    expected = of_words.search("a red heart", k=7).to_pylist()
    assert [(hit["rank"], hit["id"], hit["caption"]) for hit in answer["hits"]] == [
        (row["rank"], row["id"], row["caption"]) for row in expected
    ]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([row["score"] for row in expected])
    assert [hit["probability"] for hit in answer["hits"]] == [row["probability"] for row in expected]
    assert (answer["answer"], answer["fits"]) == (expected[0]["answer"], expected[0]["fits"])


def test_parts_of_a_ranking_are_the_ranking(words, of_words):
    whole = of_words.search("a red heart", k=40)
    parts = [words.search(text="a red heart", offset=start, limit=15) for start in (30, 0, 15)]
    assert {part["total"] for part in parts} == {len(of_words)}
    assert len({part["answer"] for part in parts}) == 1
    hits = [hit for part in (parts[1], parts[2], parts[0]) for hit in part["hits"]][:40]
    assert [hit["id"] for hit in hits] == whole["id"].to_pylist()
    assert [hit["rank"] for hit in hits] == [*range(1, 41)]
    assert [hit["probability"] for hit in hits] == pytest.approx(whole["probability"].to_pylist(), rel=1e-5)
    assert words.search(text="a red heart", offset=10_000)["hits"] == []


def test_a_query_is_ranked_once(words, monkeypatch):
    first = words.search(text="a dog")
    monkeypatch.setattr(searching.Searching, "_rank", None)
    assert words.search(text="a dog")["hits"] == first["hits"]


def test_without_a_query_every_row_is_listed(vectors_page):
    answer = vectors_page.search(offset=290, limit=48)
    assert answer["total"] == 300
    assert [hit["id"] for hit in answer["hits"]] == [f"image-{row}" for row in range(290, 300)]
    assert {hit["score"] for hit in answer["hits"]} == {None}
    cats = vectors_page.search(find="captions", where="caption like '%cats'", limit=200)
    assert cats["total"] == 100
    assert all(hit["caption"].endswith("cats") for hit in cats["hits"])


def test_like_finds_like_both_ways(vectors_page):
    assert vectors_page.search(like="image-7", find="captions")["hits"][0]["id"] == "caption-7"
    images = vectors_page.search(like="image-7")
    assert "image-7" not in [hit["id"] for hit in images["hits"]]
    assert images["total"] == 299


def test_a_picture_is_dropped_and_found(seen, photographs):
    key = seen.drop((photographs.parent / "3.png").read_bytes())
    answer = seen.search(picture=key, find="images")
    assert answer["hits"][0]["id"] == "3.png"
    assert seen.search(picture=key)["find"] == "captions"
    shown = seen.client.get(f"/{answer['hits'][0]['picture']}&size=64")
    assert shown.headers["content-type"] == "image/webp"
    assert max(Image.open(io.BytesIO(shown.content)).size) <= 64
    assert "immutable" in shown.headers["cache-control"]


def test_an_image_comes_with_all_its_captions(seen, vectors_page):
    hit = seen.search(like="5.png")["hits"][0]
    assert seen.client.get(f"/api/images/{hit['image']}").json() == {"captions": [hit["caption"]]}
    assert vectors_page.client.get("/api/images/300").status_code == 404
    assert vectors_page.client.get("/found/0").status_code == 404  # an index without pictures


def test_pictures_that_were_given_long_ago_are_asked_for_again(of_photographs, monkeypatch):
    monkeypatch.setattr(searching, "_PICTURES_KEPT", 1)
    seen = Visitor(make_search_app(of_photographs))
    first = seen.drop(encoded(picture(100)))
    seen.drop(encoded(picture(101)))
    assert "drop it again" in seen.search(picture=first, status=404)


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"text": " "}, 400, "is empty"),
        ({"text": "a", "like": "image-1"}, 400, "one of a text, an id and a picture"),
        ({"like": "image-900"}, 400, "neither images nor captions"),
        ({"where": "caption ="}, 400, "where is"),
        ({"where": "read_csv('/etc/passwd')"}, 400, "where is"),
        ({"limit": 0}, 400, "limit"),
        ({"offset": -1}, 400, "offset"),
        ({"find": "videos"}, 400, "find"),
        ({"k": 5}, 400, "k"),
        ({"picture": "../../index.json"}, 404, "drop it again"),
        ({"text": "a dog"}, 400, "cannot encode a text"),
    ],
)
def test_a_wrong_query_is_refused_in_a_sentence(vectors_page, asked, status, said):
    assert said in vectors_page.search(status=status, **asked)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 100])
def test_a_file_that_is_no_picture_is_refused_in_a_sentence(seen, data):
    assert "picture" in seen.drop(data, status=400)


def test_only_a_picture_may_be_large(seen, monkeypatch):
    large = encoded(picture(1, 400, 400), "BMP")
    assert len(large) > 2**16
    seen.drop(large)
    assert "65,536 bytes" in seen.search(text="x" * 2**16, status=413)


def test_the_page_loads_only_its_own_files_and_escapes_names(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "<img src=x onerror=alert(1)>")
    page = Page(Visitor(make_search_app(folder)).html)
    assert page.open == []
    assert page.handlers == []
    own = [f"static/{name}" for name in ("review.css", "search.css", "search.js", "search_page.js", "shared.js")]
    assert sorted(page.loads) == ["data:,", *own]
    assert "300 images, 300 captions" in "".join(page.text)


def test_nothing_is_shown_to_who_lacks_the_token(made):
    client = TestClient(make_search_app(made), base_url=ADDRESS)
    for path in ("/", "/search", "/found/0", "/api/images/0", "/static/search.js"):
        assert client.get(path).status_code == 403
    assert client.post("/api/search", json={}).status_code == 403
    assert client.post("/api/picture", content=b"x").status_code == 403


def test_the_first_address_leads_to_the_page(made):
    app = make_search_app(made)
    client = TestClient(app, base_url=ADDRESS)
    assert "300 images" in client.get("/", params={"token": app.state.token}).text


def test_a_damaged_index_is_refused_at_the_start(folder):
    (folder / "00000" / "images.npy").unlink()
    with pytest.raises(DataError):
        make_search_app(folder)


def test_a_review_searches_the_index_in_its_folder(audited, made, tmp_path):
    audit = shutil.copytree(audited, tmp_path / "audit")
    without = TestClient(app := make_app(audit), base_url=ADDRESS)
    assert "truepair index" in without.get("/", params={"token": app.state.token}).text
    assert without.post("/api/search", json={}).status_code == 404
    shutil.copytree(made, audit / "index")
    app = make_app(audit)
    page = Visitor(app)
    assert "find its picture" in page.client.get("/").text.lower()
    assert page.search(like="image-3")["hits"]
    pair = page.client.get("/api/pairs").json()["pairs"][0]
    asked = {"caption_id": pair["caption_id"], "action": "re-pair", "image_id": "image-3"}
    refused = page.client.post("/api/decide", json=asked)
    assert (refused.status_code, "among the audited pairs" in refused.text) == (404, True)


def test_an_audits_embeddings_are_indexed(audited, of_photographs, tmp_path):
    audit = shutil.copytree(audited, tmp_path / "audit")
    with pytest.raises(Exception, match="embedded nothing itself"):
        build_index(str(audit), tmp_path / "index")
    shutil.copytree(of_photographs / "embeddings", audit / "embeddings")
    build_index(str(audit), audit / "index")
    assert len(open_index(audit / "index")) == 30


SEARCHED = {
    "text": some.just("a red heart") | JSON,
    "like": some.just("image-3") | JSON,
    "picture": JSON,
    "find": some.sampled_from(["images", "captions"]) | JSON,
    "where": some.just("caption like '%a%'") | JSON,
    "offset": some.integers(-1, 400) | JSON,
    "limit": some.integers(0, 300) | JSON,
}


@pytest.fixture(scope="module")
def asked(made):
    app = make_search_app(made)
    client = TestClient(app, base_url=ADDRESS, cookies={f"truepair-token-{PORT}": app.state.token})
    return client.request


@ANY
@given(
    any_asked(
        ("/search", "/", "/api/images/3", "/found/3"),
        ("/api/search",) * 6 + ("/api/picture",),
        ("/found", "/api/images"),
    ),
    any_query(("size", "v", "token")),
    any_headers,
    any_body(SEARCHED),
)
def test_any_request_is_answered_or_refused_in_a_sentence(asked, what, query, headers, body):
    check_answer(asked, what, query, headers, body)
