"""What the documentation shows is run."""

import re
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from shown_blocks import blocks_of, says

from truepair.cli.main import COMMANDS
from truepair.training.recipe import load_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return [block.text for block in blocks_of(page.read_text(encoding="utf-8")) if block.language == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_and_print_what_is_shown(page, capsys, tmp_path, monkeypatch):
    """But for files and cells, which other tests run; a text block behind a Python block is what that prints."""
    monkeypatch.chdir(tmp_path)
    every = blocks_of(page.read_text(encoding="utf-8"))
    for block, following in pairwise([*every, None]):
        if block.language == "python" and not block.mark:
            exec(compile(block.text, page.name, "exec"), {})
            printed = capsys.readouterr().out
            assert following is None or following.language != "text" or says(following.text.rstrip(), printed.rstrip())


def test_the_readme_has_a_python_block_and_shell_commands():
    assert blocks(ROOT / "README.md", "python")
    assert blocks(ROOT / "README.md", "console")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_recipe_that_is_shown_exists(page):
    for block in blocks(page, "console"):
        for line in re.findall(r"^\$ truepair (.*?)(?:#.*)?$", block, re.MULTILINE):
            command, *words = line.split()
            assert command in COMMANDS
            if command in ("train", "reproduce") and not {*"-/."} & {*words[0]}:  # no option, and no path
                assert load_recipe(words[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_example_of_an_own_method_runs(capsys):
    runpy.run_path(str(ROOT / "examples" / "own_method.py"))["main"](epochs=2, names=["small loss", "plain"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": test rSum ")[0] for line in lines] == ["small loss", "plain"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example_and_does_not_load_torch(command):
    program = (
        "import sys\nfrom truepair.cli.main import main\n"
        f"try:\n    main([{command!r}, '--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "For example:" in done.stdout
    assert f"truepair {command}" in done.stdout


@pytest.mark.parametrize("script", ["tables.py", "noise_curves.py"])
def test_tables_and_curves_are_what_the_numbers_give(script):
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / script), "--check"], check=False)
    assert done.returncode == 0
