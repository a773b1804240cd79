"""What PaddlePaddle's quantisers and observers do to their ranges, whatever mode they are in."""

from __future__ import annotations

from typing import Any

from paddle.nn.quant.lsq import FakeQuantActLSQPlus, FakeQuantWeightLSQPlus
from paddle.nn.quant.quant_layers import FakeQuantAbsMax, FakeQuantChannelWiseAbsMax

from unifreeze.errors import counted

_DERIVING = (FakeQuantAbsMax, FakeQuantChannelWiseAbsMax)
"""Quantisers that write down the range of what they are given, in any mode, and never read it."""
MEASURING = (FakeQuantActLSQPlus, FakeQuantWeightLSQPlus)
"""Quantisers that measure the range that they learn in their first batches, in any mode."""
_BEGINNINGS = ((1.0, 1.0), (0.0, 0.0))
"""Sums and counts of averages that have taken in nothing, as the quantisers begin with."""


def derives(layer: Any) -> bool:
    """Tell whether what a quantiser keeps follows from what it is given, and changes nothing."""
    return isinstance(layer, _DERIVING)


def averages(leaf: str) -> bool:
    """Tell whether a tensor's name is that of the count that moving averages keep."""
    return leaf == "_state"


def reason_against_holding(layer: Any, *, held: bool, frozen: bool) -> tuple[str, str] | None:
    """Say why a quantiser would not hold still, or would compute nothing of use; and the cure.

    Args:
        layer: The quantiser.
        held: The plan holds its state.
        frozen: The plan freezes a parameter of its own.
    """
    if isinstance(layer, MEASURING):
        left = layer.batch_init - layer.init_state
        if (held or frozen) and left > 0:
            return (
                f"it goes on measuring its range in its next {counted(left, 'batch')}, in any mode",
                f"run {counted(left, 'batch')} before freezing",
            )
    elif held and _has_seen_nothing(layer):
        return (
            "its range has observed nothing yet, so that it would quantise to nothing",
            "run a few batches in training mode before freezing",
        )
    return None


def _has_seen_nothing(layer: Any) -> bool:
    state, accum = (layer._parameters.get(name) for name in ("_state", "_accum"))
    if state is None or accum is None or not (state._is_initialized() and accum._is_initialized()):
        return False
    return (float(state.item()), float(accum.item())) in _BEGINNINGS
