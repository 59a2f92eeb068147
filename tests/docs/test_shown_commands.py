"""Commands that the pages show are run, and their output compared; where they cannot run, options are checked."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from shown_blocks import blocks_of, commands_of, printed_by, says, shown_lines

from truepair.cli import parsing
from truepair.cli.main import COMMANDS
from truepair.cli.output import Output

ROOT = Path(__file__).parents[2]
EVERYWHERE = [flag for flag, _ in parsing.EVERYWHERE]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [page for page in PAGES if any(block.mark == "run" for block in blocks_of(page.read_text(encoding="utf-8")))]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def read(page):
    return page.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_what_a_tutorial_shows_is_what_happens(page, tmp_path):
    for block in blocks_of(read(page)):
        if block.mark.startswith("file: "):
            (tmp_path / block.mark.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
        elif block.mark == "run":
            for command in commands_of(block.text):
                printed = printed_by(command, tmp_path)
                assert len(printed) == len(command.printed), (command.line, printed)
                for shown, line in zip(command.printed, printed, strict=True):
                    assert says(shown, line), (command.line, shown, line)


def test_there_are_tutorials():
    assert len(RUN) >= 2


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_printed_elsewhere_is_printed_in_a_tutorial(page):
    """Output outside of the tutorials, such as the README's, is copied from one of them, which is run."""
    run = {
        (" ".join(command.words), tuple(command.printed))
        for tutorial in RUN
        for block in blocks_of(read(tutorial))
        for command in commands_of(block.text)
    }
    for block in blocks_of(read(page)):
        if block.language == "console":
            for command in commands_of(block.text):
                assert not command.printed or (" ".join(command.words), tuple(command.printed)) in run, command.line


class OptionsTakenError(Exception):
    """The options of a command were taken."""


def options_are_taken(line, monkeypatch, folder):
    """Run a command up to the point at which its options were read."""
    command, *words = [word for word in shlex.split(line, comments=True)[1:] if word not in ("…", *EVERYWHERE)]
    assert command in COMMANDS, line
    module = importlib.import_module(f"truepair.cli.{command}")
    parse = module.parse

    def stop(*given, **options):
        parse(*given, **options)
        raise OptionsTakenError

    monkeypatch.setattr(module, "parse", stop)
    monkeypatch.chdir(folder)
    with pytest.raises(OptionsTakenError):
        module.command(words, Output())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_has_options_that_exist(page, monkeypatch, tmp_path):
    for line in shown_lines(read(page)):
        with monkeypatch.context() as patch:
            options_are_taken(re.sub(r"\$\w+", "1", line), patch, tmp_path)


def test_an_option_that_does_not_exist_is_noticed(monkeypatch, tmp_path):
    with pytest.raises(SystemExit):
        options_are_taken("truepair audit a.csv --out b --treshold 0.5", monkeypatch, tmp_path)
