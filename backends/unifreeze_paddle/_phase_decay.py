"""A phase's weight decay, for the time of one step of an optimizer.

AdamW and Lamb decay by a number that they, or each of their groups, hold. The others add it to the
gradient, where what a parameter says of itself comes first.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle.regularizer import L2Decay

from unifreeze.backend import Undo
from unifreeze_paddle import _optimizers as optimizers

_DECOUPLED = {
    paddle.optimizer.AdamW: ("_weight_decay", "weight_decay"),
    paddle.optimizer.Lamb: ("_lamb_weight_decay", "lamb_weight_decay"),
}


def set_decay(optimizer: Any, wanted: float) -> Undo:
    """Let an optimizer decay by so much, but for groups with a decay by plan and those with none.

    Returns:
        What puts its own back.
    """
    for cls, (attribute, key) in _DECOUPLED.items():
        if isinstance(optimizer, cls):
            return _set_number(optimizer, attribute, key, wanted)
    return _set_regularizers(optimizer, wanted)


def _set_number(optimizer: Any, attribute: str, key: str, wanted: float) -> Undo:
    rows = [row for row in optimizer._param_groups if isinstance(row, dict)]
    held = rows or [vars(optimizer)]
    name = key if rows else attribute
    own = getattr(optimizer, attribute)
    exempt = any(row.get(name, own) for row in held)
    kept = [
        (row, name in row, row.get(name))
        for row in held
        if not row.get(optimizers.OWN_DECAY) and (row.get(name, own) or not exempt)
    ]
    for row, *_ in kept:
        row[name] = wanted

    def undo() -> None:
        for row, was_there, value in kept:
            if was_there:
                row[name] = value
            else:
                del row[name]

    return undo


def _set_regularizers(optimizer: Any, wanted: float) -> Undo:
    rows = [row if isinstance(row, dict) else {"params": [row]} for row in optimizer._param_groups]
    tensors = [
        tensor
        for row in rows
        for tensor in row["params"]
        if tensor.regularizer is None and not row.get(optimizers.OWN_DECAY)
    ]
    for tensor in tensors:
        tensor.regularizer = L2Decay(wanted)

    def undo() -> None:
        for tensor in tensors:
            tensor.regularizer = None

    return undo
