"""Candidates for a captured plan: a selector, what it costs to read, and which names it takes."""

from __future__ import annotations

import re
from fnmatch import translate
from typing import NamedTuple

import numpy as np

from unifreeze._plan.selectors import Expression, evaluate
from unifreeze._plan.selectors.expression import Both, Either, Path, Quoted, Without
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import ResolveError

WORD, INDEXED, STAGES, BOTH, WITHOUT = 1.0, 1.2, 1.15, 0.7, 0.9
EVERYWHERE, POSITIONS, UNIT, OWNER, NAME = 2.2, 2.5, 2.2, 2.6, 3.0
MANY, SLIGHTLY = 0.3, 0.01
"""What a selector costs: the words in it, and how far they are from plain words."""


class Candidate(NamedTuple):
    """A selector, as the expression that a plan would hold, and what it costs to read."""

    expression: Expression
    cost: float


class Masks:
    """Which names of one model each selector takes, as the selector language says."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._parts = np.bincount(spec.atoms.name, minlength=len(spec.tree.names))
        self._evaluated: dict[Expression, Mask | None] = {}
        self._known = {*spec.module_numbers, *spec.tree.names}
        self._under: dict[str, list[int]] = {}
        for number, name in enumerate(spec.atom_names):
            pieces = name.split("/")
            for end in range(1, len(pieces) + 1):
                self._under.setdefault("/".join(pieces[:end]), []).append(number)

    def of(self, expression: Expression) -> Mask | None:
        """Return for each name whether a selector takes it; None if it fails or splits a tensor."""
        atoms = self._atoms(expression)
        if atoms is None:
            return None
        taken = np.bincount(self.spec.atoms.name[atoms], minlength=len(self._parts))
        whole: Mask = taken == self._parts
        return whole if (whole | (taken == 0)).all() else None

    def takes_any(self, expression: Expression) -> bool:
        """Return whether a selector takes anything in the model."""
        atoms = self._atoms(expression)
        return atoms is not None and bool(atoms.any())

    def _atoms(self, expression: Expression) -> Mask | None:
        if expression not in self._evaluated:
            self._evaluated[expression] = self._evaluate(expression)
        return self._evaluated[expression]

    def _evaluate(self, expression: Expression) -> Mask | None:
        match expression:
            case Both(left, right) | Without(left, right) | Either(left, right):
                here, there = self._atoms(left), self._atoms(right)
                if here is None or there is None:
                    return None
                if isinstance(expression, Either):
                    return here | there
                return here & there if isinstance(expression, Both) else here & ~there
            case Quoted("at", pattern):
                return self._at(pattern)
            case Path() if expression.literal and expression.literal not in self._known:
                return None
        try:
            return evaluate(expression, self.spec)
        except ResolveError:
            return None

    def _at(self, pattern: str) -> Mask | None:
        """Return the atoms under a canonical name or glob.

        `evaluate` would look for similar names to suggest, which is slow for so many candidates.
        """
        if not set("*?[") & set(pattern):
            atoms = self._under.get(pattern, [])
        else:
            matches = re.compile(translate(pattern)).fullmatch
            atoms = [n for under, numbers in self._under.items() if matches(under) for n in numbers]
        mask = np.zeros(len(self.spec.atoms), np.bool_)
        mask[atoms] = True
        return mask if atoms else None
