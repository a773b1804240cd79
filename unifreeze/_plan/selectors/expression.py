"""Selector expressions as values: what was written, before it is evaluated on a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from unifreeze.errors import SelectorSyntaxError


@dataclass(frozen=True)
class Bound:
    """One end of an index: a whole number, or a share of the length in percent."""

    value: Fraction
    percent: bool

    def __str__(self) -> str:
        number = str(float(self.value)) if self.value.denominator != 1 else str(self.value)
        return number + "%" * self.percent


@dataclass(frozen=True)
class Index:
    """The index in brackets.

    Attributes:
        start: First position, None for the beginning.
        stop: First position left out, None for the end.
        single: One position, not a slice; it is in `start`.
    """

    start: Bound | None
    stop: Bound | None
    single: bool

    def __str__(self) -> str:
        start = "" if self.start is None else str(self.start)
        stop = "" if self.stop is None else str(self.stop)
        return f"[{start}]" if self.single else f"[{start}:{stop}]"


@dataclass(frozen=True)
class Word:
    """A word of the vocabulary, with or without an index."""

    name: str
    index: Index | None = None

    def __str__(self) -> str:
        return self.name + ("" if self.index is None else str(self.index))


@dataclass(frozen=True)
class Segment:
    """One piece of a native path: a name or glob, with or without an index on its children."""

    name: str
    index: Index | None = None

    def __str__(self) -> str:
        return self.name + ("" if self.index is None else str(self.index))


@dataclass(frozen=True)
class Path:
    """A native path, anchored at the root; it stands for everything under it."""

    segments: tuple[Segment, ...]
    quoted: bool = False

    @property
    def literal(self) -> str:
        """The path itself where it holds neither glob nor index, else ""."""
        text = ".".join(segment.name for segment in self.segments)
        plain = not any(segment.index for segment in self.segments)
        return text if plain and (self.quoted or not set("*?") & set(text)) else ""

    def __str__(self) -> str:
        text = ".".join(map(str, self.segments))
        return f"path:{_quote(text)}" if self.quoted else text


@dataclass(frozen=True)
class Quoted:
    """A pattern in quotes: `re` on native names, `type` on classes, `at` on canonical names."""

    by: str
    pattern: str

    def __str__(self) -> str:
        return f"{self.by}:{_quote(self.pattern)}"


@dataclass(frozen=True)
class Size:
    """Parameters by their number of values."""

    comparison: str
    count: float

    def __str__(self) -> str:
        count = int(self.count) if self.count.is_integer() else self.count
        return f"size({self.comparison} {count})"


@dataclass(frozen=True)
class Either:
    """Union."""

    left: Expression
    right: Expression

    def __str__(self) -> str:
        return f"{_wrap(self.left, 0)} | {_wrap(self.right, 1)}"


@dataclass(frozen=True)
class Both:
    """Intersection."""

    left: Expression
    right: Expression

    def __str__(self) -> str:
        return f"{_wrap(self.left, 1)} & {_wrap(self.right, 2)}"


@dataclass(frozen=True)
class Without:
    """Difference."""

    left: Expression
    right: Expression

    def __str__(self) -> str:
        return f"{_wrap(self.left, 2)} - {_wrap(self.right, 3)}"


@dataclass(frozen=True)
class OtherThan:
    """Complement."""

    inner: Expression

    def __str__(self) -> str:
        return f"~{_wrap(self.inner, 3)}"


@dataclass(frozen=True)
class Within:
    """An expression read as if one submodule or tower were the whole model.

    Attributes:
        inner: The expression.
        place: Path of the submodule, or the word of a tower.
        quoted: The place is written in quotes, so that it is a path.
    """

    inner: Expression
    place: str
    quoted: bool = False

    def __str__(self) -> str:
        plain = re.fullmatch(r"\w+(\.\w+)*", self.place) and self.place != "in"
        plain = plain and not self.quoted
        return f"{_wrap(self.inner, 4)} in {self.place if plain else f'path:{_quote(self.place)}'}"


@dataclass(frozen=True)
class Rows:
    """Some rows of the lookup table that an expression selects; it is never part of another.

    Attributes:
        inner: The expression.
        start: First row, from the end if negative; None for the first of the table.
        stop: First row left out, from the end if negative; None for the end of the table.
    """

    inner: Expression
    start: int | None
    stop: int | None

    def __str__(self) -> str:
        start, stop = ("" if bound is None else bound for bound in (self.start, self.stop))
        return f"rows({_quote(str(self.inner))}, {start}:{stop})"


Expression: TypeAlias = (
    Word | Path | Quoted | Size | Either | Both | Without | OtherThan | Within | Rows
)


def parts(expression: Expression) -> list[Expression]:
    """Return the expressions that an expression is made of."""
    sides = (getattr(expression, field, None) for field in ("left", "right", "inner"))
    return [part for part in sides if part is not None]


def nodes(expression: Expression) -> Iterator[Expression]:
    """Yield an expression and all expressions inside it."""
    yield expression
    for part in parts(expression):
        yield from nodes(part)


MOST_OPERANDS = 200
"""With more operands, functions that walk an expression would reach the recursion limit."""


def check_operands(expression: Expression) -> None:
    """Refuse an expression with more operators than an expression may have.

    Raises:
        SelectorSyntaxError: There are too many.
    """
    operands, waiting = 1, [expression]
    while waiting:
        inner = parts(waiting.pop())
        operands += bool(inner)
        waiting += inner
    if operands > MOST_OPERANDS:
        raise too_many_operands(operands)


def too_many_operands(operands: int) -> SelectorSyntaxError:
    """Build the error for an expression that is too large."""
    return SelectorSyntaxError(
        f"a selector of {operands} operands is too long (at most {MOST_OPERANDS})",
        hint='use patterns, a regular expression (re:"…"), or several rules',
    )


_TIGHTNESS = {Either: 0, Both: 1, Without: 2, OtherThan: 3, Within: 4}


def _quote(text: str) -> str:
    mark = "'" if '"' in text else '"'
    return f"{mark}{text}{mark}"


def _wrap(inner: Expression, least: int) -> str:
    """Put an expression in parentheses if it binds less tightly than its surroundings."""
    text = str(inner)
    return f"({text})" if _TIGHTNESS.get(type(inner), 9) < least else text
