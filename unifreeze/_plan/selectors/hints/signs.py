"""Correcting a selector that does not parse: it has the signs of some other language."""

from __future__ import annotations

import re
from collections.abc import Callable
from unicodedata import normalize

from unifreeze._plan.selectors.vocabulary import INDEXED
from unifreeze._structure import KINDS

Rewrite = Callable[[str], str]
_STEP = re.compile(r"\[[^\]]*:[^\]]*:[^\]]*\]")
_COUNTED = "|".join(sorted(INDEXED))
_QUOTES = r"""("[^"]*"|'[^']*')"""
_SIGNS = str.maketrans(
    "\u201c\u201d\u201e\u2018\u2019\u3001\u3002\u3010\u3011\u2013\u2014\u2212", '"""\'\',.[]---'
)
"""Quotes, dashes, Chinese commas, stops and brackets: NFKC does not replace these."""
_FEW = (
    r"(?i)\b(?:the\s+)?(first|last)\s+(?:(\d+%?)\s+(?:of\s+)?(?:the\s+)?(?=\w+)|(?=block|stage))"
    r"(blocks?|layers?|stages?|params|parameters|children|encoder\b|decoder\b)(?:\s+layers?)?\b"
)


def corrected(text: str, parses: Callable[[str], bool]) -> str:
    """Return a text that parses and means what was written; "" where none is known.

    Args:
        text: A text that does not parse.
        parses: Returns whether a text parses.
    """
    if _STEP.search(text):
        return ""  # plans have no slices with a step, such as every second block
    # One correction is tried first: all of them together may change more than the mistake.
    for rewrite in _REWRITES:
        rewritten = rewrite(text)
        if rewritten != text and parses(rewritten):
            return rewritten
    rewritten = text
    for rewrite in _REWRITES:
        rewritten = rewrite(rewritten)
    return rewritten if rewritten != text and parses(rewritten) else ""


def plain(text: str) -> str:
    r"""Write full-width letters and signs, as from a Chinese keyboard, as plain characters.

    >>> plain("\uff46\uff43\uff5chead")
    'fc|head'
    """
    return normalize("NFKC", text.translate(_SIGNS))


def unbalanced(text: str) -> str:
    """Say which parenthesis of a text has no partner; "" if every one has."""
    depth = 0
    for letter in re.sub(_QUOTES, "", text):
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return "a ) closes nothing"
    return "a ( is not closed" if depth else ""


def _replaced(pattern: str, by: str | Callable[[re.Match[str]], str]) -> Rewrite:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(by, text).strip()


def _outside_quotes(rewrite: Rewrite) -> Rewrite:
    """Return a rewrite that leaves everything in quotes as it is."""

    def rewritten(text: str) -> str:
        pieces = re.split(_QUOTES, text)
        return "".join(p if n % 2 else _kept_spaces(p, rewrite) for n, p in enumerate(pieces))

    return rewritten


def _kept_spaces(piece: str, rewrite: Rewrite) -> str:
    inner = piece.strip()
    return piece.replace(inner, rewrite(inner)) if inner else piece


def _positions(match: re.Match[str]) -> str:
    """Write positions in a list as alternatives: blocks[0, 2] is blocks[0] | blocks[2]."""
    parts = (part.strip() for part in match[2].split(","))
    return " | ".join(f"{match[1]}[{part}]" for part in parts if part)


def _plain_signs(text: str) -> str:
    rewritten = plain(text)
    return re.sub(r"\s*([|&])\s*", r" \1 ", rewritten) if rewritten != text else text


def _digits(match: re.Match[str]) -> str:
    """Write a class of digits, as in a regular expression, as alternatives."""
    before, digits, after = match[1], match[2], match[3]
    if list(digits) != sorted(set(digits)):
        return f"{before}[{digits}]{after}"
    return " | ".join(f"{before}.{digit}{after}" for digit in digits)


def _counted(match: re.Match[str]) -> str:
    """Write "the first 3 blocks" as a slice, and "the last block" as a position."""
    end, number, word = match[1].lower(), match[2], match[3].lower()
    word = {"parameters": "params"}.get(word, word if word in INDEXED else f"{word}s")
    if number is None:
        return f"{word}[{0 if end == 'first' else -1}]"
    return f"{word}[:{number}]" if end == "first" else f"{word}[-{number}:]"


def _balanced(text: str) -> str:
    """Close open parentheses, and remove those that close nothing."""
    if not unbalanced(text):
        return text
    pieces, depth = re.split(_QUOTES, text), 0
    for n in range(0, len(pieces), 2):
        kept = ""
        for letter in pieces[n]:
            depth += (letter == "(") - (letter == ")")
            kept += letter if depth >= 0 else ""
            depth = max(depth, 0)
        pieces[n] = kept
    closed = "".join(pieces).strip() + ")" * depth
    bare = closed[1:-1]
    return bare if closed[:1] == "(" and not {*"()"} & {*bare} else closed


def _range(match: re.Match[str]) -> str:
    """Write a range that includes its last position as a slice: [3-5] is [3:6]."""
    return f"[{match[1]}:{int(match[2]) + 1}]"


def _share(match: re.Match[str]) -> str:
    """Write a share as a percentage: the first half is [:50%]."""
    return f"[:{float(match[1]) * 100:g}%]"


def _slashes(text: str) -> str:
    """Write a path with slashes as a canonical name if it is one, or as a native path."""
    pieces = [re.split(r"[.\[]", piece)[0] for piece in text.split("/")]
    if len(pieces) < 2 or not all(pieces):
        return text
    return f'at:"{text}"' if pieces[1] in KINDS else text.replace("/", ".")


def _regular(text: str) -> str:
    """Write a text with signs of a regular expression as one that matches whole names."""
    if not re.search(r"[\^$+\\]", text) or {*"\"'"} & {*text}:
        return text
    begins, ends = text.startswith("^"), text.endswith("$")
    inner = text.removeprefix("^").removesuffix("$")
    front = "" if begins or inner.startswith(".*") else r"(.*\.)?"
    back = "" if ends or inner.endswith(".*") else r"(\..*)?" if not begins else ".*"
    try:
        re.compile(inner)
    except (re.error, OverflowError, RecursionError):
        return text
    return f're:"{front}{inner}{back}"'


def _count(match: re.Match[str]) -> str:
    factor = {"k": "e3", "m": "e6", "b": "e9", "g": "e9"}
    number = match[2].replace("_", "")
    number = number[:-1] + factor[number[-1].lower()] if number[-1].isalpha() else number
    return f"size({match[1]} {number})"


def _alternatives(match: re.Match[str]) -> str:
    before, after = match[1], match[3]
    return " | ".join(f"{before}{part.strip()}{after}" for part in re.split("[,|]", match[2]))


_REWRITES: tuple[Rewrite, ...] = (
    _plain_signs,
    _replaced(r"^\s*(?:(?:freeze|train|only)\s*:|(?:un)?freeze\s|train\s|only\s)\s*", ""),
    _replaced(r"""^(["'])([^"']*)\1$""", r"\2"),
    _replaced(r"""\[["'](\w+)["']\]""", r".\1"),
    _replaced(r"""^(.*?(?:re|type|at|path)\s*:\s*)(["'])([^"']*)$""", r"\1\2\3\2"),
    _replaced(r"""\b(re|type|at|path)\s*\(\s*(["']?)([^"'()]+)\2\s*(?:\)|$)""", r'\1:"\3"'),
    _replaced(r"""\b(re|type|at|path)\s*==?\s*(["']?)([^\s"'|&()]+)\2""", r'\1:"\3"'),
    _outside_quotes(_replaced(r"\b(re|type|at|path)\s*:\s*([^\s\"'|&()]+)", r'\1:"\2"')),
    _outside_quotes(_replaced(r"([\w.*]*)\{([^{}]*)\}([\w.*]*)", _alternatives)),
    _outside_quotes(_replaced(r"([\w.*]+)\.?\[((?:\s*-?\d+\s*,)+\s*-?\d+\s*,?)\]", _positions)),
    _outside_quotes(_replaced(r"\.?\[\s*(\d+)\s*(?:-|\.\.+)\s*(\d+)\s*\]", _range)),
    _outside_quotes(_replaced(r"\[\s*:?\s*0?(\.\d+)\s*\]", _share)),
    _outside_quotes(_replaced(r"([\w.*]+)\.\[(\d{2,})\]([\w.*]*)", _digits)),
    _outside_quotes(_replaced(r"\.\[", "[")),
    _outside_quotes(_replaced(_FEW, _counted)),
    _outside_quotes(_replaced(r"\[\s*first\s*\]", "[0]")),
    _outside_quotes(_replaced(r"\[\s*last\s*\]", "[-1]")),
    _outside_quotes(
        _replaced(r"\bsize\s*\(?\s*([<>]=?|==)\s*(\d[\d_.]*(?:e\d+|[kKmMbBgG])?)\s*\)?", _count)
    ),
    _outside_quotes(_replaced(rf"\b({_COUNTED})\s*\(\s*(-?\d*%?(?::-?\d*%?)?)\s*\)", r"\1[\2]")),
    _outside_quotes(_replaced(rf"\b({_COUNTED})\s*[:#]\s*(-?\d+)\b", r"\1[\2]")),
    _outside_quotes(_replaced(r"(\w)\s+\[", r"\1[")),
    _outside_quotes(_replaced(r"(\[[^\]]*)$", r"\1]")),
    _outside_quotes(_replaced(r"^[\s,;]+|[\s,;]+$", "")),
    _outside_quotes(_replaced(r"\s*(?:&&|\band\b)\s*", " & ")),
    _outside_quotes(_replaced(r"\s*(?:\|\||\bor\b|[,;+](?![^\[]*\])|\bplus\b)\s*", " | ")),
    _outside_quotes(_replaced(r"\s+(?:except|without|but not|but|minus)\s+", " - ")),
    _outside_quotes(_replaced(r"(?:\bnot\s+|!\s*)", "~")),
    _outside_quotes(_replaced(r"^[./]+|[./]+$", "")),
    _balanced,
    _slashes,
    _regular,
)
"""What is corrected, in this order."""
