"""Find out whether a selector selects a norm without parameters, and whether it names it.

A norm without scale and shift has nothing that a rule could freeze, but a rule can still be meant
for it. So each such norm gets a stand-in: an invented parameter, in a copy of the description.
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
from unifreeze._plan.selectors.words_for_towers import read_place
from unifreeze._structure import Mask, ModelSpec, Tensor, derive, running_owners
from unifreeze.errors import ResolveError

_LAYERS = frozenset({"norm", "children", "pooler"})
"""Words about layers themselves, not about a place in the network."""

_PARTS = frozenset({"weight", "bias", "tied", "params", "adapter"})
"""Words about parameters, which say nothing about a layer without parameters."""


class Reach(NamedTuple):
    """What an expression says about some norms.

    Attributes:
        selected: For each norm, whether the expression selects it.
        named: For each norm, whether it is selected by the path, class or kind of itself or of a
            module that holds it, and not only by its place in the network.
        of_parts: The expression divides layers into parts, so subtracting it names no norm.
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
        """Return what an expression says about them; nothing, if it does not fit the model."""
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
            case Within():
                return self._within(expression, spec, tensors)
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

    def _within(self, within: Within, spec: ModelSpec, tensors: Sequence[int]) -> Reach:
        nothing = np.zeros(len(tensors), np.bool_)
        try:
            part, names = read_place(within.place, quoted=within.quoted, spec=spec)
        except ResolveError:
            return Reach(nothing, nothing)
        numbers = {
            int(spec.tensor_of[name]): int(part.tensor_of[n]) for n, name in enumerate(names)
        }
        there = [at for at, tensor in enumerate(tensors) if int(tensor) in numbers]
        reach = self._reach(within.inner, part, [numbers[int(tensors[at])] for at in there])
        selected, named = nothing.copy(), nothing.copy()
        selected[there], named[there] = reach.selected, reach.named
        return Reach(selected, named, reach.of_parts)


def stand_ins_of(spec: ModelSpec) -> StandIns:
    """Return a description's stand-ins, made once."""
    return spec.once("stand-ins", lambda: StandIns(spec))


def _is_everything(expression: Expression) -> bool:
    """Return whether a pattern matches every name, and so names nothing in particular."""
    return isinstance(expression, Quoted) and expression.pattern in (".*", ".+", "*")


def _with_stand_ins(spec: ModelSpec, owners: Sequence[int]) -> ModelSpec:
    """Return a description in which each owner has a parameter named as its first statistic."""
    tree = spec.tree
    leaves: dict[int, str] = {}
    for state in spec.states:
        leaves.setdefault(state.owner, state.path.rpartition(".")[2])
    before = np.searchsorted(np.asarray(owners), np.arange(len(tree.paths) + 1))
    starts = [int(at + before[n]) for n, at in enumerate(tree.name_starts)]
    ends = [int(at + before[tree.ends[n]]) for n, at in enumerate(tree.name_ends)]
    extended = replace(tree, name_starts=starts, name_ends=ends, numbers={}, shared=[])
    for column in ("names", "owners", "leaves", "adapters", "tensor_of", "tensors", "trainable"):
        setattr(extended, column, list(getattr(tree, column)))
    for number, owner in enumerate(owners):
        at, path, leaf = starts[owner], tree.paths[owner], leaves[owner]
        extended.names.insert(at, f"{path}.{leaf}" if path else leaf)
        extended.owners.insert(at, owner)
        extended.leaves.insert(at, leaf)
        extended.adapters.insert(at, False)
        extended.tensor_of.insert(at, len(tree.tensors) + number)
        extended.tensors.append(Tensor((1,), (1,), "float32", "", False))
        extended.trainable.append(True)
    flags = np.concatenate((spec.found, np.ones(len(owners), np.bool_)))
    return derive(extended, spec.trace, found=flags).corrected(spec.correction)
