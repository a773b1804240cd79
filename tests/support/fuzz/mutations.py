"""Spoiled texts, bytes and plain data: a little, a lot, or in their structure."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, float("inf"), float("nan")),
    *("", "x", "\x00", "\ud800", "é" * 50, "9" * 5000, "a" * 20_000, "**." * 200, "../../x"),
    *([], {}, [[]], [None], {"": None}, {"x": {"x": {}}}, ["x"] * 1000, "1e999", "-1", "0x10"),
)
PIECES = (
    *("[", "]", "(", ")", "{", "}", "|", "&", "-", "~", "*", "**", "?", ".", ",", ":", "#", "%"),
    *(" in ", "all", "head", "blocks", "[9]", "re:", '"', "'", "\\", "\n", "\t", "\x00", "é"),
    *("&a ", "*a ", "<<: ", "!!bool ", "!!python/x ", "1e9", "9" * 40, "~" * 20, "(" * 30),
    *("\ud800", "\u2028", "\ufeff", "---\n", "...\n", "? ", "- ", "[" * 40, "a.b", "size(>"),
)


def spoil_text(draw: random.Random, text: str) -> str:
    """Cut, repeat, replace and insert pieces."""
    for _ in range(draw.choice((1, 1, 2, 4, 20))):
        at, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        way = draw.randrange(5)
        if way == 0:
            text = text[:at] + draw.choice(PIECES) + text[at:]
        elif way == 1:
            text = text[:at] + text[end:]
        elif way == 2:
            text = text[:at] + text[at:end] * draw.choice((2, 3, 50)) + text[end:]
        elif way == 3:
            text = text[:at] + draw.choice(PIECES) * draw.choice((1, 2, 500)) + text[end:]
        else:
            text = text[:at] + chr(draw.randrange(0x300)) + text[at + 1 :]
        text = text[:200_000]
    return text


def spoil_bytes(draw: random.Random, data: bytes) -> bytes:
    """Flip bits, cut, repeat, overwrite numbers."""
    raw = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 20))):
        at = draw.randrange(len(raw) + 1)
        way = draw.randrange(6)
        if way == 0 and at < len(raw):
            raw[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            del raw[at:]
        elif way == 2:
            size = draw.choice((1, 2, 4, 8))
            number = draw.choice((0, 1, 2**31, 2 ** (8 * size) - 1, draw.getrandbits(8 * size)))
            raw[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
        elif way == 3:
            raw[at:at] = raw[: draw.randrange(1, 64)]
        elif way == 4:
            del raw[at : at + draw.randrange(1, 64)]
        else:
            raw[at:at] = bytes(draw.choices(b"}](.)tRbQqhusae\x85\x86\x80\x95X\x8c", k=8))
    return bytes(raw[:1_000_000])


def spoil_header(draw: random.Random, data: bytes) -> bytes:
    """Spoil the header of a safetensors file in its structure, and the JSON in its metadata."""
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    texts = header.get("__metadata__", {})
    inner = [key for key, text in texts.items() if text[:1] in ("{", "[")]
    if inner and draw.random() < 0.8:
        key = draw.choice(inner)
        texts[key] = json.dumps(spoil_data(draw, json.loads(texts[key])))
    else:
        header = spoil_data(draw, header)
    raw = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(8, "little") + raw + rest


def _paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(data, dict):
        rows = list(data.items())
    else:
        rows = list(enumerate(data)) if isinstance(data, list) else []
    for key, value in rows:
        found += _paths(value, (*path, key))
    return found


def spoil_data(draw: random.Random, data: Any) -> Any:
    """Replace, drop, move and add parts of plain data."""
    data = copy.deepcopy(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        paths = _paths(data)
        if not paths:
            return draw.choice(ODD_VALUES)
        path = draw.choice(paths)
        inner = data
        for step in path[:-1]:
            inner = inner[step]
        way = draw.randrange(5)
        if way == 0:
            del inner[path[-1]]
        elif way == 1 and isinstance(inner, dict):
            inner[str(draw.choice(ODD_VALUES))[:50]] = inner[path[-1]]
        elif way == 2:
            other = data
            for step in draw.choice(paths):
                other = other[step]
            inner[path[-1]] = copy.deepcopy(other)
        elif way == 3 and isinstance(inner[path[-1]], list):
            inner[path[-1]] = inner[path[-1]] * draw.choice((0, 2, 3))
        else:
            inner[path[-1]] = copy.deepcopy(draw.choice(ODD_VALUES))
    return data
