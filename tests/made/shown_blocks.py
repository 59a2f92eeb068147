"""Code blocks of Markdown pages: what is typed, and what it is said to print."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"(?:<!-- (?P<mark>[^\n]*?) -->\n+)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S)
_INDENTED = re.compile(r"^ {4}(truepair .*)$", re.M)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_PROGRESS = re.compile(r"^[\w ]+: [\d,]+ of [\d,]+ ")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    """``console``, ``python`` …"""
    text: str
    """What it holds."""
    mark: str
    """The comment on the line before it: ``run``, ``file: NAME``, ``cell`` (of a notebook); empty without one."""


@dataclass(frozen=True)
class Command:
    """A line behind a prompt, and what stands below it."""

    line: str
    """What is typed, without the prompt."""
    printed: list[str]
    """The lines that it is said to print."""

    @property
    def words(self) -> list[str]:
        """The line as a shell takes it apart, without its comment."""
        return shlex.split(self.line, comments=True)


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    return [Block(found["language"], found["text"], found["mark"] or "") for found in _BLOCK.finditer(page)]


def commands_of(block: str) -> list[Command]:
    r"""The commands of a console block.

    >>> commands_of("$ truepair audit a.csv \\\n    --out b  # all\n2 pairs\n$ truepair fix b\n")[0]
    Command(line='truepair audit a.csv --out b  # all', printed=['2 pairs'])
    """
    commands: list[Command] = []
    for line in re.sub(r" *\\\n *", " ", block).splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:], []))
        elif commands:
            commands[-1].printed.append(line)
    return commands


def shown_lines(page: str) -> Iterator[str]:
    """Every ``truepair …`` line of a page, in console blocks and in indented ones."""
    for block in blocks_of(page):
        if block.language == "console":
            yield from (command.line for command in commands_of(block.text) if command.line.startswith("truepair "))
    yield from _INDENTED.findall(page)


def says(shown: str, printed: str) -> bool:
    """Whether printed text is the one that is shown: any number for a number, anything for …

    >>> says("about 39 (19.6%) of …, 2 kept", "about 1,041 (3%) of /tmp/a, 3 kept"), says("2 kept", "2 dropped")
    (True, False)
    """
    parts = [".*".join(re.escape(text) for text in part.split("…")) for part in _NUMBER.split(shown)]
    return re.fullmatch(_NUMBER.pattern.join(parts), printed, re.DOTALL) is not None


def printed_by(command: Command, folder: Path) -> list[str]:
    """The lines that a command prints when it is run in a folder, without those that tell how far it is.

    A command that serves a page is interrupted when it has printed as many lines as are shown.

    Raises:
        AssertionError: If it fails.
    """
    program, *words = command.words
    programs = {"truepair": ["-m", "truepair"], "python": []}
    running = subprocess.Popen(
        [sys.executable, *programs[program], *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert running.stdout is not None
    with running:
        if words[0] == "review":
            lines = [running.stdout.readline().rstrip("\n") for _ in command.printed]
            running.kill()
            return lines
        lines = running.stdout.read().splitlines()
    assert running.returncode == 0, "\n".join([command.line, *lines])
    return [line for line in lines if not _PROGRESS.match(line)]
