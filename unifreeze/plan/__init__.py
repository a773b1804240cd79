"""Freeze plans: the function from parameters to frozen or trainable, as a value and as a file."""

from unifreeze.plan.captured import Captured
from unifreeze.plan.files import save_text
from unifreeze.plan.generators import Shape
from unifreeze.plan.model import FORMAT, FreezePlan
from unifreeze.plan.parts import Choice, Group, NormRule, Rule, describe_choice, pick
from unifreeze.plan.phase_check import phase_mistakes
from unifreeze.plan.phases import (
    After,
    At,
    Entry,
    Phase,
    Settings,
    Smallest,
    WarmUp,
    When,
    settings_of,
)
from unifreeze.plan.refusals import check_plan, refuse_phases

__all__ = [
    "FORMAT",
    "After",
    "At",
    "Captured",
    "Choice",
    "Entry",
    "FreezePlan",
    "Group",
    "NormRule",
    "Phase",
    "Rule",
    "Settings",
    "Shape",
    "Smallest",
    "WarmUp",
    "When",
    "check_plan",
    "describe_choice",
    "phase_mistakes",
    "pick",
    "refuse_phases",
    "save_text",
    "settings_of",
]
