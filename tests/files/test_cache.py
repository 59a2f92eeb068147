"""What takes seconds to make is made once, and all the same where it cannot be kept."""

import numpy as np
import pytest

from truepair.files.cache import cache_folder
from truepair.files.npy import kept_array


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A cache of its own, and how often the array was made."""
    monkeypatch.setenv("TRUEPAIR_CACHE", str(tmp_path / "cache"))
    calls = []

    def make():
        calls.append(len(calls))
        return np.arange(6.0).reshape(2, 3)

    return make, calls


def test_an_array_is_made_once(made, tmp_path):
    make, calls = made
    for _ in range(2):
        np.testing.assert_array_equal(kept_array("one", make), np.arange(6.0).reshape(2, 3))
    assert calls == [0]
    kept_array("other", make)
    assert calls == [0, 1]
    assert sorted(path.name for path in (tmp_path / "cache" / "arrays").glob("*.npy")) == ["one.npy", "other.npy"]


@pytest.mark.parametrize("damage", [b"", b"no array", 100])
def test_a_damaged_array_is_made_anew(made, damage):
    make, calls = made
    kept_array("one", make)
    path = cache_folder() / "arrays" / "one.npy"
    path.write_bytes(path.read_bytes()[:damage] if isinstance(damage, int) else damage)
    for _ in range(2):
        np.testing.assert_array_equal(kept_array("one", make), np.arange(6.0).reshape(2, 3))
    assert calls == [0, 1]


def test_where_nothing_can_be_kept_it_is_made_each_time(made, tmp_path):
    make, calls = made
    (tmp_path / "cache").touch()
    for _ in range(2):
        np.testing.assert_array_equal(kept_array("one", make), np.arange(6.0).reshape(2, 3))
    assert calls == [0, 1]


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/truepair"),
        ("darwin", {"HOME": "/home/me"}, "/home/me/Library/Caches/truepair"),
        ("linux", {"HOME": "/home/me"}, "/home/me/.cache/truepair"),
        ("linux", {"TRUEPAIR_CACHE": "/mine"}, "/mine"),
    ],
)
def test_the_folder_is_that_of_the_system(monkeypatch, platform, variables, expected):
    for name in ("TRUEPAIR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert cache_folder().as_posix() == expected
