"""Rows of a lookup table: `rows("word_embeddings", 30000:)`, which stands alone in a train rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from unifreeze._plan.selectors.expression import Expression, Rows, nodes
from unifreeze.errors import SelectorSyntaxError, cut

_FORM = re.compile(r"""\s*(?:"([^"\n]*)"|'([^'\n]*)')\s*,\s*(.*?)\s*""", re.DOTALL)
_SLICE = re.compile(r"(-?\d{1,18})?\s*:\s*(-?\d{1,18})?")
_FORMS = 'rows("word_embeddings", 30000:), or :100, 5:10, -8:'
ALONE = "rows(…) stands alone, as the whole selector of a train rule"
_ALONE_HINT = (
    'write a rule of its own, after the others: train: rows("word_embeddings", 30000:); '
    "the other rows of that table stay as they are"
)


def read_rows(text: str, parse: Callable[[str], Expression]) -> Rows:
    """Read `rows("…", START:STOP)`.

    Args:
        text: All of it.
        parse: Reads the selector of the table.

    Raises:
        SelectorSyntaxError: It is written in another way.
    """
    inside = text[text.index("(") + 1 : -1]
    shown = cut(text, 120)
    match = _FORM.fullmatch(inside)
    if match is None:
        raise SelectorSyntaxError(
            f"{shown} is not a selector in quotes, a comma, and a slice of rows",
            hint=f"write {_FORMS}",
        )
    bounds = _SLICE.fullmatch(match[3])
    if bounds is None:
        given = match[3]
        one = int(given) if re.fullmatch(r"-?\d{1,18}", given) else None
        meant = "-1:" if one == -1 else f"{one}:{one + 1}" if one is not None else ""
        raise SelectorSyntaxError(
            f"{cut(given, 40)!r} in {shown} is not a slice of rows, START:STOP",
            hint=f"for the row {one}: {meant}" if meant else f"write {_FORMS}",
        )
    table = parse(match[1] or match[2] or "")
    if any(isinstance(node, Rows) for node in nodes(table)):
        raise SelectorSyntaxError(f"{shown} holds rows of rows", hint=f"write {_FORMS}")
    start, stop = (int(bound) if bound else None for bound in bounds.groups())
    return Rows(table, start, stop)


def check_alone(expression: Expression) -> None:
    """Refuse rows of a table as a part of an expression.

    Raises:
        SelectorSyntaxError: They are.
    """
    if not isinstance(expression, Rows) and any(isinstance(n, Rows) for n in nodes(expression)):
        raise SelectorSyntaxError(
            f"{cut(str(expression), 120)}: {ALONE}, and is not a part of an expression",
            hint=_ALONE_HINT,
        )


def check_verb(verb: str, expressions: Iterable[Expression]) -> None:
    """Refuse rows of a table outside of a train rule.

    Raises:
        SelectorSyntaxError: They are; the message says what to write.
    """
    for expression in expressions:
        if isinstance(expression, Rows) and verb != "train":
            hint = _ALONE_HINT
            if verb == "only":
                hint = f"write two rules: freeze: all, then train: {expression}"
            elif verb == "freeze":
                hint = f"say which rows train; the others are kept: {_FORMS}"
            raise SelectorSyntaxError(f"{verb}: {expression}: {ALONE}", hint=hint)
