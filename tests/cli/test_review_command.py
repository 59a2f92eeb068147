import signal
import socket
import subprocess
import sys
from contextlib import closing

import httpx
import pytest

from truepair.cli.main import main


@pytest.mark.slow
def test_the_command_serves_the_page_until_it_is_interrupted(folder):
    command = [sys.executable, "-m", "truepair", "review", str(folder), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().removeprefix("review: ").strip()
        answer = httpx.get(address)
        assert answer.status_code == 200
        assert "suspects in 120 pairs" in answer.text
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


def test_an_impossible_port_ends_with_2(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["review", str(folder), "--port", "70000"])
    assert stop.value.code == 2
    assert "port is 70000" in capsys.readouterr().err
