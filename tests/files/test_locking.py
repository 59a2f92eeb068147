import pytest

from truepair.errors import ConfigError
from truepair.files.locking import alone_in


def test_a_folder_is_made_and_has_room_for_one_at_a_time(tmp_path):
    folder = tmp_path / "a" / "b"
    with (
        alone_in(folder),
        pytest.raises(ConfigError, match=r"another process is writing .*b: wait for it to end"),
        alone_in(folder),
    ):
        pytest.fail("two at once")
    with alone_in(folder):
        pass


def test_an_error_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), alone_in(tmp_path):
        raise ZeroDivisionError
    with alone_in(tmp_path):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def acquire(self, timeout):
        raise NotImplementedError("no flock")

    monkeypatch.setattr("truepair.files.locking.FileLock.acquire", acquire)
    message = r"has no locks \(no flock\): choose a folder on another file system"
    with pytest.raises(ConfigError, match=message), alone_in(tmp_path):
        pytest.fail("not locked")
