"""Plan and model description → for every parameter the decision, and the rule that made it."""

from unifreeze.resolution.decide import resolve_phases, resolve_spec, select, settle
from unifreeze.resolution.expand import expand_plan
from unifreeze.resolution.value import Resolution, RuleEffect

__all__ = [
    "Resolution",
    "RuleEffect",
    "expand_plan",
    "resolve_phases",
    "resolve_spec",
    "select",
    "settle",
]
