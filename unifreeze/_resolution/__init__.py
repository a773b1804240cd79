"""Plan and model description → for every parameter the decision, and the rule that made it."""

from unifreeze._resolution.check_captured import (
    LIKE_ORDER,
    describe_captured,
    out_of_order,
    told_by_order,
)
from unifreeze._resolution.check_order import (
    ORDER_CURES,
    Places,
    check_order,
    never_ran,
    rests_on_order,
    used_owners,
)
from unifreeze._resolution.corrected_structure import corrected
from unifreeze._resolution.decide import (
    resolve_phases,
    resolve_spec,
    settle,
    train_everything,
)
from unifreeze._resolution.expand_generators import expand_plan
from unifreeze._resolution.held_by import Grounds
from unifreeze._resolution.resolution import Resolution, RuleEffect
from unifreeze._resolution.select_parameters import select
from unifreeze._resolution.table_rows import TrainedRows
