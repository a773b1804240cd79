"""Freeze plans: the function from parameters to frozen or trainable, as a value and as a file."""

from unifreeze._plan.captured import Captured
from unifreeze._plan.model import FORMAT, FreezePlan
from unifreeze._plan.parts import Choice, Group, NormRule, Rule, describe_choice, pick
from unifreeze._plan.phase_check import phase_mistakes
from unifreeze._plan.phases import (
    After,
    At,
    Phase,
    PhaseEntry,
    PhaseSettings,
    Shape,
    Smallest,
    WarmUp,
    When,
    settings_of,
)
from unifreeze._plan.plan_file import save_text
from unifreeze._plan.refusals import check_plan, refuse_phases
