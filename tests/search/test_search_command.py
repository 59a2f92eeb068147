import json

import pytest
from made_sources import write_rows

from truepair.cli.main import main


def said(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main([*map(str, arguments)]) == code
    return capsys.readouterr()


def test_an_index_is_made_searched_changed_and_measured(vectors, tmp_path, capsys):
    out = tmp_path / "index"
    made = json.loads(said(capsys, "index", vectors, "--out", out, "--calibration", 100, "--json", "--quiet").out)
    assert (made["images"], made["captions"]) == (300, 300)
    assert made["calibration"]["images"]["calibration_error"] < 0.2
    shown = said(capsys, "search", out, "--like", "caption-7", "--k", 2, "--quiet").out.splitlines()
    assert "image-7" in shown[0]
    assert "%" in shown[0]
    assert len(shown) == 2
    rows = json.loads(said(capsys, "search", out, "--like", "caption-7", "caption-8", "--k", 1, "--json").out)
    assert [row["id"] for row in rows["hits"]] == ["image-7", "image-8"]
    assert "299 images" in said(capsys, "index", "--out", out, "--drop", "image-7", "--quiet").out
    measured = said(capsys, "evaluate", "--index", out, "--quiet").out
    assert "299 images × 299 captions" in measured
    assert "R@1" in measured


def test_batches_come_from_a_file_and_go_to_one(of_words, tmp_path, capsys):
    (tmp_path / "queries.csv").write_text("text,n\na red heart,1\na dog,2\n", encoding="utf-8")
    asked = ("search", of_words.folder, "--queries", tmp_path / "queries.csv", "--column", "text", "--k", 3)
    for name in ("hits.csv", "hits.jsonl", "hits.parquet"):
        assert "6 hits of 2 queries" in said(capsys, *asked, "--out", tmp_path / name).out
        assert (tmp_path / name).stat().st_size > 100
    assert main(["search", str(of_words.folder), *map(str, asked[2:]), "--out", str(tmp_path / "queries.csv")]) == 1
    assert "queries.csv, which is there already: choose another file" in capsys.readouterr().err
    assert (tmp_path / "queries.csv").read_text(encoding="utf-8").startswith("text,n")
    (tmp_path / "lines.txt").write_text("a red heart\n\na dog\n", encoding="utf-8")
    shown = said(capsys, "search", of_words.folder, "--queries", tmp_path / "lines.txt", "--k", 1).out
    assert "1. a red heart" in shown
    assert "2. a dog" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "{out}"], "give one of"),
        (["search", "{out}", "a", "--like", "b"], "give one of"),
        (["search", "{out}", "--like", "image-1", "--out", "hits.txt"], "hits are written as"),
        (["search", "nowhere", "a dog"], "holds no index"),
        (["search", "{out}", "a dog", "--port", "8000"], "add --page"),
        (["search", "{out}", "a dog", "--no-browser"], "add --page"),
        (["search", "{out}", "a dog", "--allow-host", "hub.example.org"], "add --page"),
        (["search", "{out}", "--queries", "nowhere.txt"], "does not exist"),
        (
            ["search", "{out}", "a dog", "--out", "no/folder/hits.csv"],
            "but there is no folder no/folder: make it first",
        ),
        (["search", "{out}", "a dog", "--page", "--where", "width > 3"], "--page asks for all that itself"),
        (["search", "{out}", "a dog", "--page", "--find", "captions"], "--page asks for all that itself"),
        (["index", "--out", "{out}"], "name what to index"),
        (["search", "{out}", ""], "query 1 is empty"),
        (["index", "nowhere.csv", "--out", "{out}-new", "--quiet"], "does not exist"),
        (["index", "--out", "{out}", "--add", "a.csv", "--image-encoder", "x"], "leave it out"),
        (["index", "--out", "{out}", "--add", "a.csv", "--approximate", "ivf"], "goes on as it was made: leave it out"),
        (["index", "--out", "{out}", "--drop", "image-1", "--device", "cpu"], "goes on as it was made: leave it out"),
        (["evaluate", "--index", "{out}", "--folds", "2"], "leave folds out"),
        (["evaluate", "--index", "{out}", "--split", "dev"], "leave split out"),
    ],
)
def test_bad_commands_are_answered_in_a_sentence(arguments, message, made, capsys):
    error = said(capsys, *(word.format(out=made) for word in arguments), code=1).err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_queries_without_the_column_are_refused_with_those_that_there_are(ending, made, tmp_path, capsys):
    queries = write_rows(tmp_path / f"queries.{ending}", [{"text": "a dog", "n": 1}])
    error = said(capsys, "search", made, "--queries", queries, code=1).err
    assert f"queries.{ending} has no column 'caption'; there are text, n: name one with --column" in error
