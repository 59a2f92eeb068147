import ast
from pathlib import Path

import numpy as np
import pytest

import truepair
from truepair.random_streams import Stream


def test_the_plain_seed_is_numpys():
    drawn = Stream.AUDIT_FOLDS.generator(3).permutation(50)
    assert drawn.tolist() == np.random.default_rng(3).permutation(50).tolist()


@pytest.mark.parametrize("key", [(), (7, 1)])
def test_a_stream_is_a_spawn_key_of_the_seed(key):
    sequence = np.random.SeedSequence(3, spawn_key=(4, *key))
    expected = np.random.default_rng(sequence).integers(1 << 30, size=5)
    assert Stream.LABELLED_PAIRS.generator(3, *key).integers(1 << 30, size=5).tolist() == expected.tolist()


def test_different_streams_of_one_seed_draw_different_numbers():
    drawn = {stream.value: int(stream.generator(0).integers(1 << 60)) for stream in Stream}
    assert len(set(drawn.values())) == len(drawn) == len(set(Stream))


def test_the_value_of_a_stream_is_the_same_in_every_release_of_python():
    """Of 3.11.2, the one of Debian 12, an empty tuple is no value of a member."""
    assert all(stream.value is None or (type(stream.value) is tuple and stream.value) for stream in Stream)


def test_no_other_module_has_spawn_keys_of_its_own():
    root = Path(truepair.__file__).parent
    for path in root.rglob("*.py"):
        keywords = {node.arg for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.keyword)}
        assert "spawn_key" not in keywords or path.name == "random_streams.py", path
