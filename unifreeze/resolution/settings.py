"""Optimizer settings per parameter, from a plan's groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unifreeze.errors import SelectorScopeError
from unifreeze.plan import FreezePlan, pick
from unifreeze.resolution.hold import Select
from unifreeze.structure import ModelSpec, Zone

Floats = NDArray[np.float64]


def group_settings(plan: FreezePlan, spec: ModelSpec, select: Select) -> tuple[Floats, Floats]:
    """Return, for each parameter, the factor on its learning rate and its weight decay.

    Each setting by itself, the last match wins; weight decay is NaN where no group sets it. With
    layer decay d, what is k blocks below the head has factor d^k, as in timm: the head and what
    follows the last block 1, the last block d, the stem the smallest.
    """
    scale, decay = np.ones(len(spec)), np.full(len(spec), np.nan)
    layer_decay = np.ones(len(spec))
    for number, group in enumerate(plan.groups):
        where = f"groups[{number}].match"
        mask = select(pick(group.match, spec.framework, where), spec, where)
        tensors = np.unique(spec.atoms.tensor[mask])
        if group.lr_scale is not None:
            scale[tensors] = group.lr_scale
        if group.weight_decay is not None:
            decay[tensors] = group.weight_decay
        if group.layer_decay is not None:
            layer_decay[tensors] = group.layer_decay
    if (layer_decay != 1).any():
        scale *= layer_decay ** _blocks_below_head(spec)
    return scale, decay


def _blocks_below_head(spec: ModelSpec) -> Floats:
    """Count, for each parameter, the blocks between it and the head, its own included."""
    if not spec.runs:
        raise SelectorScopeError(
            "layer_decay needs repeated units, and this model has none",
            hint="give lr_scale to parts of it instead",
        )
    lengths = [len(run.blocks) for run in spec.runs]
    after = [0] * len(lengths)
    if spec.placement.labels == ["encoder", "decoder"]:
        after[0] = lengths[1]
    deepest = max(length + more for length, more in zip(lengths, after, strict=True)) + 1
    depths = []
    for unit in spec.placement.units:
        if unit.zone in (Zone.BLOCK, Zone.TRANSITION):
            depths.append(lengths[unit.run] - unit.block + after[unit.run])
        elif unit.zone in (Zone.NECK, Zone.HEAD):
            depths.append(0)
        else:
            depths.append(deepest if unit.run < 0 else lengths[unit.run] + 1)
    found = np.empty(len(spec))
    found[spec.atoms.tensor] = np.asarray(depths, float)[spec.atoms.unit]
    return found
