"""Reading selector expressions: text to values, or an error that points at the place."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any

from lark import Lark, Transformer, UnexpectedInput, UnexpectedToken, v_args
from lark.exceptions import VisitError

from unifreeze.errors import SelectorSyntaxError
from unifreeze.select.expression import (
    Both,
    Bound,
    Either,
    Expression,
    Index,
    OtherThan,
    Path,
    Quoted,
    Segment,
    Size,
    Within,
    Without,
    Word,
)
from unifreeze.select.vocabulary import INDEXED, NEEDS_INDEX, WORDS

MOST_OPERANDS = 200
"""Beyond that Python runs out of depth for what works on expressions."""


@cache
def parse(text: str) -> Expression:
    """Read a selector expression.

    Raises:
        SelectorSyntaxError: With the text and a mark under the place.

    >>> str(parse("head|blocks[ -2: ]"))
    'head | blocks[-2:]'
    """
    if not text.strip():
        raise SelectorSyntaxError("a selector is empty", hint='for example "head | blocks[-2:]"')
    operands = len(re.findall(r"[|&~]|\s-\s", re.sub(r'"[^"]*"', "", text))) + 1
    if operands > MOST_OPERANDS:
        raise SelectorSyntaxError(
            f"a selector of {operands} operands is too long (at most {MOST_OPERANDS})",
            hint='use patterns, a regular expression (re:"…"), or several rules',
        )
    try:
        tree = _grammar().parse(text)
        found: Expression = _Reader().transform(tree)
    except UnexpectedInput as error:
        raise _syntax_error(text, error) from None
    except VisitError as error:
        if isinstance(error.orig_exc, SelectorSyntaxError):
            raise error.orig_exc from None
        raise
    return found


@cache
def _grammar() -> Lark:
    source = files("unifreeze.select").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(source, parser="lalr", maybe_placeholders=False)


def _syntax_error(text: str, error: UnexpectedInput) -> SelectorSyntaxError:
    # At the end of the text, lark's position is that of the last token.
    end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    at = len(text) if end else error.pos_in_stream or 0
    found = "it ends too early" if end else f"cannot go on at {text[at:].split()[0]!r}"
    return SelectorSyntaxError(
        f"selector {text!r} does not parse: {found}",
        context=f"{text}\n{' ' * at}^",
        hint=_syntax_hint(text),
    )


def _syntax_hint(text: str) -> str:
    if re.search(r"\b(and|or|not)\b", text):
        return "write & for and, | for or, ~ for not, - for but not"
    if "," in text:
        return "join alternatives with |: a | b"
    if re.search(r"[/\\{}$^+]", text):
        return 'a regular expression is written re:"…", a canonical name at:"…"'
    return 'forms: head | blocks[-2:] & ~norm, encoder.layer.0, **.bias, type:"BatchNorm2d"'


def _unquote(token: str) -> str:
    return token[1:-1]


@v_args(inline=True)
class _Reader(Transformer[Any, Any]):
    """Turns lark's tree into expressions."""

    def start(self, inner: Expression) -> Expression:
        return inner

    either, both, without, other_than = Either, Both, Without, OtherThan

    def within(self, inner: Expression, _in: str, place: str) -> Within:
        return Within(inner, place)

    def place(self, token: str) -> str:
        return str(token)

    def place_quoted(self, prefix: str, token: str) -> str:
        if not prefix.startswith("path"):
            raise SelectorSyntaxError(
                f"after 'in' stands a module, not {prefix}{token}", hint='in path:"…"'
            )
        return _unquote(token)

    def quoted(self, prefix: str, token: str) -> Expression:
        by, pattern = prefix.rstrip(": \t"), _unquote(token)
        if by == "path":
            return Path(tuple(Segment(name) for name in pattern.split(".")), quoted=True)
        if by == "re":
            try:
                re.compile(pattern)
            except re.error as error:
                raise SelectorSyntaxError(
                    f"regular expression {pattern!r} does not compile: {error}"
                ) from None
        return Quoted(by, pattern)

    def size(self, comparison: str, number: str) -> Size:
        return Size(str(comparison), float(number))

    def rows(self, _inside: str) -> Expression:
        raise SelectorSyntaxError(
            "rows(…) is reserved for freezing part of a tensor, which is not supported yet",
            hint="freeze or train the whole parameter",
        )

    def term(self, token: str) -> Expression:
        segments = tuple(_segment(piece) for piece in _split(str(token)))
        first = segments[0]
        if len(segments) > 1 or first.name not in WORDS:
            return Path(segments)
        if first.index is not None and first.name not in INDEXED:
            raise SelectorSyntaxError(
                f"{first.name!r} takes no index",
                context=f"words with an index: {', '.join(sorted(INDEXED))}",
                hint=f'for a module called {first.name}: path:"{first.name}"',
            )
        if first.index is None and first.name in NEEDS_INDEX:
            raise SelectorSyntaxError(
                f"{first.name!r} needs an index", hint=f"{first.name}[0] or {first.name}[:10]"
            )
        return Word(first.name, first.index)


def _split(text: str) -> list[str]:
    """Split a path at its dots, leaving those in brackets alone."""
    return re.findall(r"[\w*?]+(?:\[[^\]]*\])?", text)


def _segment(piece: str) -> Segment:
    name, bracket, inside = piece.partition("[")
    return Segment(name, _index(inside.removesuffix("]"), piece) if bracket else None)


def _index(inside: str, piece: str) -> Index:
    pieces = [part.strip() for part in inside.split(":")]
    if len(pieces) > 2 or pieces == [""]:
        raise SelectorSyntaxError(
            f"index in {piece!r} is neither a position nor a slice",
            hint="forms: [0], [-2:], [:10], [2:5], [:50%]",
        )
    bounds = [_bound(part, piece) for part in pieces]
    if len(bounds) == 1:
        return Index(bounds[0], None, single=True)
    return Index(bounds[0], bounds[1], single=False)


def _bound(text: str, piece: str) -> Bound | None:
    if not text:
        return None
    match = re.fullmatch(r"(-?\d+)(\.\d+)?\s*(%)?", text)
    if match is None or (match[2] and not match[3]):
        raise SelectorSyntaxError(
            f"{text!r} in {piece!r} is neither a whole number nor a share in percent",
            hint="forms: [0], [-2:], [:10], [2:5], [:50%]",
        )
    return Bound(Fraction(match[1] + (match[2] or "")), percent=bool(match[3]))
