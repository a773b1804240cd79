"""What `verify` says of a model that was loaded into, or written to, in both frameworks."""

from __future__ import annotations

import copy

import pytest

from tests.support.drifts import drifts
from unifreeze import FreezePlan

LOAD = {"torch": "load_state_dict", "paddle": "set_state_dict"}
PLANS = [FreezePlan().freeze("stem"), FreezePlan().only("head")]


@pytest.mark.parametrize("plan", PLANS, ids=["stem", "only head"])
def test_loading_the_very_same_values_is_no_drift(plan, framework, nets):
    model = nets.Stack()
    handle = plan.apply(model)
    getattr(model, LOAD[framework])(copy.deepcopy(model).state_dict())
    handle.verify()


@pytest.mark.parametrize("plan", PLANS, ids=["stem", "only head"])
def test_rebase_accepts_the_values_of_now(plan, nets):
    model = nets.Stack()
    handle = plan.apply(model)
    nets.add(model.stem.weight)
    assert drifts(handle) == {"stem.weight": "moved"}
    handle.rebase()
    handle.verify()
    nets.add(model.stem.weight)
    assert drifts(handle) == {"stem.weight": "moved"}
