"""What the documentation shows is run."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from truepair.cli.main import COMMANDS
from truepair.training.recipe import load_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, capsys):
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})


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
    runpy.run_path(str(ROOT / "examples" / "own_method.py"))["main"](epochs=2)
    assert "test rSum after 2 epochs" in capsys.readouterr().out


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


def test_the_tables_are_what_the_numbers_give():
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"], check=False)
    assert done.returncode == 0
