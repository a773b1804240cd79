"""Loops that look for text in parameter names, and what they likely take by mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from unifreeze._authoring.capture.plan_comments import join_with_and
from unifreeze._authoring.capture.plan_search import can_train
from unifreeze._structure import Mask, ModelSpec

MOST = 5
"""More texts than that: nobody wrote such a loop."""


class Loop(NamedTuple):
    """A loop over parameter names that would have set exactly these flags.

    Attributes:
        texts: What it looks for.
        trains: Whether names that hold one of the texts train; otherwise they are frozen.
        taken: The parameters it takes.
        intended: Of those, the ones in the modules that the texts name.
    """

    texts: tuple[str, ...]
    trains: bool
    taken: Mask
    intended: Mask

    def __str__(self) -> str:
        verb = "trains" if self.trains else "freezes"
        texts = ", ".join(map(repr, self.texts))
        return (
            f"a loop that looks for {texts} anywhere in a name {verb} these "
            f"{int(self.taken.sum())} tensors; {int(self.intended.sum())} are in "
            f"{join_with_and(self.texts)} {'themselves' if len(self.texts) > 1 else 'itself'}"
        )


def find_loop(spec: ModelSpec, trainable: Mask) -> Loop | None:
    """Return the loop over substrings that explains the flags exactly and took too much.

    The texts are names of the model's own children, or of one member of a list (`layer.1`).
    """
    known = can_train(spec)
    for trains in (False, True):
        taken = (trainable == trains) & known
        texts = _cover(spec, taken, known) if 0 < taken.sum() < known.sum() else None
        if texts is not None:
            in_modules = np.logical_or.reduce([_in_module(spec, text) for text in texts])
            intended = in_modules & taken
            if 0 < intended.sum() < taken.sum():
                return Loop(tuple(texts), trains, taken, intended)
    return None


def _cover(spec: ModelSpec, taken: Mask, known: Mask) -> list[str] | None:
    """Return a few texts that are in the names of the taken parameters and in no other name."""
    holds = {text: _holding(spec, text) & known for text in _texts(spec)}
    pure = {text: mask for text, mask in holds.items() if mask.any() and not (mask & ~taken).any()}
    left, chosen = taken.copy(), list[str]()
    while left.any() and pure and len(chosen) < MOST:
        # Of texts that take equally many, the first is nearest the input, as people list them.
        text = max(pure, key=lambda text: int((pure[text] & left).sum()))
        if not (pure[text] & left).any():
            return None
        chosen.append(text)
        left &= ~pure[text]
    return None if left.any() else [text for text in pure if text in chosen]


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
