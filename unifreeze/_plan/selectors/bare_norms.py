"""What a selector says of norms that have no parameters: whether it selects them, and names them.

A norm without scale and shift has nothing that a rule could freeze, yet a rule can be about it. So
each gets a stand-in: a parameter that is not there, in a description made for asking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from unifreeze._plan.selectors.evaluate import evaluate
from unifreeze._plan.selectors.expression import (
    Both,
    Either,
    Expression,
    OtherThan,
    Quoted,
    Size,
    Within,
    Without,
    Word,
)
from unifreeze._plan.selectors.paths import find_module
from unifreeze._structure import Mask, ModelSpec, Tensor, derive, running_owners
from unifreeze.errors import ResolveError

_LAYERS = frozenset({"norm", "children", "pooler"})
"""Words that are about layers themselves, and not about a place in the network."""

_PARTS = frozenset({"weight", "bias", "tied", "params", "adapter"})
"""Words that are about parameters, so that they say nothing of a layer without any."""


class Reach(NamedTuple):
    """What an expression says of some norms.

    Attributes:
        selected: For each, whether it is in what the expression selects.
        named: For each, whether it is there by a path, a class or a kind, its own or of a module
            that holds it, and not only by its place in the network.
        of_parts: The expression takes layers apart, so that leaving its value out names nothing.
    """

    selected: Mask
    named: Mask
    of_parts: bool = False


class StandIns:
    """A model's norms without parameters, each with a stand-in.

    Attributes:
        owners: Numbers of the norms.
    """

    def __init__(self, spec: ModelSpec) -> None:
        tree = spec.tree
        with_own = set(tree.owners)
        self.owners = [owner for owner in running_owners(spec.states) if owner not in with_own]
        self._spec = _with_stand_ins(spec, self.owners) if self.owners else spec
        count = len(spec)
        self._tensors = list(range(count, count + len(self.owners)))

    def reach(self, expression: Expression) -> Reach:
        """Return what an expression says of them; one that means nothing here says nothing."""
        if not self.owners:
            nothing = np.zeros(0, np.bool_)
            return Reach(nothing, nothing)
        return self._reach(expression, self._spec, self._tensors)

    def _reach(self, expression: Expression, spec: ModelSpec, tensors: Sequence[int]) -> Reach:
        match expression:
            case Either(left, right):
                a, b = (self._reach(side, spec, tensors) for side in (left, right))
                named = (a.selected & a.named) | (b.selected & b.named)
                return Reach(a.selected | b.selected, named, a.of_parts or b.of_parts)
            case Both(left, right):
                a, b = (self._reach(side, spec, tensors) for side in (left, right))
                selected = a.selected & b.selected
                return Reach(selected, selected & (a.named | b.named), a.of_parts or b.of_parts)
            case Without(left, right):
                a, b = (self._reach(side, spec, tensors) for side in (left, right))
                selected = a.selected & ~b.selected
                of_parts = a.of_parts or b.of_parts
                return Reach(selected, selected & a.named & (not b.of_parts), of_parts)
            case OtherThan(inner):
                a = self._reach(inner, spec, tensors)
                return Reach(~a.selected, np.zeros_like(a.named), a.of_parts)
            case Within(inner, place):
                return self._within(inner, place, spec, tensors)
        return self._leaf(expression, spec, tensors)

    def _leaf(self, expression: Expression, spec: ModelSpec, tensors: Sequence[int]) -> Reach:
        nothing = np.zeros(len(tensors), np.bool_)
        word = expression.name if isinstance(expression, Word) else ""
        if isinstance(expression, Size) or word in _PARTS:
            return Reach(nothing, nothing, of_parts=True)
        try:
            atoms = evaluate(expression, spec)
        except ResolveError:
            return Reach(nothing, nothing)
        chosen = np.zeros(len(spec), np.bool_)
        chosen[spec.atoms.tensor[atoms]] = True
        selected = chosen[tensors]
        by_place = word not in _LAYERS if word else _is_everything(expression)
        return Reach(selected, nothing if by_place else selected)

    def _within(
        self, inner: Expression, place: str, spec: ModelSpec, tensors: Sequence[int]
    ) -> Reach:
        nothing = np.zeros(len(tensors), np.bool_)
        try:
            part, names = spec.within(find_module(place, spec))
        except ResolveError:
            return Reach(nothing, nothing)
        numbers = {
            int(spec.tensor_of[name]): int(part.tensor_of[n]) for n, name in enumerate(names)
        }
        there = [at for at, tensor in enumerate(tensors) if int(tensor) in numbers]
        found = self._reach(inner, part, [numbers[int(tensors[at])] for at in there])
        selected, named = nothing.copy(), nothing.copy()
        selected[there], named[there] = found.selected, found.named
        return Reach(selected, named, found.of_parts)


def stand_ins_of(spec: ModelSpec) -> StandIns:
    """Return a description's stand-ins, made once."""
    if "stand-ins" not in spec.memo:
        spec.memo["stand-ins"] = StandIns(spec)
    found: StandIns = spec.memo["stand-ins"]
    return found


def _is_everything(expression: Expression) -> bool:
    """Tell whether a pattern fits every name, so that it names none in particular."""
    return isinstance(expression, Quoted) and expression.pattern in (".*", ".+", "*")


def _with_stand_ins(spec: ModelSpec, owners: Sequence[int]) -> ModelSpec:
    """Give each owner a name of its own, called as its first statistic is."""
    tree = spec.tree
    leaves: dict[int, str] = {}
    for state in spec.states:
        leaves.setdefault(state.owner, state.path.rpartition(".")[2])
    before = np.searchsorted(np.asarray(owners), np.arange(len(tree.paths) + 1))
    starts = [int(at + before[n]) for n, at in enumerate(tree.name_starts)]
    ends = [int(at + before[tree.ends[n]]) for n, at in enumerate(tree.name_ends)]
    made = replace(tree, name_starts=starts, name_ends=ends, numbers={}, shared=[])
    for column in ("names", "owners", "leaves", "adapters", "tensor_of", "tensors", "trainable"):
        setattr(made, column, list(getattr(tree, column)))
    for number, owner in enumerate(owners):
        at, path, leaf = starts[owner], tree.paths[owner], leaves[owner]
        made.names.insert(at, f"{path}.{leaf}" if path else leaf)
        made.owners.insert(at, owner)
        made.leaves.insert(at, leaf)
        made.adapters.insert(at, False)
        made.tensor_of.insert(at, len(tree.tensors) + number)
        made.tensors.append(Tensor((1,), (1,), "float32", "", False))
        made.trainable.append(True)
    found = np.concatenate((spec.found, np.ones(len(owners), np.bool_)))
    return derive(made, spec.trace, found=found)
