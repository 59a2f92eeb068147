"""What importing truepair asks for: nothing that only Unix has, and nothing slow before it is used."""

import subprocess
import sys

WALK = """
import pkgutil, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None  # importing it raises ImportError, as on Windows
import truepair
names = [module.name for module in pkgutil.walk_packages(truepair.__path__, "truepair.")]
for name in names:
    __import__(name)
print(len(names))
from truepair.training.device import peak_memory_mb
assert peak_memory_mb() is None
"""

LIGHT = """
import sys
import truepair.training.run, truepair.training.folder, truepair.methods
for name in ("lightning_fabric", "matplotlib", "transformers"):
    assert name not in sys.modules, name
"""


def outcome(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_imported_where_unix_only_modules_are_missing():
    assert int(outcome(WALK)) > 150


def test_training_loads_fabric_when_it_makes_one_and_not_before():
    outcome(LIGHT)
