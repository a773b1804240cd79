"""What a captured plan came to is checked beside phases, too, and is never dropped in silence."""

import pytest

from tests.support.trees import linear, module, spec
from unifreeze._authoring.capture import capture_spec
from unifreeze._authoring.capture.plan_search import unfrozen
from unifreeze._plan import FreezePlan
from unifreeze._resolution import expand_plan, resolve_phases, resolve_spec
from unifreeze.errors import CapturedPlanError, PlanError

PHASE = "phases: [{name: a}, {name: b, at: {epoch: 1}, add: [{train: all}]}]\n"


DOWN = {"by": "blocks", "every": {"epochs": 1}}


def towers(*names, framework="torch"):
    branches = {n: module("M", up=linear(4, 6), down=linear(6, 4)) for n in names}
    return spec(module("M", **branches, last=linear(4, 2)), framework=framework)


@pytest.fixture
def one():
    return towers("a", "b")


@pytest.fixture
def captured(one):
    trainable = unfrozen(one).found.copy()
    for number, row in enumerate(one.parameters):
        trainable[number] = not row.path.startswith("a.")
    return capture_spec(one, trainable, title="x", training=None, checked=True).plan


def with_phase(plan):
    return plan.phase("a").phase("b", at={"epoch": 1}, add={"train": "all"})


@pytest.mark.parametrize("way", ["python", "file"])
def test_phases_are_added_to_what_was_captured_and_that_is_checked(way, captured, one):
    if way == "python":
        plan = with_phase(captured)
    else:
        plan = FreezePlan.from_yaml(captured.to_yaml() + PHASE)
    assert plan.captured == captured.captured
    assert len(resolve_phases(plan, one)) == len(plan.phases)
    other = towers("b", "a", framework="paddle")
    with pytest.raises(CapturedPlanError, match="equal branches"):
        resolve_phases(plan, other)


def test_an_equal_plan_that_was_not_captured_does_not_take_the_record_away(captured, one):
    phases = captured.phase("a").phase("b", at={"epoch": 1}, gradual_unfreezing=DOWN)
    bare = FreezePlan(phases.rules, phases=phases.phases)
    assert bare == phases
    assert expand_plan(bare, one).captured is None
    assert expand_plan(phases, one).captured == captured.captured


@pytest.mark.parametrize("key", ["rules", "add"])
def test_a_captured_plan_is_not_taken_for_rules_of_a_phase(key, captured):
    base = FreezePlan().phase("first", rules={"freeze": "all"})
    with pytest.raises(PlanError, match=f"{key} of a phase is a captured plan") as error:
        base.phase("then", at={"epoch": 1}, **{key: captured})
    assert "FreezePlan(captured.rules)" in error.value.hint
    said = base.phase("then", at={"epoch": 1}, **{key: FreezePlan(captured.rules)})
    assert said.captured is None


def test_one_more_rule_drops_what_was_captured_and_other_policies_keep_it(captured, one):
    assert captured.train("last").captured is None
    kept = captured.with_dropout("off").with_moments("clear").with_group("all", lr_scale=0.1)
    assert kept.captured == captured.captured
    moved = captured.with_norm_stats("update")
    assert moved.captured is not None
    assert moved.captured.held == {}
    other = towers("b", "a", framework="paddle")
    resolve_spec(moved, one)
    with pytest.raises(CapturedPlanError):
        resolve_spec(moved, other)
    assert captured.with_norm_stats([{"hold": "all"}]).captured is None


def test_the_plan_of_one_phase_has_no_record(captured):
    plan = with_phase(captured)
    assert [one.captured for one in plan.in_phases()] == [None, None]
