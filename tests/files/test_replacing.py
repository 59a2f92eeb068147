import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from kills import killed_at

from truepair.files.locking import alone_with
from truepair.files.replacing import part_of, remove, replacing, replacing_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


def content_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_whole_or_not_at_all_whenever_its_writer_is_killed(tmp_path):
    path = tmp_path / "file"

    def write():
        with replacing(path) as temporary:
            temporary.write_text("new")

    path.write_text("old")
    event = 1
    while killed_at(event, write, tmp_path):
        assert path.read_text() == "old"
        assert {file.name for file in tmp_path.iterdir()} <= {"file", part_of(path).name}
        event += 1
    assert event > 2
    assert content_of(tmp_path) == {"file": "new"}


def test_after_an_error_the_earlier_file_and_folder_are_as_they_were(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    for replaced, name in ((replacing(tmp_path / "file"), ""), (replacing_folder(tmp_path / "folder"), "a")):
        with suppress(ZeroDivisionError), replaced as written:
            (written / name).write_text("half")
            raise ZeroDivisionError
    assert content_of(tmp_path) == {"file": "old", "folder/a": "old"}


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_is_at_its_place_whole_or_the_next_call_puts_it_back(tmp_path, is_there):
    out = tmp_path / "out"

    def replace_it(text):
        with alone_with(out), replacing_folder(out) as written:
            (written / "in").mkdir()
            (written / "in" / "a").write_text(text)
            (written / "b").write_text(text)

    def of(text):
        return {"out/in/a": text, "out/b": text}

    event, was_away = 1, False
    while True:
        if is_there:
            replace_it("old")
        if not killed_at(event, lambda: replace_it("new"), tmp_path):
            break
        found = content_of(tmp_path)
        at_its_place = {name: text for name, text in found.items() if name.startswith("out/")}
        assert at_its_place in ({}, of("old"), of("new"))
        was_away |= is_there and not at_its_place
        if is_there and not at_its_place:
            with pytest.raises(ZeroDivisionError), alone_with(out), replacing_folder(out):
                raise ZeroDivisionError  # even a call that fails puts it back
            assert content_of(tmp_path) == of("old")
        replace_it("newer")
        assert content_of(tmp_path) == of("newer")
        assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing else lies there"
        if not is_there:
            remove(out)
        event += 1
    assert event > 7
    assert was_away == is_there


def test_a_folder_is_removed_whole_or_its_rest_is_a_leftover(tmp_path):
    folder = tmp_path / "parts"
    event = 1
    while True:
        folder.mkdir(exist_ok=True)
        for name in "abc":
            (folder / name).write_text(name)
        if not killed_at(event, lambda: remove(folder), tmp_path):
            break
        assert not folder.exists() or len(list(folder.iterdir())) == 3
        event += 1
    assert event > 3
    assert not any(path for path in tmp_path.iterdir() if path != part_of(folder))


def test_a_file_and_its_name_are_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda number: (done.append(str(Path(f"/proc/self/fd/{number}").readlink())), fsync(number))
    )
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("moved"), replace(*names)))
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert done == [str(part_of(tmp_path / "file")), "moved", str(tmp_path)]
