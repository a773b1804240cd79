"""Globs on native paths as regular expressions that cannot backtrack: their time is bounded.

What stands between two stars is matched at the first place where it fits, and never tried again
(`(?>…)`). For whole segments and for letters within one segment, that is no loss: if a later place
lets the rest match, the first place does so, too.
"""

from __future__ import annotations

import re
from itertools import groupby

ANY_SEGMENTS = "**"


def glob_pattern(names: list[str], *, below: str = "") -> str:
    r"""Return the pattern for a path of segments, of which `**` stands for any number.

    Args:
        names: The segments as they were written.
        below: A pattern for the path of a module that the segments lie under; "" for the root.

    >>> re.fullmatch(glob_pattern(["**", "layer?", "*bias"]), "encoder.layer1.bias") is not None
    True
    """
    runs = [(is_any, list(run)) for is_any, run in groupby(names, _is_any)]
    text, floats = f"{below}\\." if below else "", False
    for number, (is_any, run) in enumerate(runs):
        last = number == len(runs) - 1
        if is_any:
            floats = True
            text += ".*" if last else ""
            continue
        end = r"(?![^.])" if last else r"\."
        lead = r"(?:[^.]*+\.)*?" if floats else ""
        text += f"(?>{lead}{_dotted(run)}{end})"
    return text


def _is_any(name: str) -> bool:
    return name == ANY_SEGMENTS


def _dotted(names: list[str]) -> str:
    return r"\.".join(map(_segment, names))


def _segment(name: str) -> str:
    """Return the pattern for one segment; it is always followed by a dot or by the end."""
    pieces = ["".join(map(_letter, piece)) for piece in re.split(r"\*+", name)]
    if len(pieces) == 1:
        return pieces[0]
    first, *middle, last = pieces
    between = "".join(f"(?>[^.]*?{piece})" for piece in middle)
    return f"{first}{between}(?>[^.]*{last}(?![^.]))" if last else f"{first}{between}[^.]*+"


def _letter(letter: str) -> str:
    return "[^.]" if letter == "?" else re.escape(letter)
