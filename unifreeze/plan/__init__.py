"""Freeze plans: the function from parameters to frozen or trainable, as a value and as a file."""

from unifreeze.plan.model import (
    FORMAT,
    Choice,
    FreezePlan,
    Group,
    NormRule,
    Rule,
    check_plan,
    describe_choice,
    pick,
    refuse_phases,
)

__all__ = [
    "FORMAT",
    "Choice",
    "FreezePlan",
    "Group",
    "NormRule",
    "Rule",
    "check_plan",
    "describe_choice",
    "pick",
    "refuse_phases",
]
