"""Which of PaddlePaddle's quantisers change their ranges in inference mode, too."""

from __future__ import annotations

from paddle import nn
from paddle.nn.quant.lsq import FakeQuantActLSQPlus, FakeQuantWeightLSQPlus
from paddle.nn.quant.quant_layers import FakeQuantAbsMax, FakeQuantChannelWiseAbsMax

from unifreeze.errors import counted

_DERIVING = (FakeQuantAbsMax, FakeQuantChannelWiseAbsMax)
"""Quantisers that store the range of their input, in any mode, and never read it."""
MEASURING = (FakeQuantActLSQPlus, FakeQuantWeightLSQPlus)
"""Quantisers that first measure, in any mode and for some batches, the range that they learn."""
_BEGINNINGS = ((1.0, 1.0), (0.0, 0.0))
"""Counts and sums of moving averages before the first batch."""


def derives(layer: nn.Layer) -> bool:
    """Return whether a quantiser stores what follows from its input and changes no output."""
    return isinstance(layer, _DERIVING)


def averages(leaf: str) -> bool:
    """Return whether a tensor's name is that of the count that moving averages keep."""
    return leaf == "_state"


def reason_against_holding(layer: nn.Layer, *, held: bool, frozen: bool) -> tuple[str, str] | None:
    """Return why a frozen quantiser would move, or be of no use, and the cure; None if neither.

    Args:
        layer: The quantiser.
        held: The plan holds its state.
        frozen: The plan freezes one of its own parameters.
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


def _has_seen_nothing(layer: nn.Layer) -> bool:
    state, accum = (layer._parameters.get(name) for name in ("_state", "_accum"))
    if state is None or accum is None or not (state._is_initialized() and accum._is_initialized()):
        return False
    return (float(state.item()), float(accum.item())) in _BEGINNINGS
