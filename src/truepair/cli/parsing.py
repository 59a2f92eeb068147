"""From the words of a command line to a command's dataclass: one way of options, help and errors for all commands."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import io
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from truepair.config import AuditConfig, DataConfig, TrainingConfig
from truepair.config.source import SourceConfig
from truepair.errors import ConfigError

Parsed = TypeVar("Parsed")
Section = TypeVar("Section")

Flat = Annotated[Section, tyro.conf.arg(name="")]
"""A section whose options are written without its name: ``--threshold``, not ``--audit.threshold``."""

FlatThroughout = Annotated[Section, tyro.conf.OmitArgPrefixes]
"""A section whose options, and those of sections in it, are written without any prefix."""

EVERYWHERE = (
    ("--json", "Print the summary as one JSON object, and nothing else, on standard output."),
    ("--quiet", "Show no progress and no notes; errors are shown."),
    ("--debug", "Show where in the code an error came from, before the error itself."),
)
"""Options that `main` takes from every command."""

_WIDTH = 100
"""Columns of a help page."""
_LEFT = 32
"""Columns of what is typed, at most."""
_REQUIRED = dataclasses.MISSING
_WORDS: dict[Any, str] = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}
_IN_WORDS = {"N": "a whole number", "N …": "whole numbers", "NUMBER": "a number"}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command, as its help shows it."""

    name: str
    """``image-col`` or ``noise.rate``; of a positional one, its field."""
    section: str
    """What the group that it belongs to is about; empty for the command's own."""
    takes: str
    """``PATH``, ``{all,train}``; empty for a switch."""
    help: str
    """What it does."""
    default: Any
    """What holds if it is not given."""
    is_positional: bool

    @property
    def flag(self) -> str:
        """What is typed."""
        if self.is_positional:
            return self.name.upper()
        if self.takes or self.default is False:
            return f"--{self.name}"
        group, dot, name = self.name.rpartition(".")
        return f"--{group}{dot}[no-]{name}"

    @property
    def opposite(self) -> str:
        """What is typed to switch it off."""
        group, dot, name = self.name.rpartition(".")
        return f"--{group}{dot}no-{name}"


def parse(
    what: type[Parsed],
    name: str,
    arguments: Sequence[str],
    *,
    main: Sequence[str],
    start: Mapping[str, Any] | None = None,
) -> Parsed:
    """A command's options from its arguments.

    ``--help`` shows the main options on one screen, ``--help-all`` all of them.

    Args:
        what: The command's dataclass; its docstring is the description, its fields' docstrings are the help.
        name: The command's.
        arguments: The words after it.
        main: Names of the options that ``--help`` shows, in their order.
        start: Values that options override, by field; the dataclass's defaults if not given.

    Raises:
        SystemExit: With 0 after help, with 2 after an error message.
    """
    options = options_of(what, start or {})
    if "--help-all" in arguments:
        print(all_help(what, name, options))
        raise SystemExit(0)
    if {"-h", "--help"} & {*arguments}:
        print(short_help(what, name, options, main))
        raise SystemExit(0)
    _refuse_unknown(arguments, name, options)
    _refuse_missing(arguments, name, options)
    _refuse_valued_switches(arguments, name, options)
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            parsed = tyro.cli(_starting_at(what, start or {}), args=arguments, config=(tyro.conf.AvoidSubcommands,))
    except ConfigError as error:
        _refuse(_with_flag(str(error), options), name)
    except SystemExit:
        _refuse(_in_plain_words(said.getvalue(), arguments, options), name)
    _refuse_stores(parsed, name, options)
    return parsed


def together(words: Sequence[str], flag: str) -> list[str]:
    """The words with ``FLAG A … FLAG B`` as ``FLAG A B``: an option that may be given several times.

    >>> together(["--vary", "a", "--out", "b", "--vary=c"], "--vary")
    ['--out', 'b', '--vary', 'a', 'c']
    """
    varied, others, is_varied = list[str](), list[str](), False
    for word in words:
        if word.startswith("--"):
            is_varied = word == flag
            if not is_varied and not word.startswith(f"{flag}="):
                others.append(word)
            elif not is_varied:
                varied.append(word.removeprefix(f"{flag}="))
        else:
            (varied if is_varied else others).append(word)
    return [*others, *([flag, *varied] if varied else [])]


def _refuse_valued_switches(arguments: Sequence[str], name: str, options: Sequence[Option]) -> None:
    """Refuse ``--switch false``, whose second word would be taken for something else."""
    switches = _switches(options)
    for flag, word in itertools.pairwise(arguments):
        if flag in switches and word.lower() in ("true", "false"):
            instead = f"write {switches[flag].opposite}" if word.lower() == "false" else f"leave {word!r} out"
            _refuse(f"{flag} takes no value: {instead}", name)


def _switches(options: Sequence[Option]) -> dict[str, Option]:
    """The options that take no value, by what is typed."""
    return {f"--{option.name}": option for option in options if not option.takes}


def _refuse_stores(parsed: Any, name: str, options: Sequence[Option]) -> None:
    """Refuse addresses where a folder of this machine is meant; `Path` has made one slash of two."""
    flags = {option.name.replace("-", "_"): option.flag for option in options}
    for field, value in vars(parsed).items():
        if isinstance(value, Path) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:[/\\]", str(value)):
            _refuse(
                f"{flags[field]} is {value.as_posix().replace(':/', '://', 1)}, but must be on this machine: a folder "
                "appears whole or not at all, which a store cannot promise; copy it there afterwards (aws s3 cp "
                "--recursive, gcloud storage cp -r, hf upload)",
                name,
            )


def _starting_at(what: type[Parsed], start: Mapping[str, Any]) -> type[Parsed]:
    """`what` with other defaults."""
    hints = get_type_hints(what, include_extras=True)
    named = [(name, hints[name], dataclasses.field(default=value)) for name, value in start.items()]
    return dataclasses.make_dataclass(what.__name__, named, bases=(what,), frozen=True) if named else what


def flags_in(message: str) -> str:
    """A text with flags to type in place of the names that options have in configs: ``--seed``, not training.seed."""

    def flag(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')}" if found[1] in names else found[0]

    configs = (AuditConfig, DataConfig, SourceConfig, TrainingConfig)
    names = {field.name for config in configs for field in dataclasses.fields(config)}
    return re.sub(r"(?<![\w./-])(?:audit|data|training)\.(?:source\.)?([a-z]\w*)", flag, message)


def options_of(what: Any, start: Mapping[str, Any]) -> list[Option]:
    """All options of a command, those of its sections included.

    Args:
        what: The command's dataclass.
        start: Values to take as defaults, by field.
    """
    options = [*_options(what, start, "", "")]
    has_target = any(option.is_positional and option.name == "target" for option in options)
    return [option for option in options if not (has_target and option.name == "path")]  # they are the same


def _options(
    what: Any, start: Mapping[str, Any], prefix: str, section: str, *, flat_throughout: bool = False
) -> Iterator[Option]:
    hints = get_type_hints(what, include_extras=True)
    helps = _field_docstrings(what)
    for field in dataclasses.fields(what):
        if not field.init:
            continue
        hint, default, said = hints[field.name], _value(field, start), helps.get(field.name, "")
        marks = getattr(hint, "__metadata__", ())
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            inner = {one.name: getattr(default, one.name) for one in dataclasses.fields(default)}
            is_throughout = flat_throughout or tyro.conf.OmitArgPrefixes in marks
            within = prefix if is_throughout or _is_flat(hint) else f"{prefix}{_dashed(field)}."
            for option in _options(type(default), inner, within, said, flat_throughout=is_throughout):
                is_choice = get_origin(hint) in (Union, UnionType) and option.name == f"{within}name"
                yield dataclasses.replace(option, takes=_names(get_args(hint))) if is_choice else option
        else:
            is_positional = tyro.conf.Positional in marks
            yield Option(prefix + _dashed(field), section, _takes(hint), said, default, is_positional)


def _value(field: dataclasses.Field[Any], start: Mapping[str, Any]) -> Any:
    if field.name in start:
        return start[field.name]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _dashed(field: dataclasses.Field[Any]) -> str:
    return field.name.replace("_", "-")


def _is_flat(hint: Any) -> bool:
    marks = getattr(hint, "__metadata__", ())
    return tyro.conf.OmitArgPrefixes in marks or any(getattr(mark, "name", None) == "" for mark in marks)


def _takes(hint: Any) -> str:
    """What an option's value looks like, from its type; empty for a switch."""
    if get_origin(hint) is Annotated:
        return _takes(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    if get_origin(hint) in (Union, UnionType):
        return "|".join(_takes(kind) for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return f"{_takes(kinds[0])} …" if kinds[-1] is Ellipsis else " ".join(map(_takes, kinds))
    return "" if hint is bool else _WORDS.get(hint, "VALUE")


def _names(kinds: Sequence[Any]) -> str:
    """What the name can be where a section is one of several kinds, each with its own."""
    return "{" + ",".join(kind().name for kind in kinds) + "}"


def _field_docstrings(what: type) -> dict[str, str]:
    """The strings under the fields of a dataclass and of what it inherits from, by field."""
    found: dict[str, str] = {}
    for kind in reversed(what.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def short_help(what: type, name: str, options: Sequence[Option], main: Sequence[str]) -> str:
    """The help that fits a screen: usage, description and the main options, each in a sentence."""
    named = {option.name: option for option in options}
    shown = [named[one] for one in main if one in named]
    rows = [(_written(option), _in_short(option)) for option in shown]
    count = sum(not option.is_positional for option in options) + len(EVERYWHERE)
    head = [*_head(what, name, options, is_short=True), ""]
    return "\n".join([*head, *_table(rows), f"--help-all shows all {count} options"])


def all_help(what: type, name: str, options: Sequence[Option]) -> str:
    """The whole help: every option, by section."""
    lines = _head(what, name, options, is_short=False)
    for section in dict.fromkeys(option.section for option in options):
        here = [option for option in options if option.section == section]
        rows = [(_written(option), flags_in(option.help) + _by_default(option)) for option in here]
        lines += ["", *([section] if section else []), *_table(rows)]
    return "\n".join([*lines, "", "On every command:", *_table(EVERYWHERE)])


def _head(what: type, name: str, options: Sequence[Option], *, is_short: bool) -> list[str]:
    """Usage and description; in short, of the description the first paragraph and the examples."""
    needed = [option for option in options if option.is_positional or option.default is _REQUIRED]
    usage = " ".join(
        written if option.default is _REQUIRED else f"[{written}]"
        for option in sorted(needed, key=lambda option: not option.is_positional)
        for written in [_written(option)]
    )
    lines = [" ".join(f"usage: truepair {name} {usage} [options]".split())]
    for place, paragraph in enumerate(inspect.cleandoc(what.__doc__ or "").split("\n\n")):
        is_example = "\n  " in paragraph
        if place == 0 or is_example or not is_short:
            lines += ["", *(paragraph.split("\n") if is_example else textwrap.wrap(paragraph, _WIDTH))]
    return lines


def _written(option: Option) -> str:
    if option.is_positional:
        return option.flag + (" …" if option.takes.endswith("…") else "")
    return f"{option.flag} {option.takes}".rstrip()


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "."


def _in_short(option: Option) -> str:
    """As much of the help as fits a line: all of it, its first sentence, its first clause, or the start of that."""
    text, default = flags_in(option.help), _by_default(option)
    width = _WIDTH - _LEFT - len(default)
    parts = [re.split(end, text)[0].removesuffix(".") for end in ("$", "[.] ", "[.;] ")]
    return (
        next((part for part in parts if len(part) <= width), textwrap.shorten(parts[-1], width, placeholder=" …"))
        + default
    )


def _by_default(option: Option) -> str:
    value = option.default
    if value is _REQUIRED or value is None or value is False or value == ():
        return ""
    if value is True:
        return " (default: yes)"
    values = value if isinstance(value, tuple) else (value,)
    return f" (default: {' '.join(f'{one:g}' if isinstance(one, float) else str(one) for one in values)})"


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    """What is typed, and beside it what it does; below it where it is long."""
    column = min(_LEFT, max(len(left) for left, _ in rows) + 4)
    lines: list[str] = []
    for left, right in rows:
        first, *others = textwrap.wrap(right, _WIDTH - column) or [""]
        head = f"  {left}"
        if len(head) > column - 2:
            lines += [head, " " * column + first]
        else:
            lines.append(f"{head:<{column}}{first}".rstrip())
        lines += [" " * column + line for line in others]
    return lines


def _refuse_unknown(words: Sequence[str], name: str, options: Sequence[Option]) -> None:
    flags = [f"--{option.name}" for option in options if not option.is_positional]
    switches = _switches(options)
    known = {*flags, *(option.opposite for option in options if not option.takes)}
    for word in words:
        flag, equals, _ = word.partition("=")
        flag = flag.replace("_", "-")
        if flag in switches and equals:
            _refuse(f"{flag} takes no value", name)
        if flag.startswith("--") and flag not in known:
            last = flag.removeprefix("--").rpartition(".")[2]
            same = sorted(each for each in known if each.removeprefix("--").rpartition(".")[2] == last)
            close = (
                [f"--{last}"]
                if f"--{last}" in known
                else same or difflib.get_close_matches(flag, sorted(known), 1) or sorted(_ends_with(known, last))
            )
            hint = f"did you mean {' or '.join(close[:3])}?" if close else f"'truepair {name} --help-all' lists all"
            _refuse(f"there is no option {word.partition('=')[0]}; {hint}", name)


def _ends_with(flags: Iterable[str], last: str) -> Iterable[str]:
    """Flags whose last word is the one that was typed: --method.frozen-epochs for --epochs."""
    return (flag for flag in flags if flag.endswith(f"-{last}"))


def _refuse_missing(words: Sequence[str], name: str, options: Sequence[Option]) -> None:
    given = {word.partition("=")[0].replace("_", "-") for word in words}
    for option in options:
        if option.default is _REQUIRED and not option.is_positional and option.flag not in given:
            _refuse(f"{_written(option)} is missing: {_first_sentence(option.help)}", name)


def _in_plain_words(box: str, words: Sequence[str], options: Sequence[Option]) -> str:
    """The message of an error of tyro's, which is a title, a rule, the message and, after another rule, advice."""
    parts = re.split(r"^ *-{3,} *$", box, flags=re.MULTILINE)
    message = " ".join(parts[min(1, len(parts) - 1)].split())
    wrong = re.match(r"Error parsing (--[\w.-]+):", message)
    if wrong is not None:
        takes = {f"--{option.name}": option.takes for option in options}.get(wrong[1], "another value")
        places = [place for place, word in enumerate(words[:-1]) if word.replace("_", "-") == wrong[1]]
        value = repr(words[places[-1] + 1]) if places else "what it cannot be"
        return f"{wrong[1]} is {value}, but it takes {_IN_WORDS.get(takes, takes)}"
    if message.startswith("Missing from"):
        needed = [option for option in options if option.is_positional and option.default is _REQUIRED]
        return "; ".join(f"{_written(option)} is missing: {_first_sentence(option.help)}" for option in needed)
    if message.startswith("Unrecognized options: "):
        extra = message.partition(": ")[2]
        switches = _switches(options)
        for before, word in itertools.pairwise(words):
            if word == extra and before.replace("_", "-") in switches:
                return f"{before} takes no value: leave {extra!r} out"
        return f"there is no place for {extra!r}, a word without an option before it"
    return _with_flag(re.sub(r"^Error parsing [^:]+: ", "", message), options)


def _with_flag(message: str, options: Sequence[Option]) -> str:
    """A config's message, with the flag to type where it begins with the name of an option."""
    names = {option.name.replace("-", "_"): option.name for option in options if not option.is_positional}
    begins = re.match(r"([a-z][\w.]*) is ", message)
    if begins is not None and begins[1] in names:
        return f"--{names[begins[1]]}{message[len(begins[1]) :]}"
    return flags_in(message)


def _refuse(message: str, name: str) -> NoReturn:
    print(f"truepair: error: {message}\nsee 'truepair {name} --help'", file=sys.stderr)
    raise SystemExit(2)
