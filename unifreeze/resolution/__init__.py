"""Plan and model description → for every parameter the decision, and the rule that made it."""

from unifreeze.resolution.captured import (
    LIKE_ORDER,
    describe_captured,
    out_of_order,
    told_by_order,
)
from unifreeze.resolution.decide import (
    resolve_phases,
    resolve_spec,
    select,
    settle,
    train_everything,
)
from unifreeze.resolution.expand import expand_plan
from unifreeze.resolution.order import check_order, rests_on_order
from unifreeze.resolution.value import Resolution, RuleEffect

__all__ = [
    "LIKE_ORDER",
    "Resolution",
    "RuleEffect",
    "check_order",
    "describe_captured",
    "expand_plan",
    "out_of_order",
    "resolve_phases",
    "resolve_spec",
    "rests_on_order",
    "select",
    "settle",
    "told_by_order",
    "train_everything",
]
