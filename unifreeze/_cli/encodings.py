"""Printing in terminals of any encoding: what one lacks is written in other letters."""

from __future__ import annotations

import codecs
import sys
from typing import TextIO

_OTHERWISE = {
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


def _in_other_letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(map(_otherwise, missing)), error.end


def _otherwise(letter: str) -> str:
    return _OTHERWISE.get(letter) or letter.encode("ascii", "backslashreplace").decode()


codecs.register_error("unifreeze", _in_other_letters)


def print_in_any_encoding() -> None:
    """Let standard output and error take any letter."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="unifreeze")


def as_printed(text: str, stream: TextIO) -> str:
    """Write a text as a stream will print it, so that its width is known."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "unifreeze").decode(encoding)


def in_ascii(text: str) -> str:
    """Write a text in ASCII alone.

    >>> in_ascii("blocks.4 \u2026 blocks.7")
    'blocks.4 ... blocks.7'
    """
    return text.encode("ascii", "unifreeze").decode()
