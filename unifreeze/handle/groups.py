"""Param groups: parameters that share an optimizer's settings, the same in every phase."""

from __future__ import annotations

import numpy as np

from unifreeze.backend import ParamGroup
from unifreeze.resolution import Resolution

Classes = list[tuple[str, ...]]


def param_groups(resolution: Resolution, warmed: Classes | None = None) -> tuple[ParamGroup, ...]:
    """Group a resolution's trainable parameters by their optimizer settings.

    Args:
        resolution: What trains.
        warmed: For each parameter, the phases that unfreeze it with a warm-up of its rate; those
            that do not share them are kept apart.
    """
    spec = resolution.spec
    members: dict[tuple[float, float | None, tuple[str, ...]], list[str]] = {}
    for number in spec.canonical_order:
        if resolution.trainable[number]:
            decay = float(resolution.weight_decay[number])
            key = (
                float(resolution.lr_scale[number]),
                None if np.isnan(decay) else decay,
                warmed[number] if warmed else (),
            )
            path = spec.tree.names[spec.first_names[number]]
            members.setdefault(key, []).append(path)
    return tuple(
        ParamGroup(_name(*key), tuple(paths), key[0], key[1]) for key, paths in members.items()
    )


def _name(lr_scale: float, weight_decay: float | None, warmed: tuple[str, ...]) -> str:
    decay = "" if weight_decay is None else f", weight decay {weight_decay:g}"
    phases = f", warmed up in {', '.join(warmed)}" if warmed else ""
    return f"lr x {lr_scale:g}{decay}{phases}"
