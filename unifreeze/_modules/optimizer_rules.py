"""Rules for the optimizers of every framework: which are refused, and whose decay a phase sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from unifreeze.errors import OptimizerError

OWN_DECAY = "weight_decay_by_plan"
"""Key in a param group that has its weight decay from the plan's groups."""


def refuse_lbfgs(cls: type, lbfgs: type) -> None:
    """Refuse an optimizer that computes one direction over all parameters.

    Raises:
        OptimizerError: The class is `lbfgs`, or derived from it.
    """
    if issubclass(cls, lbfgs):
        raise OptimizerError(
            "LBFGS keeps one direction over all parameters and moves frozen ones",
            hint="use a first-order optimizer",
        )


def takes_phase_decay(
    groups: Iterable[Mapping[str, Any]], key: str, default: float | None = None
) -> list[bool]:
    """Return for each param group whether a phase sets its weight decay.

    It does not where the plan's groups say what the decay is, nor in a group without decay beside
    others with one: biases and norms are left out of it on purpose.

    Args:
        groups: The optimizer's param groups.
        key: Key of the weight decay in a group.
        default: Weight decay of groups that lack the key; None if such a group has none to set.
    """
    rows = list(groups)
    some_decay = any(row.get(key, default) for row in rows)
    return [
        (key in row or default is not None)
        and not row.get(OWN_DECAY)
        and (bool(row.get(key, default)) or not some_decay)
        for row in rows
    ]
