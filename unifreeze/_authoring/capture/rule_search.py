"""The search for the shortest list of rules with a given meaning; pure, on masks alone.

The last match wins, so a list of rules is a rule and the corrections after it. Each layer is a
cover: selectors that take all that is needed and nothing that no later layer puts right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._structure import Mask

RULE = 1.0
"""What one more rule costs, in plain words."""
UNSAID = 0.03
"""What it costs to leave to the model that everything else trains."""
BREADTH = {2: 20, 3: 6}
"""How many beginnings are followed up where so many layers are left."""
STARTS = 10
"""How many first picks a cover tries."""
MANY = 12
"""A cover of more selectors is a list, and no better for looking longer."""
SLACK = 1.3
"""How far a cover may go past its budget before what is superfluous is left out."""


class Layer(NamedTuple):
    """One layer of a list of rules: candidates by number, and what becomes of what they take."""

    trains: bool
    rows: tuple[int, ...]


class Answer(NamedTuple):
    """Layers in the order of their rules, and what they cost to read."""

    cost: float
    layers: tuple[Layer, ...]


class Rules(NamedTuple):
    """Layers, and whether the first says what becomes of everything else."""

    verb: Literal["freeze", "only"]
    layers: tuple[Layer, ...]


@dataclass
class Problem:
    """What is to be said, and what it can be said with.

    Attributes:
        matrix: For each candidate, which names it takes (0 or 1).
        costs: What each costs.
        wanted: For each name, whether it is to be trainable.
        tensor: For each name, the number of its parameter.
        depth: How many layers are looked into.
    """

    matrix: NDArray[np.float32]
    costs: NDArray[np.float32]
    wanted: Mask
    tensor: NDArray[np.intp]
    depth: int = 3

    def __post_init__(self) -> None:
        self.tied = len(np.unique(self.tensor)) < len(self.tensor)

    def solve(self) -> Rules | None:
        """Return the shortest rules found, None where the candidates cannot say it."""
        only = self.decide(self.wanted, trains=True, depth=self.depth, budget=np.inf)
        budget = np.inf if only is None else only.cost - UNSAID
        freeze = self.decide(
            ~self.wanted, trains=False, depth=self.depth, budget=budget, any_name=True
        )
        if freeze is not None and (only is None or freeze.cost + UNSAID < only.cost):
            return Rules("freeze", freeze.layers)
        return None if only is None else Rules("only", only.layers)

    def decide(
        self, need: Mask, *, trains: bool, depth: int, budget: float, any_name: bool = False
    ) -> Answer | None:
        """Return layers after which all that is needed is decided, and nothing wrongly.

        Args:
            need: Names that must be decided.
            trains: What they must become.
            depth: How many layers there may be.
            budget: What they may cost.
            any_name: One name of a tied tensor is enough.
        """
        fine = self.wanted == trains
        best = self._first(need, fine, trains, (), budget, any_name)
        if depth == 1:
            return best
        breadth = BREADTH[depth]
        if best is not None and sum(len(layer.rows) for layer in best.layers) > MANY:
            depth, breadth = 2, BREADTH[3]
        for row in self._promising(need, fine, breadth):
            limit = (budget if best is None else min(best.cost, budget)) - RULE
            wrong = (self.matrix[row] > 0) & ~fine
            rest = self.decide(
                wrong, trains=not trains, depth=depth - 1, budget=limit - float(self.costs[row])
            )
            if rest is not None:
                found = self._first(need, fine, trains, rest.layers, limit - rest.cost, any_name)
                if found is not None:
                    total = found.cost + RULE + rest.cost
                    best = Answer(total, (*found.layers, *rest.layers))
        return best

    def _first(
        self,
        need: Mask,
        fine: Mask,
        trains: bool,
        later: tuple[Layer, ...],
        budget: float,
        any_name: bool,
    ) -> Answer | None:
        decided = np.zeros_like(need)
        for layer in later:
            decided |= self.taken(layer.rows)
        if any_name:
            decided_right = self._all_names(decided & fine)
            need = need & ~decided_right
        rows = self.cover(need & ~decided, fine | decided, budget, any_name=any_name)
        if not rows:
            return None
        return Answer(float(self.costs[list(rows)].sum()), (Layer(trains, rows),))

    def taken(self, rows: tuple[int, ...]) -> Mask:
        """Return the names that some candidates take together."""
        found: Mask = np.asarray(self.matrix[list(rows)].any(axis=0), np.bool_)
        return found

    def _all_names(self, mask: Mask) -> Mask:
        return np.isin(self.tensor, self.tensor[mask]) if self.tied else mask

    def _promising(self, need: Mask, fine: Mask, breadth: int) -> Iterator[int]:
        """Give candidates that take much of what is needed and a little of what is not."""
        gain = self.matrix @ need.astype(np.float32)
        wrong = self.matrix @ (~fine).astype(np.float32)
        score = np.where((wrong > 0) & (gain > wrong), (gain - wrong) / self.costs, 0)
        for row in np.argsort(-score, kind="stable")[:breadth]:
            if score[row] > 0:
                yield int(row)

    def cover(
        self, need: Mask, allowed: Mask, budget: float, *, any_name: bool
    ) -> tuple[int, ...] | None:
        """Return the cheapest candidates found that take all of `need` and only what is allowed.

        Greedy, from several beginnings; what proves superfluous is left out again.
        """
        usable = self.matrix @ (~allowed).astype(np.float32) == 0
        rows = np.flatnonzero(usable & (self.matrix @ need.astype(np.float32) > 0))
        if not need.any() or not self._all_names(self.taken(tuple(rows)) & allowed)[need].all():
            return None
        part, costs = self.matrix[rows][:, need], self.costs[rows]
        tensor = self.tensor[need] if any_name and self.tied else None
        best, least, tried = None, budget, 0
        for start in np.argsort(-part.sum(axis=1) / costs, kind="stable")[:STARTS]:
            picked = _greedy(part, costs, tensor, int(start), least)
            if picked is None:
                continue
            cost = float(costs[picked].sum())
            if cost < least:
                best, least = picked, cost
            tried += 1
            if tried > 1 and len(picked) > MANY:
                break
        return None if best is None else tuple(int(row) for row in rows[best])


def _greedy(
    part: NDArray[np.float32],
    costs: NDArray[np.float32],
    tensor: NDArray[np.intp] | None,
    start: int,
    budget: float,
) -> list[int] | None:
    """Pick what takes most for its cost until nothing is left; None once that gets too dear."""
    picked, left = [start], np.ones(part.shape[1], np.float32)
    spent = float(costs[start])
    while True:
        left[_reached(part[picked[-1]] > 0, tensor)] = 0
        missing = float(left.sum())
        if not missing:
            return _needed(part, costs, tensor, picked)
        ratio = (part @ left) / costs
        best = int(np.argmax(ratio))
        # Something picked before may still be left out, so the limit is a loose one.
        if ratio[best] == 0 or spent + missing / ratio[best] > SLACK * budget:
            return None
        spent += float(costs[best])
        picked.append(best)


def _needed(
    part: NDArray[np.float32],
    costs: NDArray[np.float32],
    tensor: NDArray[np.intp] | None,
    picked: list[int],
) -> list[int]:
    """Leave out what the others take as well, the dearest first."""
    taken = part[picked] > 0
    if tensor is not None:
        taken = np.asarray([_reached(row, tensor) for row in taken])
    times, kept = taken.sum(axis=0), list[int]()
    for at in sorted(range(len(picked)), key=lambda at: -costs[picked[at]]):
        if (times[taken[at]] > 1).all():
            times -= taken[at]
        else:
            kept.append(picked[at])
    return kept


def _reached(taken: Mask, tensor: NDArray[np.intp] | None) -> Mask:
    return taken if tensor is None else np.isin(tensor, tensor[taken])
