"""Reading selector expressions: text to values, or an error that points at the place."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache, lru_cache
from importlib.resources import files
from itertools import accumulate
from math import inf
from typing import Any

from lark import Lark, Transformer, UnexpectedInput, UnexpectedToken, v_args
from lark.exceptions import VisitError

from unifreeze._plan.selectors.expression import (
    MOST_OPERANDS,
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
    too_many_operands,
)
from unifreeze._plan.selectors.hints.signs import corrected, unbalanced
from unifreeze._plan.selectors.regular_expressions import compile_expression
from unifreeze._plan.selectors.rows import check_alone, read_rows
from unifreeze._plan.selectors.vocabulary import INDEXED, NEEDS_INDEX, TOWERS, WORDS
from unifreeze.errors import SelectorSyntaxError, cut, quoted

LONGEST_CORRECTED = 500
MOST_CHARACTERS = 100_000
LONGEST_NUMBER = 30
"""Characters of a number in a selector."""
LONGEST_NAME = 1000
"""Characters of a pattern in `at:` and `type:`; brackets without end take the square of it."""


@lru_cache(4096)
def parse(text: str) -> Expression:
    """Read a selector expression.

    Raises:
        SelectorSyntaxError: With the text and a mark under the place.

    >>> str(parse("head|blocks[ -2: ]"))
    'head | blocks[-2:]'
    """
    if not text.strip():
        raise SelectorSyntaxError("a selector is empty", hint='for example "head | blocks[-2:]"')
    _check_size(text)
    try:
        expression: Expression = _Reader().transform(_grammar().parse(text))
    except UnexpectedInput as error:
        raise _syntax_error(text, error) from None
    except VisitError as error:
        if isinstance(error.orig_exc, SelectorSyntaxError):
            raise _with_correction(text, error.orig_exc) from None
        raise
    check_alone(expression)
    return expression


def _check_size(text: str) -> None:
    """Refuse a text before it is read that is too long, too deep, or not Unicode."""
    if len(text) > MOST_CHARACTERS:
        raise SelectorSyntaxError(
            f"a selector of {len(text):,} characters is too long (at most {MOST_CHARACTERS:,})",
            hint='use patterns, a regular expression (re:"…"), or several rules',
        )
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise SelectorSyntaxError(f"selector {cut(text, 120)!a} holds half of a character")
    bare = re.sub(r"\"[^\"]*\"|'[^']*'|\[[^\[\]]*\]", "", text)
    operands = 1 + len(re.findall(r"[|&~]|(?<![eE])-|(?<![\w.])in(?![\w.*?\[])", bare))
    depth = max(accumulate((letter == "(") - (letter == ")") for letter in bare), default=0)
    if operands > MOST_OPERANDS or depth > MOST_OPERANDS:
        raise too_many_operands(max(operands, depth))


@cache
def _grammar() -> Lark:
    source = files("unifreeze._plan.selectors").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(source, parser="lalr", maybe_placeholders=False)


def _syntax_error(text: str, error: UnexpectedInput) -> SelectorSyntaxError:
    # At the end of the text, lark's position is that of the last token.
    end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    at = len(text) if end else error.pos_in_stream or 0
    why = "it ends too early" if end else f"cannot go on at {cut(text[at:].split()[0], 40)!r}"
    # A long text is shown only around the place.
    begin = max(0, at - 60)
    shown = text[begin : begin + 120].replace("\n", " ")
    return SelectorSyntaxError(
        f"selector {cut(text, 120)!r} does not parse: {why}",
        context=f"{shown}\n{' ' * (at - begin)}^",
        hint=_syntax_hint(text, _correction(text)),
    )


def _with_correction(text: str, error: SelectorSyntaxError) -> SelectorSyntaxError:
    hint = f"{_correction(text)}{error.hint}"
    return SelectorSyntaxError(error.fact, context=error.context, hint=hint)


def _correction(text: str) -> str:
    """Ask for the text that was likely meant; "" where none is known."""
    meant = corrected(text, _parses) if len(text) <= LONGEST_CORRECTED else ""
    return f"did you mean {quoted(meant)}? " if meant else ""


def _parses(text: str) -> bool:
    try:
        _check_size(text)
        _Reader().transform(_grammar().parse(text))
    except (UnexpectedInput, VisitError, SelectorSyntaxError):
        return False
    return True


def _syntax_hint(text: str, correction: str) -> str:
    """Return the text that was likely meant, or the right way to write a sign."""
    if why := unbalanced(text):
        return f"{why}: {correction or 'parentheses come in pairs'}".rstrip()
    if re.search(r"\b(and|or|not)\b", text):
        return f"{correction}write & for and, | for or, ~ for not, - for but not"
    if "," in text:
        return f"{correction}join alternatives with |: a | b"
    if re.search(r"[/\\$^+]", text):
        return f'{correction}a regular expression is written re:"…", a canonical name at:"…"'
    words = re.fullmatch(r"\s*(\S*\w)\s+(\w\S*)\s*", text)
    if words and not correction and "in" not in words.groups():
        return f"either of them is {words[1]} | {words[2]}, both at once {words[1]} & {words[2]}"
    forms = 'forms: head | blocks[-2:] & ~norm, encoder.layer.0, **.bias, type:"BatchNorm2d"'
    return correction.rstrip() or forms


def _unquote(token: str) -> str:
    return token[1:-1]


@v_args(inline=True)
class _Reader(Transformer[Any, Any]):
    """Turns lark's tree into expressions."""

    def start(self, inner: Expression) -> Expression:
        return inner

    either, both, without, other_than = Either, Both, Without, OtherThan

    def within(self, inner: Expression, _in: str, place: tuple[str, bool]) -> Within:
        path, quoted = place
        # Only a path that is spelled like a word has to stay in quotes.
        return Within(inner, path, quoted and path in TOWERS)

    def place(self, token: str) -> tuple[str, bool]:
        return str(token), False

    def place_quoted(self, prefix: str, token: str) -> tuple[str, bool]:
        if not prefix.startswith("path"):
            raise SelectorSyntaxError(
                f"after 'in' stands a module, not {prefix}{token}", hint='in path:"…"'
            )
        return _unquote(token), True

    def quoted(self, prefix: str, token: str) -> Expression:
        by, pattern = prefix.rstrip(":").rstrip(), _unquote(token)
        if by == "path":
            return Path(tuple(Segment(name) for name in pattern.split(".")), quoted=True)
        if by == "re":
            compile_expression(pattern)
        elif len(pattern) > LONGEST_NAME:
            raise SelectorSyntaxError(
                f"a pattern of {len(pattern):,} characters is too long (at most {LONGEST_NAME:,})",
                hint="at: and type: take one name, or a glob that matches several",
            )
        return Quoted(by, pattern)

    def size(self, comparison: str, number: str) -> Size:
        count = float(number) if len(number) <= LONGEST_NUMBER else inf
        if count > 2**63:
            raise SelectorSyntaxError(f"size({comparison} {cut(number, 40)}) is of no parameter")
        return Size(str(comparison), count)

    def rows(self, inside: str) -> Expression:
        return read_rows(inside, parse)

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
    match = re.fullmatch(r"(-?[0-9]+)(\.[0-9]+)?\s*(%)?", text)
    if match is None or len(text) > LONGEST_NUMBER or (match[2] and not match[3]):
        raise SelectorSyntaxError(
            f"{text!r} in {piece!r} is neither a whole number nor a share in percent",
            hint="forms: [0], [-2:], [:10], [2:5], [:50%]",
        )
    return Bound(Fraction(match[1] + (match[2] or "")), percent=bool(match[3]))
