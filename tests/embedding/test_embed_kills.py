"""An embedding that is killed at any event on files goes on with the same command, and ends with the same bytes."""

import shutil
import sys

import pytest
from embedding_samples import MemorySource, sample
from kills import killed_at
from test_embed_run import files_of

from truepair.embedding import choosing
from truepair.embedding import run as embed_run
from truepair.embedding.joining import join_source
from truepair.embedding.run import embed_source

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

MEMORY = {"path": "memory"}
_EVERY_ONE = 16
"""Up to this event, by which the plan lies there, each is tried; of the others every third."""


@pytest.fixture
def config(config, tmp_path, monkeypatch):
    """Encoders are loaded once, not after each kill."""
    loaded = choosing.load_encoders(config)
    monkeypatch.setattr(embed_run, "load_encoders", lambda _: loaded)
    return config


def source():
    """Two shards, which two machines have one each."""
    return MemorySource({"a": [sample(0), sample(1)], "b": [sample(2, "a red dog", "dog")]})


def ends_alike(work, out, expected, *, before=None):
    """Kill some work at its events, go on with it each time, and look at the end; how many events there are, about."""
    event = 1
    while True:
        shutil.rmtree(out, ignore_errors=True)
        if before is not None:
            shutil.copytree(before, out)
        if not killed_at(event, work, out.parent):
            return event
        work()
        assert files_of(out) == expected, f"killed at event {event}"
        event += 1 if event < _EVERY_ONE else 3


def test_one_machine(tmp_path, config):
    embed_source(source(), MEMORY, tmp_path / "whole", config)
    out = tmp_path / "here" / "out"
    kills = ends_alike(lambda: embed_source(source(), MEMORY, out, config), out, files_of(tmp_path / "whole"))
    assert kills > 25
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_one_of_two_machines_and_the_join_of_both(tmp_path, config):
    embed_source(source(), MEMORY, tmp_path / "whole", config)
    first, second = (config.__class__(**{**vars(config), "shards": f"{number}/2"}) for number in (1, 2))
    out, parts = tmp_path / "here" / "out", tmp_path / "parts"
    embed_source(source(), MEMORY, parts, first)
    begun = shutil.copytree(parts, tmp_path / "begun")

    def finish():
        embed_source(source(), MEMORY, out, second)
        join_source(source(), MEMORY, out, config)

    assert ends_alike(finish, out, files_of(tmp_path / "whole"), before=begun) > 35
