"""Stepping: the evidence that one training step, on one set of weights, is the same on both."""

from unifreeze.pairing.settings import LayerRow, SettingDifference, compare_settings
from unifreeze.stepping.apart import on_sketched_values
from unifreeze.stepping.check import check_step
from unifreeze.stepping.compare import compare_sides
from unifreeze.stepping.report import StepClause, StepReport
from unifreeze.stepping.side import StepSide, make_side

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
