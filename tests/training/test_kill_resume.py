import os
import subprocess
import sys
from pathlib import Path

import pytest

import truepair

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_resume.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("method", ["crcl", "teacher"])  # the others take long: run the script
def test_a_run_that_is_killed_ends_like_one_left_in_peace(method):
    source = str(Path(truepair.__file__).parents[1])
    process = subprocess.run(
        [sys.executable, SCRIPT, "--kills", "1", "--method", method],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "log and results equal bit for bit" in process.stdout
