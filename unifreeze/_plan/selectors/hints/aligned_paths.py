"""Aligning a written path with the paths of a model, to find the path that was probably meant.

The many paths of a model have few shapes: `encoder.layer.3.query` and `encoder.layer.4.query` both
have the shape `encoder.layer.#.query`. A written path is aligned with each shape, segment by
segment. Segments may be misspelt, missing or superfluous, each at a cost. Indices and numbers stay
as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from functools import cache
from math import inf
from typing import NamedTuple

from unifreeze._plan.selectors.expression import Path
from unifreeze._plan.selectors.hints.synonyms import meant_by
from unifreeze._plan.selectors.vocabulary import WORDS
from unifreeze._structure import ModelSpec

NUMBER = "#"
"""Stands for any number in a shape."""
WRAPPERS = frozenset({"module", "model", "base_model", "net", "network", "_orig_mod", "self"})
"""What wrappers and programs put before a path."""
_LONGEST = 300


class Aligned(NamedTuple):
    """A path of the model that a written path may have meant.

    Attributes:
        cost: How far apart the two are.
        lead: What stands before the written part; it holds `#` if several paths are possible.
        tail: The written part, corrected.
    """

    cost: float
    lead: tuple[str, ...]
    tail: str

    @property
    def text(self) -> str:
        """The path as a selector."""
        if NUMBER in self.lead:
            return f"**.{self.tail.removeprefix('*.')}"
        return ".".join([*self.lead, self.tail])


def alignments(path: Path, spec: ModelSpec, *, modules: bool = False) -> list[Aligned]:
    """Return what a path may have meant, the most likely path first.

    Args:
        path: A path that matches nothing in the model.
        spec: The model.
        modules: Look only at modules.
    """
    if is_long(str(path)):
        return []
    tree = spec.tree
    names = tree.paths[1:] if modules else [*tree.paths[1:], *tree.names]
    written, shapes = list(_written(path)), _shapes(names)
    known = frozenset(WORDS).union(*shapes)
    aligned = [row for shape in shapes if (row := _align(written, shape, known)) is not None]
    # A longer path may hold more mistakes.
    aligned = [row for row in aligned if row.cost <= 0.45 + 0.15 * len(written)]
    best = min((row.cost for row in aligned), default=0.0)
    near = sorted((row for row in aligned if row.cost <= best + 0.1), key=lambda row: row.cost)
    return list(_merged(near))


def is_long(text: str) -> bool:
    """Return whether a text is too long to be a misspelt name: comparing it would take long."""
    return len(text) > _LONGEST


def _merged(rows: Iterable[Aligned]) -> Iterator[Aligned]:
    """Merge paths that end alike in several places into one that begins with `**.`."""
    by_tail: dict[str, list[Aligned]] = {}
    for row in rows:
        by_tail.setdefault(row.tail, []).append(row)
    for tail, several in by_tail.items():
        places = {row.lead for row in several}
        yield several[0] if len(places) == 1 else Aligned(several[0].cost, (NUMBER,), tail)


def _shapes(names: Iterable[str]) -> list[tuple[str, ...]]:
    shaped = (re.sub(r"(?<![^.])\d+(?![^.])", NUMBER, name) for name in names)
    return [tuple(shape.split(".")) for shape in dict.fromkeys(shaped)]


def _written(path: Path) -> Iterator[str]:
    """Yield a path's segments, with each index as another segment."""
    for segment in path.segments:
        yield segment.name
        if segment.index is not None:
            yield str(segment.index)


def _is_position(token: str) -> bool:
    return token.isdigit() or token.startswith("[")


def _align(written: list[str], shape: tuple[str, ...], known: frozenset[str]) -> Aligned | None:
    """Align a written path with one shape; None where they have too little in common.

    `best(i, j)` is the cheapest way to align what is written from segment i with the shape from
    segment j, as in an edit distance. A segment that the model knows is never left out.
    """

    @cache
    def best(i: int, j: int, begun: bool, gap: bool) -> tuple[float, tuple[tuple[str, str], ...]]:
        if i == len(written):
            return (0.0, ()) if j == len(shape) else (inf, ())
        ways: list[tuple[float, tuple[tuple[str, str], ...]]] = []
        token = written[i]
        if j < len(shape):
            cost, rest = best(i, j + 1, begun, True)
            skip = (0.05 if gap else 0.35) if begun else (0.0 if gap else 0.2)
            shown = "*" if begun and shape[j] == NUMBER else shape[j]
            ways.append((cost + skip, (("between" if begun else "lead", shown), *rest)))
            cost, rest = best(i + 1, j + 1, True, False)
            kept = shape[j] if token.isidentifier() else token
            ways.append((cost + _unlike(token, shape[j]), (("tail", kept), *rest)))
        if token == "**":
            cost, rest = best(i + 1, j, True, gap)
            ways.append((cost, (("tail", token), *rest)))
        elif i + 1 < len(written) and not (_is_position(token) or token in known):
            cost, rest = best(i + 1, j, begun, gap)
            surplus = 0.15 if token in WRAPPERS else 0.7 if begun else 0.45
            ways.append((cost + surplus, rest))
        return min(ways, key=lambda way: way[0], default=(inf, ()))

    cost, pieces = best(0, 0, False, False)
    named = [piece for part, piece in pieces if part == "tail" and piece.isidentifier()]
    if cost == inf or not named:
        return None
    lead = tuple(piece for part, piece in pieces if part == "lead")
    tail = ".".join(piece for part, piece in pieces if part != "lead")
    return Aligned(cost, lead, tail.replace(".[", "["))


@cache
def _unlike(token: str, segment: str) -> float:
    """Return how far a written segment is from a segment of a shape."""
    if segment == NUMBER:
        return 0.0 if _is_position(token) or token in ("*", "?") else inf
    if _is_position(token):
        return inf
    if {*"*?"} & {*token}:
        return 0.0 if fnmatchcase(segment, token) else inf
    return unlike(token, segment)


def unlike(written: str, known: str) -> float:
    """Return how far apart two words are: 0 for equal ones, infinite for unlike ones.

    Words with different digits are never alike: `layer5` is not a misspelling of `layer4`.

    >>> unlike("LayerNorm", "layer_norm"), unlike("layer5", "layer4"), unlike("lora", "layers")
    (0.1, inf, inf)
    """
    if written == known:
        return 0.0
    if re.findall(r"\d+", written) != re.findall(r"\d+", known):
        return inf
    if known in meant_by(written) or written in meant_by(known):
        return 0.25
    return _unlike_letters(*(re.sub("[_-]", "", word).lower() for word in (written, known)))


def _unlike_letters(written: str, known: str) -> float:
    """Return how far apart two words are by their letters alone."""
    if written == known:
        return 0.1
    if written in (f"{known}s", f"{known}es") or known in (f"{written}s", f"{written}es"):
        return 0.12
    ratio = SequenceMatcher(None, written, known).ratio()
    if ratio >= 0.8:
        return 1.1 - ratio
    if len(written) > 2 and known.startswith(written):
        return 0.3
    if len(written) > 2 and written[0] == known[:1] and _is_short_for(written, known):
        return 0.38
    return 0.45 if ratio >= 0.66 and min(len(written), len(known)) > 3 else inf


def _is_short_for(short: str, long: str) -> bool:
    """Return whether a word's letters stand in a longer one in that order: attn in attention."""
    letters = iter(long)
    return len(short) <= 0.6 * len(long) and all(letter in letters for letter in short)
