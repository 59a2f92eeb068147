"""Check what ``python -m build`` made, and try it in an empty environment outside the checkout.

    python tools/check_dist.py dist

One wheel and one source distribution of one version, at most 8 MB each; both have every file of ``src/truepair`` and
none of the tests; no link of the description is relative; a version without ``dev`` stands in CHANGELOG.md and
CITATION.cff. The wheel is then installed with the versions of ``constraints.txt``, and says its version and its help.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LARGEST = 8_000_000
"""Bytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `python -m build` wrote to")
    folder = parser.parse_args().folder
    wheel, source = only_one(folder, "*.whl"), only_one(folder, "*.tar.gz")
    version = wheel.name.split("-")[1]
    if source.name != f"truepair-{version}.tar.gz":
        sys.exit(f"{source.name} is of another version than {wheel.name}")
    check_version(version)
    for path in (wheel, source):
        check_contents(path)
    with zipfile.ZipFile(wheel) as files:
        check_description(files.read(f"truepair-{version}.dist-info/METADATA").decode())
    try_wheel(wheel, version)
    print(f"truepair {version}: {wheel.stat().st_size:,} and {source.stat().st_size:,} bytes; installs and answers")


def only_one(folder: Path, pattern: str) -> Path:
    """The one file of a kind."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"{folder}: one {pattern} was expected, found {[path.name for path in found]}")
    return found[0]


def check_version(version: str) -> None:
    """Nothing of a version between releases; of a release, that the files for people name it."""
    if "dev" in version:
        return
    if f"\n## [{version}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        sys.exit(f"CHANGELOG.md has no section '## [{version}]': write it, then tag again")
    if not re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE):
        sys.exit(f"CITATION.cff has another version than {version}: change it, then tag again")


def check_contents(path: Path) -> None:
    """Every file of the package, none of the tests, and not too large."""
    wanted = {
        file.relative_to(ROOT / "src").as_posix()
        for file in (ROOT / "src" / "truepair").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    names = names_in(path)
    if missing := sorted(wanted - names):
        sys.exit(
            f"{path.name} lacks {missing[:5]} and {max(len(missing) - 5, 0)} more: see package-data in pyproject.toml"
        )
    if extra := sorted(name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))):
        sys.exit(f"{path.name} has {extra[:5]}: see MANIFEST.in")
    if path.stat().st_size > LARGEST:
        sys.exit(f"{path.name} has {path.stat().st_size:,} bytes, more than {LARGEST:,}")


def check_description(metadata: str) -> None:
    """The description is README.md, and its links lead somewhere from any page that shows it."""
    if "# truepair" not in metadata:
        sys.exit("the wheel has no description: see setup.py")
    if relative := re.findall(r"\]\((?!https://|#)([^)]+)\)", metadata):
        sys.exit(
            f"the description leads to {relative[0]} and {len(relative) - 1} more, not whole addresses: see setup.py"
        )


def names_in(path: Path) -> set[str]:
    """The files of a wheel, or of a source distribution, by their path from the root of the package."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return set(wheel.namelist())
    with tarfile.open(path) as source:
        inside = [name.split("/", 1)[-1] for name in source.getnames()]
    return {name.removeprefix("src/") for name in inside}


def try_wheel(wheel: Path, version: str) -> None:
    """Install it where nothing is, and ask for its version and a page of help."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        scripts = Path(folder) / "venv" / ("Scripts" if os.name == "nt" else "bin")
        constraints = ROOT / "constraints.txt"
        torch = next(
            line for line in constraints.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")
        )
        install = [str(scripts / "python"), "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        answer([*install, torch], folder)
        answer([*install, str(wheel.resolve())], folder)
        said = answer([str(scripts / "truepair"), "--version"], folder)
        if said.strip() != f"truepair {version}":
            sys.exit(f"{wheel.name}: truepair --version says {said.strip()!r}")
        answer([str(scripts / "truepair"), "demo", "--help"], folder)


def answer(command: list[str], folder: str) -> str:
    """What a command prints, run in a folder without the checkout on Python's path; exits if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
