import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing

import httpx
import pytest

from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.decision_tables import read_decisions
from truepair.cleaning.decisions_db import HandDecisions
from truepair.cli.main import main


@pytest.mark.slow
def test_the_command_serves_the_page_until_it_is_interrupted(folder):
    hosts = ["--allow-host", "hub.example.org", "--allow-host", "other.example"]
    command = [sys.executable, "-m", "truepair", "review", str(folder), "--no-browser", *hosts]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().removeprefix("review: ").strip()
        answer = httpx.get(address)
        assert answer.status_code == 200
        assert "suspects in 120 pairs" in answer.text
        for host, status in (("hub.example.org", 200), ("other.example", 200), ("evil.example", 403)):
            assert httpx.get(address, headers={"Host": host}).status_code == status
        with httpx.Client() as stranger:
            assert stranger.get(address.partition("?")[0]).status_code == 403
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in complaints


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_a_missing_package_is_named_with_what_to_install(folder, monkeypatch, capsys, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["review", str(folder)]) == 1
    assert f"needs {missing}: pip install 'truepair[review]'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(folder, capsys):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["review", str(folder), "--port", str(port)]) == 1
    assert f"cannot listen on port {port}" in capsys.readouterr().err


def test_a_folder_without_an_audit_is_said(tmp_path, capsys):
    assert main(["review", str(tmp_path)]) == 1
    assert "holds no audit" in capsys.readouterr().err


@pytest.fixture
def decided(folder):
    """A copy of an audit of which three pairs are decided by hand, and these."""
    audit = open_audit(folder)
    hand = HandDecisions(folder / "review.sqlite", audit.digest, audit.findings_file)
    for row, action in ((0, "keep"), (1, "drop"), (2, "re-pair")):
        name = audit.findings["caption_id"][row].as_py()
        hand.decide("a", row + 1, name, action, "4.png" if action == "re-pair" else None)
    return folder, {name: (one.action, one.image_id) for name, one in hand.all().items()}


def exported(folder, table):
    return {name: (one.action, one.image_id) for name, one in read_decisions(table, open_audit(folder)).items()}


@pytest.mark.parametrize("name", ["decisions.csv", "decisions.parquet"])
def test_decisions_are_exported_and_fix_takes_them(decided, tmp_path, capsys, name):
    folder, decisions = decided
    table = tmp_path / name
    assert main(["review", str(folder), "--export-decisions", str(table)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"3 decisions: {table}\nread them with: truepair fix {folder} --decisions {table}")
    assert said.err == ""
    assert exported(folder, table) == decisions
    (folder / "review.sqlite").unlink()
    assert main(["fix", str(folder), "--out", str(tmp_path / "out"), "--decisions", str(table)]) == 0
    assert "; 3 of these decided by hand" in capsys.readouterr().out


def test_a_damaged_database_is_said_and_its_decisions_are_saved(decided, tmp_path, capsys):
    folder, decisions = decided
    path = folder / "review.sqlite"
    path.write_bytes(bytes(4096) + path.read_bytes()[4096:])  # the page that says what tables there are
    before = path.read_bytes()
    for command in (["review", str(folder)], ["fix", str(folder), "--out", str(tmp_path / "out")]):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert "review.sqlite is damaged (" in said
        assert f"truepair review {folder} --export-decisions decisions.csv" in said
    assert main(["review", str(folder), "--export-decisions", str(tmp_path / "decisions.csv")]) == 0
    assert exported(folder, tmp_path / "decisions.csv") == decisions
    assert path.read_bytes() == before


def test_what_is_lost_is_counted(decided, tmp_path, capsys):
    folder, decisions = decided
    path = folder / "review.sqlite"
    with closing(sqlite3.connect(path)) as raw:
        page = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'decisions'").fetchone()[0]
    content = path.read_bytes()
    path.write_bytes(content[: (page - 1) * 4096] + bytes(4096) + content[page * 4096 :])
    assert main(["review", str(folder), "--export-decisions", str(tmp_path / "decisions.csv")]) == 0
    assert "decisions could not be read; 3 were found in its history instead" in capsys.readouterr().err
    assert exported(folder, tmp_path / "decisions.csv") == decisions


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_decisions_are_exported_without_the_packages_of_the_page(decided, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["review", str(decided[0]), "--export-decisions", str(tmp_path / "decisions.csv")]) == 0


def test_where_nothing_was_decided_it_is_said(folder, tmp_path, capsys):
    assert main(["review", str(folder), "--export-decisions", str(tmp_path / "a.csv")]) == 1
    assert "nothing was decided in this audit" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("name", ["*", "http://hub.example.org", "hub example", "", "hub/user"])
def test_a_host_that_is_no_name_ends_with_2(folder, capsys, name):
    with pytest.raises(SystemExit) as stop:
        main(["review", str(folder), "--allow-host", "hub.example.org", "--allow-host", name])
    assert stop.value.code == 2
    assert f"--allow-host is {name!r}" in capsys.readouterr().err


def test_an_impossible_port_ends_with_2(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["review", str(folder), "--port", "70000"])
    assert stop.value.code == 2
    assert "port is 70000" in capsys.readouterr().err
