"""Plan and model description → for every parameter the decision, and the rule that made it."""

from unifreeze.resolution.captured import describe_captured, out_of_order, told_by_order
from unifreeze.resolution.decide import resolve_phases, resolve_spec, select, settle
from unifreeze.resolution.expand import expand_plan
from unifreeze.resolution.value import Resolution, RuleEffect

__all__ = [
    "Resolution",
    "RuleEffect",
    "describe_captured",
    "expand_plan",
    "out_of_order",
    "resolve_phases",
    "resolve_spec",
    "select",
    "settle",
    "told_by_order",
]
