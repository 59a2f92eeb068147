import json
import re
import shutil
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from kills import killed_at
from owned_elsewhere import owned_elsewhere
from reviewed_table import COLUMNS, QUICK

from truepair.audit import run as audit_run
from truepair.audit.lab import PairLab
from truepair.audit.run import audit_corpus
from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.fixing import FixOptions, fix
from truepair.cleaning.generation import FILES, finish_switch, generation_of_page, generation_of_table
from truepair.config import DataConfig, NoiseConfig
from truepair.data.corpora import load_corpus
from truepair.errors import ConfigError, DataError
from truepair.files.locking import alone_in
from truepair.files.replacing import replacing
from truepair.review.app import make_app

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@pytest.fixture(scope="module")
def writings(table, tmp_path_factory):
    """What two audits of the table, at other thresholds, write: functions of the folder to write to."""
    found, write = [], audit_run._write
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audit_run, "_write", lambda *given: found.append(given) or write(*given))
        data = DataConfig(path=str(table), source=COLUMNS)
        for threshold in (0.5, 0.9):
            out = tmp_path_factory.mktemp("audited") / "audit"
            audit_corpus(load_corpus(data), data, NoiseConfig(), out, replace(QUICK, threshold=threshold))
    return [_writing(*given) for given in found]


def _writing(what, source, _, config, work):
    def write(out):
        with alone_in(out):
            return audit_run._write(what, source, out, config, work)

    return write


@pytest.fixture
def drawn(writings, tmp_path, monkeypatch):
    """The report's charts are drawn once, not before each kill."""
    writings[1](tmp_path / "drawn")
    page = (tmp_path / "drawn" / "report.html").read_bytes()

    def write_report(findings, issues, summary, path, **_):
        with replacing(path) as temporary:
            temporary.write_bytes(page)

    monkeypatch.setattr(audit_run, "write_report", write_report)


def generations(folder):
    """What each file says of itself."""
    return {
        json.loads((folder / "summary.json").read_text())["generation"],
        generation_of_page(folder / "report.html"),
        *(generation_of_table(pq.read_table(folder / name)) for name in ("findings.parquet", "issues.parquet")),
    }


def test_files_of_an_audit_have_one_name_and_the_same_audit_has_the_same(writings, tmp_path):
    names = [writings[which](tmp_path / str(place)).generation for place, which in enumerate((0, 0, 1))]
    assert names[0] == names[1] != names[2]
    for place, name in enumerate(names):
        assert generations(tmp_path / str(place)) == {name}
        assert re.fullmatch("[0-9a-f]{32}", name)
    for name in ("findings.parquet", "issues.parquet"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_whenever_an_audit_is_killed_the_folder_holds_the_earlier_or_the_newer_one(writings, tmp_path, request):
    earlier, newer = (write(tmp_path / str(place)) for place, write in enumerate(writings))
    names = {earlier.generation: earlier.threshold, newer.generation: newer.threshold}
    request.getfixturevalue("drawn")
    out, event, met = tmp_path / "audit", 1, []
    while True:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "0", out)
        (out / "skipped.csv").write_text("where,reason,detail\n")  # as if the earlier one had left something out
        (out / "review.sqlite").write_bytes(b"decisions")
        if not killed_at(event, lambda: writings[1](out), out):
            break
        audit = open_audit(out)
        assert names[audit.summary.generation] == audit.threshold
        assert generations(out) == {audit.summary.generation}
        assert len(audit.issues) >= 0
        is_newer = audit.summary.generation == newer.generation
        assert (out / "skipped.csv").exists() != is_newer
        assert (out / "review.sqlite").read_bytes() == b"decisions"
        assert not (out / ".ready").exists()
        met.append(is_newer)
        event += 1
    assert met == sorted(met), "from one moment on it is the newer one"
    assert 5 < sum(met) < len(met) - 5
    assert {path.name for path in out.iterdir()} == {*FILES, "review.sqlite"} - {"skipped.csv"}
    assert writings[1](out).generation == newer.generation, "nothing is in the way of the next audit"


@pytest.fixture(scope="module")
def committed(writings, tmp_path_factory):
    """A folder with an audit, and a newer one whose process was killed as it was to take its place."""
    out, event = tmp_path_factory.mktemp("committed") / "audit", 12
    writings[0](out)
    while not (out / ".ready").exists():
        assert killed_at(event, lambda: writings[1](out), out)
        event += 1
    return out


def test_every_reader_ends_a_switch_first(committed, tmp_path):
    readers = {
        "review": lambda folder: TestClient(make_app(folder)),
        "lab": PairLab.load,
        "report": lambda folder: PairLab.load(folder).report(),
        "fix": lambda folder: fix(open_audit(folder), {}, tmp_path / "copy", FixOptions(0.9)),
    }
    for name, read in readers.items():
        folder = tmp_path / name
        shutil.copytree(committed, folder)
        read(folder)
        assert not (folder / ".ready").exists()
        assert len(generations(folder)) == 1
        assert open_audit(folder).threshold == 0.9


def test_a_switch_is_left_to_the_process_that_is_at_it(committed, tmp_path, monkeypatch):
    out = shutil.copytree(committed, tmp_path / "audit")
    monkeypatch.setattr("truepair.cleaning.generation._PATIENCE", 0.2)
    with owned_elsewhere(alone_in(out)), pytest.raises(ConfigError, match=r"another process is writing .*audit"):
        open_audit(out)
    finish_switch(out)
    assert open_audit(out).threshold == 0.9


@pytest.mark.parametrize("name", ["findings.parquet", "issues.parquet", "report.html", "summary.json"])
def test_files_of_two_audits_are_refused_and_named(writings, tmp_path, name):
    for place, write in enumerate(writings):
        write(tmp_path / str(place))
    shutil.copyfile(tmp_path / "1" / name, tmp_path / "0" / name)
    wrong = "findings.parquet" if name == "summary.json" else name
    with pytest.raises(DataError, match=rf"0/{wrong} and summary.json are of different audits \(.*\): audit again"):
        _ = (PairLab.load(tmp_path / "0").report(), open_audit(tmp_path / "0").issues)


def test_an_audit_of_an_earlier_version_is_read(writings, tmp_path):
    out = tmp_path / "audit"
    writings[0](out)
    summary = json.loads((out / "summary.json").read_text())
    del summary["generation"]
    (out / "summary.json").write_text(json.dumps(summary))
    for name in ("findings.parquet", "issues.parquet"):
        pq.write_table(pq.read_table(out / name).replace_schema_metadata(None), out / name)
    assert len(open_audit(out).issues) == sum(summary["issues"].values())


def test_a_folder_without_a_switch_is_only_read(writings, tmp_path):
    out = tmp_path / "audit"
    writings[0](out)
    before = {path: path.stat().st_mtime_ns for path in (out, *out.iterdir())}
    with owned_elsewhere(alone_in(tmp_path)):
        audit = open_audit(out)
    assert len(audit.issues) >= 0
    assert {path: path.stat().st_mtime_ns for path in (out, *out.iterdir())} == before
