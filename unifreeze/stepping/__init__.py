"""Stepping: the evidence that one training step, on one set of weights, is the same on both."""

from unifreeze.stepping.apart import on_sketched_values
from unifreeze.stepping.check import check_step
from unifreeze.stepping.compare import compare_sides
from unifreeze.stepping.report import StepClause, StepReport
from unifreeze.stepping.settings import SettingDifference, compare_settings, layer_settings
from unifreeze.stepping.side import StepSide, make_side

__all__ = [
    "SettingDifference",
    "StepClause",
    "StepReport",
    "StepSide",
    "check_step",
    "compare_settings",
    "compare_sides",
    "layer_settings",
    "make_side",
    "on_sketched_values",
]
