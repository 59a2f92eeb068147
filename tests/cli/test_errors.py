import errno
import json
import resource
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_sources import picture, write_files

from truepair.cli import main as entry
from truepair.cli.errors import ending_of
from truepair.cli.main import main
from truepair.errors import DataError, of_system, said_by

BASELINE = ["--method.name", "baseline", "--method.epochs", "1", "--model.embedding", "16", "--device", "cpu"]
DEEP = "[" * 5_000 + "]" * 5_000
LONG = '{"format": ' + "9" * 5_000 + "}"


@pytest.fixture
def pictures(tmp_path):
    names = ["red", "green", "blue", "white"]
    files = {f"{number}.png": picture(number) for number in range(40)}
    rows = "".join(f"{number}.png,a {names[number % 4]} square\n" for number in range(40))
    return write_files(tmp_path / "pics", files | {"c.csv": "image,caption\n" + rows}) / "c.csv"


@pytest.fixture
def broken(monkeypatch):
    """Make the command ``figures`` raise something."""

    def breaks(error):
        class Module:
            @staticmethod
            def command(words, output):
                raise error

        monkeypatch.setattr(entry, "import_module", lambda name: Module)

    return breaks


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full: make room"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "it may not be read or written"),
        (errno.EMFILE, "too many files are open: raise the limit"),
        (errno.ENAMETOOLONG, "the name is too long"),
        (errno.ENOTDIR, "a part of the path is a file, not a folder"),
        (errno.EIO, "the disk or its connection fails"),
    ],
)
def test_an_error_of_the_system_is_one_sentence_with_the_file(number, said, broken, capsys):
    broken(OSError(number, "whatever", "out/a.png"))
    assert main(["figures", "run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"truepair: error: out/a.png: {said}")
    assert "Errno" not in line


def test_words_of_errors_have_nothing_of_python():
    assert said_by(OSError(errno.ENOSPC, "No space left on device", b"a\xff.png")) == (
        r"No space left on device: a\xff.png"
    )
    assert said_by(KeyError()) == "KeyError"
    assert said_by(ValueError("two\n lines")) == "two lines"
    long = OSError(errno.ENAMETOOLONG, "File name too long", "a" * 5_000)
    assert len(of_system(long)) < 300
    with pytest.raises(OSError, match="directory") as arrow:
        pa.OSFile("/nowhere/at/all")
    assert of_system(arrow.value).startswith("/nowhere/at/all: there is no such file or folder")
    assert of_system(OSError("no number")) == "a file cannot be read or written (no number)"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 20. GiB"),
        pa.ArrowMemoryError("malloc of size 20 failed"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 20 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
    ],
)
def test_whatever_memory_is_lacking_for_it_is_one_sentence(error, broken, capsys):
    broken(error)
    assert main(["figures", "run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("truepair: error: there is not enough memory (")


def test_a_real_allocation_that_fails_is_told_as_lacking_memory():
    for allocate in (lambda: torch.empty(1 << 60), lambda: bytearray(1 << 62)):
        with pytest.raises((RuntimeError, MemoryError)) as failed:
            allocate()
        assert ending_of(failed.value, "train").said.startswith("error: there is not enough memory (")


def test_a_fault_of_truepair_is_70_with_its_place_and_what_to_attach(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    monkeypatch.setattr("truepair.training.folder.read_json", lambda *given: {}["nothing"])
    assert main(["inspect", str(run)]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("truepair: fault: KeyError: 'nothing' (at truepair/")
    assert ".py:" in line
    assert "a fault of truepair" in line
    assert str(run / "run.json") in line
    assert main(["inspect", str(run), "--debug"]) == 70
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.splitlines()[-1] == line


def test_what_the_user_can_mend_has_its_traceback_with_debug_only(capsys):
    for debug, lines in ([], 1), (["--debug"], 5):
        assert main(["evaluate", "nowhere", *debug]) == 1
        assert len(capsys.readouterr().err.splitlines()) >= lines
    assert ending_of(DataError("so it is"), "fix").said == "error: so it is"


def test_a_full_standard_output_is_one_sentence():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "truepair", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "truepair: error: the disk is full: make room, then run the same command again\n"


@pytest.mark.parametrize(("command", "most"), [("train", 2_000), ("train", 20_000), ("audit", 2_000)])
def test_a_disk_that_takes_no_more_ends_training_and_audit_in_one_sentence(
    command, most, pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # modules would be cut off, too
    words = ["train", str(pictures), *BASELINE, "--out", str(tmp_path / "run"), "--quiet"]
    if command == "audit":
        assert main(words) == 0
        words = ["audit", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--quiet"]
    capsys.readouterr()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, usual[1]))
    try:
        code = main(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("truepair:")]
    assert line.startswith("truepair: error: ")
    assert "too large" in line or "would be larger" in line
    assert "Errno" not in line


def test_an_output_below_a_file_is_one_sentence(folder, pictures, tmp_path, capsys):
    below = str(pictures / "x")
    commands = [["fix", str(folder), "--out", below]]
    commands += [["embed", str(pictures), "--out", below, "--text-encoder", "none"]]
    commands += [["train", str(pictures), "--out", below, *BASELINE]]
    commands += [["audit", str(pictures), "--patches", "--out", below]]
    for command in commands:
        assert main([*command, "--quiet"]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("truepair:")]
        assert str(pictures) in line
        assert "Errno" not in line


@pytest.mark.parametrize("text", [DEEP, LONG])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.json", ["evaluate", "IT"]),
        ("run.json", ["inspect", "IT"]),
        ("summary.json", ["fix", "IT", "--out", "OUT"]),
        ("embeddings.json", ["train", "IT", *BASELINE, "--out", "OUT"]),
        ("c.json", ["train", "IT/c.json", *BASELINE, "--out", "OUT"]),
        ("c.jsonl", ["train", "IT/c.jsonl", *BASELINE, "--out", "OUT"]),
        ("metadata.jsonl", ["train", "IT", *BASELINE, "--out", "OUT"]),
        ("state.json", ["train", "IT", *BASELINE, "--out", "OUT"]),
        ("words.json", ["train", "demo", "--vocabulary", "IT/words.json", "--text", "words", "--out", "OUT"]),
        ("deep.toml", ["train", "IT/deep.toml", "--out", "OUT"]),
    ],
)
def test_no_json_is_too_deep_or_too_long_for_a_sentence(text, name, words, tmp_path, capsys):
    it = write_files(tmp_path / "it", {name: f"x = {text}" if name.endswith("toml") else text})
    words = [word.replace("IT", str(it), 1) if word.startswith("IT") else word for word in words]
    assert main([str(tmp_path / "out") if word == "OUT" else word for word in words]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("truepair:")]
    assert line.startswith("truepair: error: ")
    assert len(line) < 700


def test_a_null_caption_and_zeroed_bytes_in_an_audit_are_one_sentence(folder, tmp_path, capsys):
    findings = folder / "findings.parquet"
    table = pq.read_table(findings)
    captions = [None, *table["caption"].to_pylist()[1:]]
    place = table.column_names.index("caption")
    pq.write_table(table.set_column(place, "caption", pa.array(captions, pa.string())), findings)
    assert main(["fix", str(folder), "--out", str(tmp_path / "x")]) == 1
    assert "has no caption in 1 of" in capsys.readouterr().err
    whole = bytearray(findings.read_bytes())
    whole[200:1_200] = bytes(1_000)
    findings.write_bytes(whole)
    assert main(["fix", str(folder), "--out", str(tmp_path / "x")]) == 1
    assert capsys.readouterr().err.startswith(f"truepair: error: {findings}")


def test_results_that_are_no_results_are_one_sentence(tmp_path, capsys):
    write_files(tmp_path, {"run.json": json.dumps({"recipe": {}, "inputs": {}}), "results.json": DEEP})
    assert main(["figures", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("truepair: error: ")


def test_an_audit_of_few_images_asks_for_more_not_for_a_split(tmp_path, capsys):
    rows = [{"image": f"{n}.png", "caption": f"c{n}", "seen": [n, 1.0], "said": [1.0, n]} for n in range(3)]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    features = ["--image-feature-col", "seen", "--caption-feature-col", "said"]
    assert main(["audit", str(tmp_path / "few.jsonl"), "--out", str(tmp_path / "a"), *features]) == 1
    said = capsys.readouterr().err
    assert "there are pairs of 3 images, too few to compare them with each other: audit pairs of at least 10" in said
    assert "share" not in said
