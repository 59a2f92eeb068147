import errno
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from filelock import FileLock, Timeout
from owned_elsewhere import owned_elsewhere

from truepair.errors import ConfigError
from truepair.files.locking import alone_in, alone_with, lock_beside
from truepair.files.replacing import part_of

_OWNER = """
import sys, time
from pathlib import Path
from truepair.files.locking import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_made_and_has_room_for_one_at_a_time(tmp_path):
    folder = tmp_path / "a" / "b"
    with owned_elsewhere(alone_in(folder)):
        with pytest.raises(ConfigError, match=r"another process is writing .*b: wait for it to end"), alone_in(folder):
            pytest.fail("two at once")
        with alone_in(folder.parent):  # another folder
            pass
    with alone_in(folder):
        (folder / "kept").touch()
    assert list(folder.iterdir()) == [folder / "kept"], "no lock file stays"


def test_another_process_is_named_and_one_that_was_killed_is_in_nobodys_way(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, str(tmp_path), "two words"], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"in\n"
    try:
        with pytest.raises(ConfigError) as refused, alone_in(tmp_path):
            pytest.fail("two at once")
        said = rf"\(process {owner.pid} on \S+ since 20\d\d-\d\d-\d\dT[\d:]+\+00:00: -c {tmp_path} 'two words'\)$"
        assert refused.match(said)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    assert json.loads((tmp_path / ".lock").read_text())["process"] == owner.pid
    with alone_in(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_file_is_never_trusted(tmp_path):
    for content in (
        b"",
        b"\xff\xff",
        b"[]",
        b'{"process": 1}',
        b'{"process": 1, "host": "h", "since": "s", "command": 3}',
    ):
        (tmp_path / ".lock").write_bytes(content)
        with alone_in(tmp_path):
            pass
        with owned_elsewhere(alone_in(tmp_path)):
            (tmp_path / ".lock").write_bytes(content)
            with pytest.raises(ConfigError, match=r"wait for it to end, or stop it$"), alone_in(tmp_path):
                pytest.fail("two at once")


def test_one_thread_may_come_in_again_and_stays_until_it_has_left_as_often(tmp_path):
    with alone_in(tmp_path):
        with alone_in(tmp_path / ".." / tmp_path.name):
            pass
        refused = []

        def other():
            try:
                with alone_in(tmp_path):
                    pass
            except ConfigError as error:
                refused.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(refused) == 1


@pytest.mark.parametrize("before", [True, False])
def test_a_lock_on_a_file_that_its_owner_has_deleted_meanwhile_does_not_count(tmp_path, monkeypatch, before):
    acquire, calls = FileLock.acquire, []

    def acquired(self, timeout):
        calls.append(timeout)
        if len(calls) == 1 and before:
            (tmp_path / ".lock").unlink()  # between opening and locking
        acquire(self, timeout=timeout)
        if len(calls) == 1 and not before:
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr("truepair.files.locking.FileLock.acquire", acquired)
    with alone_in(tmp_path):
        assert len(calls) == 2
        with pytest.raises(Timeout):  # the file of that name is the locked one
            acquire(FileLock(tmp_path / ".lock"), timeout=0)


def test_many_threads_that_come_and_go_are_never_two_at_once(tmp_path):
    inside, most, entered = [], [], []

    def visit():
        for _ in range(50):
            try:
                with alone_in(tmp_path / "x" / "y", patience=60.0):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    entered.append(1)
            except ConfigError:
                pytest.fail("waited a minute")

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 200
    assert max(most) == 1
    assert not list(tmp_path.rglob(".lock"))


def test_an_error_lets_go_and_an_empty_folder_that_was_made_goes_too(tmp_path):
    with pytest.raises(ZeroDivisionError), alone_in(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with alone_in(tmp_path / "there"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


def test_what_is_replaced_as_a_whole_is_locked_beside_it(tmp_path):
    with owned_elsewhere(alone_with(tmp_path / "copy")):
        assert [path.name for path in tmp_path.iterdir()] == [".copy.lock"]
        with pytest.raises(ConfigError, match=r"is writing .*copy: "), alone_with(tmp_path / "copy"):
            pytest.fail("two at once")
        with alone_with(tmp_path / "other"), alone_in(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_processes_go_and_those_of_live_ones_and_other_files_stay(tmp_path):
    part_of(tmp_path / "killed.npy").write_bytes(b"half")
    (part_of(tmp_path / "killed") / "in").mkdir(parents=True)
    (tmp_path / "download.part").write_bytes(b"not ours")
    with owned_elsewhere(alone_with(tmp_path / "live.npy")):
        part_of(tmp_path / "live.npy").write_bytes(b"half")
        with alone_in(tmp_path):
            left = {path.name for path in tmp_path.iterdir()}
        assert left == {"download.part", part_of(tmp_path / "live.npy").name, ".live.npy.lock", ".lock"}
    assert lock_beside(tmp_path / "live.npy").name == ".live.npy.lock"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, number):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    message = r"has no locks \(.*\): choose a folder on another file system"
    with pytest.raises(ConfigError, match=message), alone_in(tmp_path):
        pytest.fail("not locked")


def test_a_folder_that_cannot_be_made_or_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot make the folder .*file"), alone_in(tmp_path / "file" / "folder"):
        pytest.fail("not locked")

    def acquire(self, timeout):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("truepair.files.locking.FileLock.acquire", acquire)
    with pytest.raises(ConfigError, match=r"cannot write to .* \(Permission denied\): make room"), alone_in(tmp_path):
        pytest.fail("not locked")
