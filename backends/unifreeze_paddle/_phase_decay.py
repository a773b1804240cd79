"""Giving a Paddle optimizer the weight decay of a phase, for the time of one step.

AdamW and Lamb decay by a number that they, or each of their groups, hold. The others add the decay
to the gradient, where a parameter's own regulariser comes first.
"""

from __future__ import annotations

from itertools import compress

import paddle
from paddle.optimizer import Optimizer
from paddle.regularizer import L2Decay

from unifreeze.backend import OWN_DECAY, Undo, takes_phase_decay

_DECOUPLED = {
    paddle.optimizer.AdamW: ("_weight_decay", "weight_decay"),
    paddle.optimizer.Lamb: ("_lamb_weight_decay", "lamb_weight_decay"),
}


def set_decay(optimizer: Optimizer, wanted: float) -> Undo:
    """Set an optimizer's weight decay, but not of groups with one by plan or with none on purpose.

    Returns:
        The function that puts the optimizer's own decay back.
    """
    for cls, (attribute, key) in _DECOUPLED.items():
        if isinstance(optimizer, cls):
            return _set_number(optimizer, attribute, key, wanted)
    return _set_regularizers(optimizer, wanted)


def _set_number(optimizer: Optimizer, attribute: str, key: str, wanted: float) -> Undo:
    groups = [row for row in optimizer._param_groups if isinstance(row, dict)]
    rows, name = (groups, key) if groups else ([vars(optimizer)], attribute)
    takes = takes_phase_decay(rows, name, getattr(optimizer, attribute))
    kept = [(row, name in row, row.get(name)) for row in compress(rows, takes)]
    for row, *_ in kept:
        row[name] = wanted

    def undo() -> None:
        for row, was_there, value in kept:
            if was_there:
                row[name] = value
            else:
                del row[name]

    return undo


def _set_regularizers(optimizer: Optimizer, wanted: float) -> Undo:
    rows = [row if isinstance(row, dict) else {"params": [row]} for row in optimizer._param_groups]
    tensors = [
        tensor
        for row in rows
        for tensor in row["params"]
        if tensor.regularizer is None and not row.get(OWN_DECAY)
    ]
    for tensor in tensors:
        tensor.regularizer = L2Decay(wanted)

    def undo() -> None:
        for tensor in tensors:
            tensor.regularizer = None

    return undo
