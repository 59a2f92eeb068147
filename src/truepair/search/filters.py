"""Filters on columns in the words of SQL's WHERE, as expressions of PyArrow: no functions, no files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truepair.errors import ConfigError, TruepairError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)|'(?P<text>(?:[^']|'')*)'|\"(?P<quoted>[^\"]+)\"|(?P<name>[^\W\d]\w*)"
    r"|(?P<sign><=|>=|<>|!=|[=<>(),-]))"
)
_COMPARISONS = {
    "=": pc.Expression.__eq__,
    "!=": pc.Expression.__ne__,
    "<>": pc.Expression.__ne__,
    "<": pc.Expression.__lt__,
    "<=": pc.Expression.__le__,
    ">": pc.Expression.__gt__,
    ">=": pc.Expression.__ge__,
}
_WORDS = {"and", "or", "not", "in", "like", "is", "null", "true", "false"}
_DEEPEST = 50
_TAKEN = "columns compared with =, <>, <, <=, >, >=, IN (…), LIKE '…%' and IS NULL, joined by AND, OR and NOT"


def parsed_filter(text: str, columns: Sequence[str]) -> pc.Expression:
    """The expression that a filter means.

    Args:
        text: ``"width > 300 and (split = 'train' or caption like '%dog%')"``.
        columns: Names that it may use.

    Raises:
        ConfigError: If it has a syntax error, or names a column that is not there.

    Example:
        >>> table = pa.table({"width": [200, 400], "name": ["a", "b"]})
        >>> table.filter(parsed_filter("width > 300 and not name = 'a'", table.column_names)).to_pylist()
        [{'width': 400, 'name': 'b'}]
    """
    parser = _Parser(text, tuple(columns), _tokens(text))
    expression = parser.either()
    if parser.place < len(parser.tokens):
        raise parser.wrong("the end")
    return expression


def filtered(table: pa.Table, text: str) -> pa.Array:
    """Numbers of the rows that pass.

    Raises:
        ConfigError: As `parsed_filter`; or if a column is compared with a value of another type.
    """
    row = "\0row"
    numbered = table.append_column(row, pa.array(range(len(table)), pa.int64()))
    try:
        return numbered.filter(parsed_filter(text, table.column_names))[row].combine_chunks()
    except TruepairError:
        raise
    except (pa.ArrowException, ValueError, OverflowError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"where is {text!r}, which cannot be compared with the columns ({first})") from error


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    tokens, place = [], 0
    while text[place:].strip():
        found = _TOKEN.match(text, place)
        if found is None:
            raise ConfigError(
                f"where is {text!r}, of which {text[place:].strip()[:20]!r} is not read: it takes {_TAKEN}"
            )
        kind = str(found.lastgroup)
        is_word = kind == "name" and found[kind].lower() in _WORDS
        tokens.append(_Token("word" if is_word else kind, found[kind].lower() if is_word else found[kind], place))
        place = found.end()
    return tokens


@dataclass
class _Parser:
    """A parser by recursive descent; each method reads one level."""

    text: str
    columns: tuple[str, ...]
    tokens: list[_Token]
    place: int = 0
    depth: int = field(default=0)

    def wrong(self, expected: str) -> ConfigError:
        there = repr(self.tokens[self.place].text) if self.place < len(self.tokens) else "the end"
        return ConfigError(f"where is {self.text!r}: {expected} was expected, not {there}; it takes {_TAKEN}")

    def taken(self, kind: str, *texts: str) -> str | None:
        """The next token, if it is one of these."""
        if self.place >= len(self.tokens):
            return None
        token = self.tokens[self.place]
        if token.kind != kind or (texts and token.text not in texts):
            return None
        self.place += 1
        return token.text

    def needed(self, kind: str, text: str) -> None:
        if self.taken(kind, text) is None:
            raise self.wrong(repr(text))

    def either(self) -> pc.Expression:
        found = self.both()
        while self.taken("word", "or"):
            found = found | self.both()
        return found

    def both(self) -> pc.Expression:
        found = self.negated()
        while self.taken("word", "and"):
            found = found & self.negated()
        return found

    def negated(self) -> pc.Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ConfigError(f"where has more than {_DEEPEST} conditions inside each other: write it flatter")
        try:
            return ~self.negated() if self.taken("word", "not") else self.condition()
        finally:
            self.depth -= 1

    def condition(self) -> pc.Expression:
        if self.taken("sign", "("):
            found = self.either()
            self.needed("sign", ")")
            return found
        column = self.column()
        if self.taken("word", "is"):
            is_not = self.taken("word", "not") is not None
            self.needed("word", "null")
            return column.is_valid() if is_not else column.is_null()
        is_not = self.taken("word", "not") is not None
        found = self.listed_or_like(column, is_not)
        return ~found if is_not else found

    def listed_or_like(self, column: pc.Expression, is_not: bool) -> pc.Expression:
        if self.taken("word", "in"):
            self.needed("sign", "(")
            values = [self.value()]
            while self.taken("sign", ","):
                values.append(self.value())
            self.needed("sign", ")")
            return pc.if_else(column.is_valid(), column.isin(values), pa.scalar(None, pa.bool_()))  # as in SQL
        if self.taken("word", "like"):
            pattern = self.value()
            if not isinstance(pattern, str):
                raise self.wrong("a text after LIKE")
            return pc.match_like(column, pattern)
        sign = None if is_not else self.taken("sign", *_COMPARISONS)
        if sign is None:
            raise self.wrong("a comparison")
        compared: pc.Expression = _COMPARISONS[sign](column, pc.scalar(self.value()))
        return compared

    def column(self) -> pc.Expression:
        name = self.taken("name") or self.taken("quoted")
        if name is None:
            raise self.wrong("a column")
        if name not in self.columns:
            raise ConfigError(
                f"where is {self.text!r}, but there is no column {name!r}; there are {', '.join(self.columns)}"
            )
        return pc.field(name)

    def value(self) -> Any:
        minus = self.taken("sign", "-")
        number = self.taken("number")
        if number is not None:
            found = float(number) if "." in number else int(number)
            return -found if minus else found
        text = self.taken("text")
        if text is not None and not minus:
            return text.replace("''", "'")
        word = None if minus else self.taken("word", "true", "false")
        if word is None:
            raise self.wrong("a number, a 'text', TRUE or FALSE")
        return word == "true"
