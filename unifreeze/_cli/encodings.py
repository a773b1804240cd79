"""Print in terminals of any encoding: missing letters are replaced by others."""

from __future__ import annotations

import codecs
import sys
from typing import TextIO

_REPLACEMENTS = {
    **dict.fromkeys("\u2500\u2501", "-"),
    **dict.fromkeys("\u2502\u2503", "|"),
    **dict.fromkeys("\u251c\u2514\u250c\u2510\u2518\u2524\u252c\u2534\u253c", "+"),
    **dict.fromkeys("\u256d\u256e\u2570\u256f", "+"),
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **dict.fromkeys("\u2010\u2011\u2013\u2014", "-"),
    "\u00d7": "x",
    "\u2026": "...",
    "\u2192": "->",
    "\u00a0": " ",
}
"""Lines, dashes, quotation marks and dots, in ASCII."""


def _replace_missing(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(map(_replacement, missing)), error.end


def _replacement(letter: str) -> str:
    return _REPLACEMENTS.get(letter) or letter.encode("ascii", "backslashreplace").decode()


codecs.register_error("unifreeze", _replace_missing)


def print_in_any_encoding() -> None:
    """Let standard output and standard error accept any letter."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="unifreeze")


def as_printed(text: str, stream: TextIO) -> str:
    """Return a text as a stream will print it, so that its width is known."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "unifreeze").decode(encoding)


def in_ascii(text: str) -> str:
    """Return a text in ASCII alone.

    >>> in_ascii("blocks.4 \u2026 blocks.7")
    'blocks.4 ... blocks.7'
    """
    return text.encode("ascii", "unifreeze").decode()
