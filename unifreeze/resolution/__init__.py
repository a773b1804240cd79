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
from unifreeze.resolution.grounds import Grounds
from unifreeze.resolution.order import (
    ORDER_CURES,
    Places,
    check_order,
    never_ran,
    rests_on_order,
    used_owners,
)
from unifreeze.resolution.value import Resolution, RuleEffect

__all__ = [
    "LIKE_ORDER",
    "ORDER_CURES",
    "Grounds",
    "Places",
    "Resolution",
    "RuleEffect",
    "check_order",
    "describe_captured",
    "expand_plan",
    "never_ran",
    "out_of_order",
    "resolve_phases",
    "resolve_spec",
    "rests_on_order",
    "select",
    "settle",
    "told_by_order",
    "train_everything",
    "used_owners",
]
