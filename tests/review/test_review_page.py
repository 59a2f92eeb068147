import io
import json
import shutil
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from html_page import Page
from PIL import Image
from reviewed_table import BROKEN, EVIL, ROWS

from truepair.errors import ConfigError, DataError
from truepair.review.app import make_app


def test_a_list_is_what_the_audit_found(browser, folder):
    found = pq.read_table(folder / "findings.parquet").to_pylist()
    answer = browser.pairs(limit=200)
    assert answer["total"] == ROWS
    for pair, row in zip(answer["pairs"], found, strict=True):
        for name in ("rank", "caption_id", "caption", "mismatch_probability", "is_suspect"):
            assert pair[name] == row[name]
        assert pair["image"]["id"] == row["image_id"]
        assert (pair["suggestion"] or {"id": None})["id"] == row["suggested_image_id"]
        assert pair["decision"] is None


def test_a_pair_comes_with_the_other_captions_of_its_image(audited_in_memory, tmp_path, visit):
    folder = tmp_path / "audit"
    shutil.copytree(audited_in_memory, folder)
    replace_column(folder, "image_id", pa.array([f"image {row % 30}" for row in range(ROWS)]))
    pairs = visit(make_app(folder)).pairs(limit=200)["pairs"]
    for row, pair in enumerate(pairs):
        others = [pairs[other] for other in range(row % 30, ROWS, 30) if other != row]
        expected = sorted(others, key=lambda other: other["mismatch_probability"])
        names = ("rank", "caption", "mismatch_probability")
        assert pair["other_captions"] == [{name: other[name] for name in names} for other in expected]


def test_an_issue_is_a_filter_whose_pairs_can_be_decided(browser):
    listed = browser.pairs(issue="shared caption", order="grouped", limit=200)
    assert listed["total"] == ROWS // 3
    assert all("shared caption" in pair["issues"] for pair in listed["pairs"])
    browser.decide(listed["pairs"][0], "drop")
    assert browser.pairs(issue="shared caption", filter="undecided")["total"] == ROWS // 3 - 1
    assert '<option value="shared caption">shared caption (40)</option>' in browser.client.get("/").text


def replace_column(folder, name, values):
    findings = pq.read_table(folder / "findings.parquet")
    findings = findings.set_column(findings.column_names.index(name), name, values)
    pq.write_table(findings, folder / "findings.parquet")


@pytest.fixture
def unknown(folder, visit):
    """A browser on an audit that learned nothing: no mismatch probability is known."""
    for name in ("mismatch_probability", "suggestion_probability"):
        replace_column(folder, name, pa.nulls(ROWS, pa.float32()))
    replace_column(folder, "is_suspect", pa.array([False] * ROWS))
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"suspects": 0, "estimated_mismatches": None, "warnings": ["nothing consistent was learned"]}
    (folder / "summary.json").write_text(json.dumps(summary))
    return visit(make_app(folder))


def test_where_nothing_is_known_the_page_says_so(unknown):
    html = unknown.client.get("/").text
    text = "".join(Page(html).text)
    assert f"It cannot be said which of the {ROWS} pairs do not match" in text
    assert "Nothing consistent was learned." in text
    assert "there is nothing to cut at" in text
    assert 'value="0.5" disabled' in html
    assert "0 suspects" not in text


@pytest.mark.parametrize("order", ["suspicious", "plausible", "borderline", "grouped"])
def test_where_nothing_is_known_all_pairs_can_be_decided(unknown, order):
    answer = unknown.client.get("/api/pairs", params={"limit": 200, "order": order})
    assert "NaN" not in answer.text
    listed = answer.json()
    assert listed["total"] == ROWS
    assert {pair["mismatch_probability"] for pair in listed["pairs"]} == {None}
    assert listed["progress"] == {"all": ROWS, "decided": 0}
    assert unknown.decide(listed["pairs"][0], "drop")["progress"]["decided"] == 1
    cut = unknown.client.get("/api/cut", params={"threshold": 0.01})
    assert cut.json()["with_decisions"] == {"keep": ROWS - 1, "drop": 1, "re-pair": 0}
    assert unknown.pairs(probability_from=0.5)["total"] == 0
    assert unknown.pairs(filter="suspects")["total"] == 0


def test_what_was_written_is_named_with_its_whole_path(browser, folder):
    written = browser.post("export", {"threshold": 0.5})
    assert written["path"] == str((folder / "reviewed").resolve())
    assert written["files"][0] == "scraped.jsonl"
    assert all((folder / "reviewed" / name).exists() for name in written["files"])


def test_windows_of_a_list_are_the_list(browser):
    whole = browser.pairs(limit=200)["pairs"]
    windows = [pair for offset in range(0, ROWS, 50) for pair in browser.pairs(offset=offset, limit=50)["pairs"]]
    assert windows == whole
    assert browser.pairs(offset=ROWS)["pairs"] == []


def test_a_list_does_not_shift_under_who_works_through_it(browser):
    first = browser.pairs(filter="undecided", limit=10)
    for pair in first["pairs"]:
        browser.decide(pair, "keep")
    following = browser.pairs(filter="undecided", offset=10, limit=10, as_of=first["as_of"])
    assert [pair["rank"] for pair in following["pairs"]] == list(range(11, 21))
    assert following["total"] == first["total"]
    again = browser.pairs(filter="undecided", limit=10)
    assert [pair["rank"] for pair in again["pairs"]] == list(range(11, 21))
    assert browser.pairs(filter="undecided", limit=10, as_of=0)["pairs"][0]["decision"]["action"] == "keep"


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"limit": 201}, "limit"),
        ({"offset": -1}, "offset"),
        ({"order": "random"}, "order"),
        ({"filter": "unsure"}, "no filter 'unsure'"),
        ({"probability_from": 2}, "probability_from"),
        ({"probability_from": "nan"}, "probability_from"),
        ({"as_of": "9" * 20}, "as_of"),
        ({"as_of": "9" * 5000}, "as_of"),
        ({"offset": "9" * 20}, "offset"),
    ],
)
def test_impossible_lists_are_refused_with_a_reason(browser, query, why):
    answer = browser.client.get("/api/pairs", params=query)
    assert answer.status_code == 400
    assert why in answer.json()["error"]


def test_pictures_go_by_number_and_are_kept_by_browsers(browser):
    pair = next(pair for pair in browser.pairs()["pairs"] if pair["image"]["id"] != f"{BROKEN}.png")
    answer = browser.client.get(pair["image"]["picture"] + "&size=32")
    assert answer.headers["content-type"] == "image/webp"
    assert "immutable" in answer.headers["cache-control"]
    assert Image.open(io.BytesIO(answer.content)).size == (32, 16)
    number = int(pair["image"]["id"].split(".")[0])
    red = Image.open(io.BytesIO(answer.content)).convert("RGB").getpixel((8, 8))[0]
    assert abs(red - 2 * number) < 12


def test_pictures_of_another_start_have_another_address(folder, visit):
    addresses = {visit(make_app(folder)).pairs()["pairs"][0]["image"]["picture"] for _ in range(2)}
    assert len(addresses) == 2


@pytest.mark.parametrize("path", ["999999", "-1", "..%2f..%2fsummary.json", "summary.json"])
def test_what_is_no_number_of_a_picture_is_not_found(browser, path):
    assert browser.client.get(f"/pictures/{path}").status_code in (400, 404)


def test_a_broken_picture_is_not_found_and_nothing_else_breaks(browser):
    pair = next(pair for pair in browser.pairs(limit=200)["pairs"] if pair["image"]["id"] == f"{BROKEN}.png")
    answer = browser.client.get(pair["image"]["picture"])
    assert answer.status_code == 404
    assert "cannot be decoded" in answer.json()["error"]
    assert "immutable" not in answer.headers["cache-control"]


def test_decisions_are_saved_when_they_are_answered(browser, folder):
    keep, drop, re_pair = (pair for pair in browser.pairs(filter="with suggestion")["pairs"][:3])
    browser.decide(keep, "keep")
    browser.decide(drop, "drop")
    answer = browser.decide(re_pair, "re-pair", re_pair["suggestion"]["id"])
    assert answer["progress"]["decided"] == 3
    assert answer["decision"]["image"] == re_pair["suggestion"]
    database = sqlite3.connect(folder / "review.sqlite")
    rows = database.execute("SELECT caption_id, action, image_id, who FROM decisions ORDER BY step").fetchall()
    database.close()
    assert rows == [
        (keep["caption_id"], "keep", None, "by hand"),
        (drop["caption_id"], "drop", None, "by hand"),
        (re_pair["caption_id"], "re-pair", re_pair["suggestion"]["id"], "by hand"),
    ]


def test_undo_and_redo_go_on_after_a_restart(browser, folder, visit):
    pairs = browser.pairs()["pairs"][:3]
    for pair in pairs:
        browser.decide(pair, "drop")
    again = visit(make_app(folder), cookies={"truepair-reviewer": browser.client.cookies["truepair-reviewer"]})
    assert [again.post("undo")["rank"] for _ in range(2)] == [3, 2]
    assert again.post("redo")["rank"] == 2
    assert [pair["rank"] for pair in again.pairs(filter="decided")["pairs"]] == [1, 2]
    again.post("undo")
    again.post("undo")
    assert "nothing to undo" in again.post("undo", status=400)["error"]


def test_two_browsers_see_each_others_decisions_and_undo_their_own(app, visit):
    one, two = visit(app), visit(app)
    first, second = one.pairs()["pairs"][:2]
    one.decide(first, "keep")
    two.decide(second, "drop")
    assert [pair["decision"]["action"] for pair in one.pairs(filter="decided")["pairs"]] == ["keep", "drop"]
    assert one.post("undo")["rank"] == 1
    assert [pair["rank"] for pair in two.pairs(filter="decided")["pairs"]] == [2]
    assert "nothing to undo" in one.post("undo", status=400)["error"]


def test_two_servers_of_one_audit_share_its_decisions(folder, visit):
    one, two = visit(make_app(folder)), visit(make_app(folder))
    first, second = one.pairs()["pairs"][:2]
    one.decide(first, "keep")
    two.decide(second, "drop")
    two.decide(first, "drop")
    assert one.post("undo")["was_superseded"]
    assert {pair["decision"]["action"] for pair in one.pairs(filter="decided")["pairs"]} == {"drop"}


def test_clearing_leaves_the_pair_to_the_cut_again(browser):
    pair = browser.pairs()["pairs"][0]
    browser.decide(pair, "keep")
    assert browser.decide(pair, "clear")["decision"] is None
    assert browser.pairs(filter="decided")["total"] == 0
    assert browser.post("undo")["decision"]["action"] == "keep"


def test_any_image_of_the_corpus_may_be_given(browser):
    pair = browser.pairs()["pairs"][0]
    other = next(name for name in ("3.png", "4.png") if name != pair["image"]["id"])
    answer = browser.decide(pair, "re-pair", other)
    assert answer["decision"]["image"]["id"] == other


@pytest.mark.parametrize(
    ("change", "status", "why"),
    [
        ({"caption_id": "nobody"}, 404, "no caption 'nobody'"),
        ({"action": "re-pair", "image_id": "nobody.png"}, 404, "no image 'nobody.png'"),
        ({"action": "re-pair"}, 400, "needs one"),
        ({"action": "drop", "image_id": "3.png"}, 400, "needs one"),
        ({"action": "burn"}, 400, "action"),
        ({"action": "keep", "who": "me"}, 400, "who"),
    ],
)
def test_impossible_decisions_are_refused_and_change_nothing(browser, change, status, why):
    pair = browser.pairs()["pairs"][0]
    answer = browser.post("decide", {"caption_id": pair["caption_id"], "action": "keep"} | change, status)
    assert why in answer["error"]
    assert browser.pairs(filter="decided")["total"] == 0


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (rb'{"caption_id": "\ud800", "action": "keep"}', "caption_id"),
        (rb'{"caption_id": "k3", "action": "re-pair", "image_id": "\udfff.png"}', "image_id"),
        (rb'{"caption_id": "k3", "action": "keep", "\ud800": 1}', "unicode"),
        (b'{"caption_id": "k3", "action": "keep"', "JSON"),
        (b"[" * 60_000, "body"),
        (b'{"caption_id": "\xff"}', "body"),
    ],
)
def test_what_is_no_text_or_no_json_is_refused_in_a_sentence(browser, body, why):
    answer = browser.client.post("/api/decide", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert why in answer.json()["error"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/api/nothing", 404), ("PUT", "/api/decide", 405)])
def test_what_there_is_not_is_said_as_all_errors_are(browser, method, path, status):
    answer = browser.client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_the_image_that_a_pair_has_cannot_be_given_to_it(browser):
    pair = browser.pairs()["pairs"][0]
    body = {"caption_id": pair["caption_id"], "action": "re-pair", "image_id": pair["image"]["id"]}
    assert "keep it instead" in browser.post("decide", body, 400)["error"]


def test_the_cut_counts_pairs_and_what_is_expected_of_them(browser, folder):
    probability = pq.read_table(folder / "findings.parquet")["mismatch_probability"].to_pylist()
    cut = browser.client.get("/api/cut", params={"threshold": 0.6}).json()
    suspects = [p for p in probability if p >= 0.6]
    assert cut["dropped"] == len(suspects)
    assert cut["expected_mismatched"] == pytest.approx(sum(suspects))
    assert cut["expected_matching"] == pytest.approx(len(suspects) - sum(suspects))
    assert cut["expected_missed"] == pytest.approx(sum(probability) - sum(suspects))
    browser.decide(browser.pairs()["pairs"][0], "keep")
    cut = browser.client.get("/api/cut", params={"threshold": 0.6}).json()
    assert cut["by_hand"] == 1
    assert cut["with_decisions"]["drop"] == len(suspects) - 1
    assert browser.client.get("/api/cut", params={"threshold": 0}).status_code == 400


def test_the_page_loads_only_its_own_files_and_runs_nothing_inline(browser):
    answer = browser.client.get("/")
    page = Page(answer.text)
    assert page.open == []
    assert page.handlers == []
    assert sorted(page.loads) == ["data:,", "static/review.css", "static/review.js", "static/shared.js"]
    assert "<script>" not in answer.text
    assert "style=" not in answer.text
    assert browser.client.get("/static/review.css").status_code == 200
    for file in ("review.js", "shared.js", "search.js", "search_page.js"):
        script = browser.client.get(f"/static/{file}").text
        assert "use strict" in script
        assert not any(
            word in script for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(")
        )


def test_captions_reach_the_browser_as_data_only(browser):
    assert EVIL in [pair["caption"] for pair in browser.pairs()["pairs"]]
    answer = browser.client.get("/api/pairs")
    assert answer.headers["content-type"] == "application/json"
    assert "evil.example" not in browser.client.get("/").text


def test_the_name_of_the_corpus_is_escaped(folder, visit):
    summary = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(summary.replace('"corpus": "scraped.jsonl"', '"corpus": "<script>x</script>"'))
    page = visit(make_app(folder)).client.get("/").text
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "<script>x" not in page


def test_findings_that_changed_since_the_review_began_are_refused(browser, folder):
    browser.decide(browser.pairs()["pairs"][0], "keep")
    findings = pq.read_table(folder / "findings.parquet")
    pq.write_table(findings.slice(1), folder / "findings.parquet")
    with pytest.raises(DataError, match=r"review\.sqlite .*findings\.parquet"):
        make_app(folder)


def test_a_full_disk_is_said_and_nothing_is_decided(browser, monkeypatch):
    """SQLite itself says so: the database may not grow by another page."""
    connect = sqlite3.connect

    def on_a_full_disk(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 1")  # as small as it is now
        return connection

    pairs = browser.pairs(limit=200)["pairs"]
    monkeypatch.setattr(sqlite3, "connect", on_a_full_disk)
    count, answer = -1, None
    while answer is None or answer.status_code == 200:
        count += 1
        body = {"caption_id": pairs[count]["caption_id"], "action": "keep"}
        answer = browser.client.post("/api/decide", json=body)
    assert answer.status_code == 507
    assert "nothing was saved: free some space" in answer.json()["error"]
    assert browser.pairs(filter="decided")["total"] == count
    monkeypatch.undo()
    assert browser.decide(pairs[count], "keep")["decision"]["action"] == "keep"


def test_a_database_that_is_gone_is_said(browser, folder):
    pair = browser.pairs()["pairs"][0]
    (folder / "review.sqlite").unlink()
    answer = browser.client.post("/api/decide", json={"caption_id": pair["caption_id"], "action": "keep"})
    assert answer.status_code == 503
    assert "review.sqlite" in answer.json()["error"]
    assert not (folder / "review.sqlite").exists(), "an empty one would hide that decisions are lost"


def test_a_database_that_is_damaged_under_the_page_is_said(browser, folder):
    browser.decide(browser.pairs()["pairs"][0], "keep")
    path = folder / "review.sqlite"
    content = path.read_bytes()
    for damaged in (bytes(len(content)), content[:4096] + b"x" * (len(content) - 4096)):
        path.write_bytes(damaged)
        answer = browser.client.post("/api/undo", json={})
        assert answer.status_code == 503
        assert "is damaged (" in answer.json()["error"]
        assert f"truepair review {folder} --export-decisions" in answer.json()["error"]


@pytest.mark.parametrize("damage", ["no table", "a column of numbers"])
def test_damaged_issues_are_refused_before_the_page_is_served(folder, damage):
    path = folder / "issues.parquet"
    if damage == "no table":
        path.write_bytes(b"nothing")
    else:
        issues = pq.read_table(path)
        pq.write_table(issues.set_column(0, "issue", pa.array(range(len(issues)))), path)
    with pytest.raises(DataError, match=r"issues\.parquet .*audit again"):
        make_app(folder)


def test_a_source_that_is_gone_or_has_other_captions_is_not_reviewed(folder, table, tmp_path):
    copy = shutil.copytree(table.parent, tmp_path / "moved")
    summary = json.loads((folder / "summary.json").read_text())
    summary["source"]["path"] = str(copy / table.name)
    (folder / "summary.json").write_text(json.dumps(summary))
    make_app(folder)
    text = (copy / table.name).read_text()
    (copy / table.name).write_text(text.replace('"caption 1"', '"corrected"'))
    with pytest.raises(DataError, match="k1 says 'corrected', but the audit was of 'caption 1'; was"):
        make_app(folder)
    (copy / table.name).unlink()
    with pytest.raises(ConfigError, match=r"cannot be opened .* was it moved"):
        make_app(folder)
