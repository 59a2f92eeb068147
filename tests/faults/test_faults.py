"""A fixed sample of every driver; ``benchmarks/faults.py`` does as much as it is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("datasets", reason="sources of all kinds are made with it")
pytest.importorskip("transformers", reason="needs the extra hf")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and forks as Linux has them")

DRIVER = Path(__file__).parents[2] / "benchmarks" / "faults.py"


@pytest.mark.slow
def test_nothing_breaks(tmp_path):
    """One process for all kinds, which imports everything once; a failure shows how to see each fault again."""
    words = [sys.executable, str(DRIVER), "--sample", "--out", str(tmp_path / "out")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert (tmp_path / "out" / "faults.json").exists(), ended.stderr[-4000:]
    found = json.loads((tmp_path / "out" / "faults.json").read_text())
    assert {row["kind"] for row in found["rows"]} == {"kills", "full", "memory", "pairs", "fuzz", "equal"}
    assert not found["findings"], "\n" + "\n".join(
        f"{one['command']}: {one['fault']}: {one['detail']}\n    {one['reproduction']}" for one in found["findings"]
    )
