"""The search for the shortest list of rules that makes given decisions; pure, on masks alone.

The last match wins, so a list of rules is a first rule and corrections to it. Each layer is a
cover: selectors that take all names needed, and wrong names only if a later layer corrects them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._structure import Mask

RULE = 1.0
"""What one more rule costs; a plain word costs 1."""
UNSAID = 0.03
"""What it costs to say nothing of the other parameters, which then train by default."""
BREADTH = {2: 20, 3: 6}
"""How many first candidates are followed up, by the number of layers left."""
STARTS = 10
"""How many first picks a cover tries."""
MANY = 12
"""For a cover of more selectors, searching longer finds nothing much better."""
SLACK = 1.3
"""How far a cover may go past its budget: superfluous candidates are removed at the end."""


class Layer(NamedTuple):
    """One layer of a list of rules: candidates by number, and whether what they take trains."""

    trains: bool
    rows: tuple[int, ...]


class Answer(NamedTuple):
    """Layers in the order of their rules, and what they cost to read."""

    cost: float
    layers: tuple[Layer, ...]


class Rules(NamedTuple):
    """Layers, and the verb of the first: `only` also freezes everything else."""

    verb: Literal["freeze", "only"]
    layers: tuple[Layer, ...]


@dataclass
class Problem:
    """Which decisions a plan has to make, and the candidates that it can be made of.

    Attributes:
        matrix: For each candidate, which names it takes (0 or 1).
        costs: What each costs.
        wanted: For each name, whether it is to be trainable.
        tensor: For each name, the number of its parameter.
        depth: How many layers a plan may have.
    """

    matrix: NDArray[np.float32]
    costs: NDArray[np.float32]
    wanted: Mask
    tensor: NDArray[np.intp]
    depth: int = 3

    def __post_init__(self) -> None:
        self.tied = len(np.unique(self.tensor)) < len(self.tensor)

    def solve(self) -> Rules | None:
        """Return the shortest rules found; None if no rules of the candidates decide so."""
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
        """Return the cheapest layers found that decide all names needed, and no name wrongly.

        Args:
            need: Names that must be decided.
            trains: Whether they must train.
            depth: How many layers there may be.
            budget: What the layers may cost.
            any_name: One name of a tied tensor is enough.
        """
        right = self.wanted == trains
        best = self._first(need, right, trains, (), budget, any_name)
        if depth == 1:
            return best
        breadth = BREADTH[depth]
        if best is not None and sum(len(layer.rows) for layer in best.layers) > MANY:
            depth, breadth = 2, BREADTH[3]
        for row in self._promising(need, right, breadth):
            limit = (budget if best is None else min(best.cost, budget)) - RULE
            wrong = (self.matrix[row] > 0) & ~right
            rest = self.decide(
                wrong, trains=not trains, depth=depth - 1, budget=limit - float(self.costs[row])
            )
            if rest is not None:
                first = self._first(need, right, trains, rest.layers, limit - rest.cost, any_name)
                if first is not None:
                    total = first.cost + RULE + rest.cost
                    best = Answer(total, (*first.layers, *rest.layers))
        return best

    def _first(
        self,
        need: Mask,
        right: Mask,
        trains: bool,
        later: tuple[Layer, ...],
        budget: float,
        any_name: bool,
    ) -> Answer | None:
        """Return the cheapest first layer, where `later` layers follow it."""
        decided = np.zeros_like(need)
        for layer in later:
            decided |= self.taken(layer.rows)
        if any_name:
            need = need & ~self._all_names(decided & right)
        rows = self.cover(need & ~decided, right | decided, budget, any_name=any_name)
        if not rows:
            return None
        return Answer(float(self.costs[list(rows)].sum()), (Layer(trains, rows),))

    def taken(self, rows: tuple[int, ...]) -> Mask:
        """Return the names that some candidates take together."""
        return np.asarray(self.matrix[list(rows)].any(axis=0), np.bool_)

    def _all_names(self, mask: Mask) -> Mask:
        """Add the other names of tied tensors."""
        return np.isin(self.tensor, self.tensor[mask]) if self.tied else mask

    def _promising(self, need: Mask, right: Mask, breadth: int) -> Iterator[int]:
        """Yield candidates that take many of the names needed and a few wrong ones."""
        gain = self.matrix @ need.astype(np.float32)
        wrong = self.matrix @ (~right).astype(np.float32)
        score = np.where((wrong > 0) & (gain > wrong), (gain - wrong) / self.costs, 0)
        for row in np.argsort(-score, kind="stable")[:breadth]:
            if score[row] > 0:
                yield int(row)

    def cover(
        self, need: Mask, allowed: Mask, budget: float, *, any_name: bool
    ) -> tuple[int, ...] | None:
        """Return the cheapest candidates found that take all of `need` and only what is allowed.

        The search is greedy, from several first candidates; superfluous ones are removed.
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
    """Pick the candidate that takes most for its cost until nothing is left; None if too dear."""
    picked, left = [start], np.ones(part.shape[1], np.float32)
    spent = float(costs[start])
    while True:
        left[_reached(part[picked[-1]] > 0, tensor)] = 0
        missing = float(left.sum())
        if not missing:
            return _needed(part, costs, tensor, picked)
        ratio = (part @ left) / costs
        best = int(np.argmax(ratio))
        # An earlier candidate may still prove superfluous, so the limit is loose.
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
    """Remove candidates whose names the others take as well, the dearest first."""
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
