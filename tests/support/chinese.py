"""Look for punctuation of English sentences in Chinese ones."""

from __future__ import annotations

import re

_CHINESE, _HALF = "[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]", "[,:;()]"
_BESIDE = re.compile(f"{_CHINESE} ?{_HALF}|{_HALF} ?{_CHINESE}")


def half_width(text: str) -> list[str]:
    """Return the lines of a text in which half-width punctuation stands beside Chinese.

    Inside code, names and numbers it is right: `f(a, b)`, n/(n-1).
    """
    lines = (re.sub(r"`[^`]*`|n/\(n-1\)|\]\([^)]*\)", "x", line) for line in text.splitlines())
    return [line for line in lines if _BESIDE.search(line)]
