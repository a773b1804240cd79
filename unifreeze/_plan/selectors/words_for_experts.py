"""What the words for mixtures of experts select: experts, shared_experts and router."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unifreeze._plan.selectors.expression import Index
from unifreeze._plan.selectors.positions import positions
from unifreeze._structure import KINDS, Mask, ModelSpec
from unifreeze.errors import SelectorScopeError, counted


def of_role(role: str) -> Callable[[ModelSpec], Mask]:
    """Return the meaning of a word for a part of a mixture-of-experts layer."""
    return lambda spec: in_role(role, spec)


def in_role(role: str, spec: ModelSpec) -> Mask:
    """Return for each atom whether it is of an expert, a shared expert or a router."""
    named = np.zeros(len(spec.tree.names), np.bool_)
    named[[name for name, known in spec.experts.roles.items() if known == role]] = True
    # An adapter is inside the layer that it adapts, but it is not that layer's own.
    selected: Mask = named[spec.atoms.name] & (spec.atoms.kind != KINDS.index("adapter"))
    return selected


def select_experts(index: Index | None, spec: ModelSpec) -> Mask:
    """Select experts: all of them, or those at some positions in each layer that has experts.

    Raises:
        SelectorRangeError: A layer has no expert at a position.
        SelectorScopeError: The model has no experts, or a layer keeps all of them in one tensor.
    """
    everywhere = in_role("experts", spec)
    if index is None:
        return everywhere
    tree, layers = spec.tree, spec.experts.layers
    if not layers:
        raise SelectorScopeError(f"'experts{index}' selects nothing: the model has no experts")
    chosen = np.zeros(len(tree.names), np.bool_)
    for layer in layers:
        path = tree.paths[layer.module]
        if not layer.experts:
            raise SelectorScopeError(
                f"experts{index} would split a tensor: {path} keeps all its experts in one",
                hint="name all of them: experts",
            )
        have = f"{path} has {counted(len(layer.experts), 'expert')}"
        for at in positions(index, len(layer.experts), have):
            expert = layer.experts[at]
            chosen[tree.name_starts[expert] : tree.name_ends[expert]] = True
    return everywhere & chosen[spec.atoms.name]
