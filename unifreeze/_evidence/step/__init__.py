"""Stepping: the evidence that one training step, on one set of weights, is the same on both."""

from unifreeze._evidence.step.apart import on_sketched_values
from unifreeze._evidence.step.check import check_step
from unifreeze._evidence.step.compare import compare_sides
from unifreeze._evidence.step.report import StepClause, StepReport
from unifreeze._evidence.step.side import StepSide, make_side
from unifreeze._ports.pairing.layer_settings import LayerRow, SettingDifference, compare_settings

__all__ = [
    "LayerRow",
    "SettingDifference",
    "StepClause",
    "StepReport",
    "StepSide",
    "check_step",
    "compare_settings",
    "compare_sides",
    "make_side",
    "on_sketched_values",
]
