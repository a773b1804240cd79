"""Writes any value for a message: short, in one line, and without reading its contents."""

from __future__ import annotations

import reprlib


def cut(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters, with its middle left out.

    >>> cut("blocks[0] | blocks[1] | blocks[2]", 21)
    'blocks[0] … blocks[2]'
    """
    if len(text) <= limit:
        return text
    front = (limit - 1) // 2
    return f"{text[:front]}…{text[len(text) - (limit - 1 - front) :]}"


def brief(value: object) -> str:
    """Write any value for a message: short, in one line, and without reading its contents.

    >>> brief(["head", "norm"]), brief("head"), brief(object()), brief(dict)
    ("['head', 'norm']", "'head'", 'an object', 'the class dict')
    """
    return cut(" ".join(_Brief().repr(value).split()), 80)


class _Brief(reprlib.Repr):
    """Writes plain values as Python does, and only the type of others: a model prints pages."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlevel, self.fillvalue = 2, "…"

    def repr1(self, x: object, level: int) -> str:
        """Write one value; subclasses of plain types are written as these are."""
        if x is None or isinstance(x, bool | float | complex):
            return repr(x)
        if isinstance(x, type):
            return f"the class {x.__name__}"
        for kind in (int, str, list, tuple, set, frozenset, dict):
            if isinstance(x, kind):
                written: str = getattr(self, f"repr_{kind.__name__}")(x, level)
                return written
        return _kind(x)


_KINDS = {"ndarray": "array", "method": "function", "builtin_function_or_method": "function"}


def _kind(value: object) -> str:
    name = _KINDS.get(type(value).__name__, type(value).__name__)
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
