"""Optimizer settings per parameter, from a plan's groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unifreeze._plan import FreezePlan, pick
from unifreeze._resolution.select_parameters import select
from unifreeze._structure import Mask, ModelSpec, Zone
from unifreeze.errors import SelectorScopeError

Floats = NDArray[np.float64]


def group_settings(plan: FreezePlan, spec: ModelSpec) -> tuple[Floats, Floats]:
    """Return, for each parameter, the factor on its learning rate and its weight decay.

    The last match wins, for each setting by itself. Weight decay is NaN where no group sets it.
    With layer decay d, a parameter k blocks below the head has factor d^k, as in timm: 1 for the
    head and all after the last block, d for the last block, the smallest factor for the stem.
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
        scale *= layer_decay ** _blocks_below_head(spec, layer_decay != 1)
    return scale, decay


def _blocks_below_head(spec: ModelSpec, wanted: Mask) -> Floats:
    """Count, for each parameter, the blocks from its own to the head.

    A tied parameter counts by its first name, as its canonical name does.
    """
    at, tree = spec.placement, spec.tree
    owners = [tree.owners[name] for name in spec.first_names]
    units = [at.units[at.unit_of[owner]] for owner in owners]
    if any(units[number].zone is Zone.NET for number in np.flatnonzero(wanted)) or not spec.runs:
        raise SelectorScopeError(
            "layer_decay needs repeated units, and this model has none",
            hint="give lr_scale to parts of it instead",
        )
    lengths = [len(run.blocks) for run in spec.runs]
    after = _blocks_after(spec, lengths)
    deepest = max(length + more for length, more in zip(lengths, after, strict=True)) + 1
    depths = np.zeros(len(spec))
    for number, (owner, unit) in enumerate(zip(owners, units, strict=True)):
        if unit.zone in (Zone.BLOCK, Zone.TRANSITION):
            depths[number] = lengths[unit.run] - unit.block + after[unit.run]
        elif unit.zone is Zone.NECK:
            towers = zip(at.towers, after, strict=True)
            depths[number] = max((n for t, n in towers if t <= owner < tree.ends[t]), default=0)
        elif unit.zone is not Zone.HEAD:
            depths[number] = deepest if unit.run < 0 else lengths[unit.run] + after[unit.run] + 1
    return depths


def _blocks_after(spec: ModelSpec, lengths: list[int]) -> list[int]:
    """Count, for each run of blocks, the blocks after it: after an encoder, its decoder's."""
    labels = spec.placement.labels
    partners = [
        f"{label.removesuffix('encoder')}decoder" if label.endswith("encoder") else ""
        for label in labels
    ]
    return [lengths[labels.index(label)] if label in labels else 0 for label in partners]
