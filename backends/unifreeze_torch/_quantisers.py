"""Which of PyTorch's quantisers and observers change their ranges in inference mode, too.

Their classes are known by name, along a module's bases, so that none need be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

_LOOKING = (
    "torch.ao.quantization.observer.ObserverBase",
    "torch.ao.quantization.observer.AffineQuantizedObserverBase",
    "torch.ao.quantization.fx._equalize._InputEqualizationObserver",
    "torch.ao.quantization.fx._equalize._WeightEqualizationObserver",
    "torch.ao.quantization.fx._model_report.model_report_observer.ModelReportObserver",
)
"""Observers return their input, and look at it in any mode."""
_FIXED = "torch.ao.quantization.fake_quantize.FixedQParamsFakeQuantize"
"""Has an observer and never uses it."""

SWITCHES = ("static_enabled", "observer_enabled")
"""Buffers of quantisers that say whether their observer moves their range; the first counts."""


def only_looks(bases: Sequence[str]) -> bool:
    """Return whether a module is an observer: its state does not change what it computes."""
    return any(name in _LOOKING for name in bases)


def reason_against_holding(module: nn.Module, bases: Sequence[str]) -> tuple[str, str] | None:
    """Return why a frozen quantiser would move, or be of no use, and the cure; None if neither."""
    if _FIXED in bases:
        return None
    switch = next((name for name in SWITCHES if name in module._buffers), "")
    if not switch:
        return None
    if _is_on(module, switch):
        return (
            "its observer moves the quantiser's range in any mode",
            "call its disable_observer() before freezing; of a learnable quantiser, "
            "enable_param_learning()",
        )
    observer = module._modules.get("activation_post_process")
    if switch == SWITCHES[0] or observer is None or not _is_on(module, "fake_quant_enabled"):
        return None  # a learnt range may have been set by hand; some quantisers are switched off
    if not _has_seen_nothing(observer):
        return None
    return (
        "its range has observed nothing yet, so that its output would be of no use",
        "run a few batches in training mode with its observer enabled, then disable that",
    )


def _is_on(module: nn.Module, switch: str) -> bool:
    value = module._buffers.get(switch)
    return value is not None and bool(value.any())


def _has_seen_nothing(observer: nn.Module) -> bool:
    """Return whether an observer still has the bounds that it starts with."""
    low = observer._buffers.get("min_val")
    return low is not None and (not low.numel() or bool(low.isinf().all()))
