"""Loops that look for text in parameter names, and what they take beyond what was likely meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from unifreeze._authoring.capture.plan_search import free
from unifreeze._structure import Mask, ModelSpec

MOST = 5
"""More texts than that are no loop that anybody wrote."""


class Loop(NamedTuple):
    """A loop over parameter names that would have set the flags just so.

    Attributes:
        texts: What it looks for.
        trains: What becomes of the names that hold one of them.
        taken: The parameters it takes.
        meant: Those in the modules that the texts name.
    """

    texts: tuple[str, ...]
    trains: bool
    taken: Mask
    meant: Mask

    def __str__(self) -> str:
        verb = "trains" if self.trains else "freezes"
        texts = ", ".join(map(repr, self.texts))
        return (
            f"a loop that looks for {texts} anywhere in a name {verb} these "
            f"{int(self.taken.sum())} tensors; {int(self.meant.sum())} are in "
            f"{_and(self.texts)} {'themselves' if len(self.texts) > 1 else 'itself'}"
        )


def find_loop(spec: ModelSpec, trainable: Mask) -> Loop | None:
    """Return the loop over substrings that explains the flags exactly, and took more than meant.

    The texts are names of the model's own children, or of one member of a list (`layer.1`).
    """
    known = free(spec)
    for trains in (False, True):
        taken = (trainable == trains) & known
        found = _cover(spec, taken, known) if 0 < taken.sum() < known.sum() else None
        if found is not None:
            meant = _any(_in_module(spec, text) for text in found) & taken
            if 0 < meant.sum() < taken.sum():
                return Loop(tuple(found), trains, taken, meant)
    return None


def _cover(spec: ModelSpec, taken: Mask, known: Mask) -> list[str] | None:
    """Return few texts that stand in the names of what was taken and in no others."""
    holds = {text: _holding(spec, text) & known for text in _texts(spec)}
    pure = {text: mask for text, mask in holds.items() if mask.any() and not (mask & ~taken).any()}
    left, found = taken.copy(), list[str]()
    while left.any() and pure and len(found) < MOST:
        # As long as they bring anything, the modules nearest the input are what people list.
        text = max(pure, key=lambda one: int((pure[one] & left).sum()))
        if not (pure[text] & left).any():
            return None
        found.append(text)
        left &= ~pure[text]
    return None if left.any() else [text for text in pure if text in found]


def _texts(spec: ModelSpec) -> Iterator[str]:
    tree = spec.tree
    yield from (tree.paths[child] for child in tree.children(0))
    members = (re.search(r"[^.]+\.\d+$", path) for path in tree.paths)
    yield from dict.fromkeys(member[0] for member in members if member)


def _holding(spec: ModelSpec, text: str) -> Mask:
    return np.asarray([text in row.path for row in spec.parameters], np.bool_)


def _in_module(spec: ModelSpec, text: str) -> Mask:
    """Return the parameters under the module that a text names."""
    top = spec.module(text) is not None
    pattern = re.compile(rf"{'' if top else r'(?:.*[.])?'}{re.escape(text)}(?:[.].*)?")
    return np.asarray([bool(pattern.fullmatch(row.path)) for row in spec.parameters], np.bool_)


def _any(masks: Iterable[Mask]) -> Mask:
    found: Mask = np.logical_or.reduce(list(masks))
    return found


def _and(texts: tuple[str, ...]) -> str:
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last
