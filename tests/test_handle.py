"""Plans in force in either framework: what removal leaves, what overlaps, what is not a plan."""

from __future__ import annotations

import pytest

import unifreeze as uf
from unifreeze._protocol import Finding
from unifreeze.errors import (
    ArgumentError,
    OptimizerError,
    PlanError,
    PlanFileError,
    TargetError,
    UnsupportedPlanError,
)


@pytest.mark.parametrize("end", ["remove", "another plan"])
def test_a_gradient_that_came_while_frozen_is_not_added_to_the_next(kit, end):
    """A loop may ask for gradients of frozen parameters, or Paddle accumulate what a hook left."""
    backend, model = kit.backend, kit.plain.make()
    tensors = backend.objects(model)
    path = "blocks.0.first.weight"
    handle = uf.freeze(model, f"{path} | head")
    found = backend.from_array(backend.to_array(tensors[path]), tensors[path])
    backend.set_gradient(tensors[path], found)
    if end == "remove":
        handle.remove()
    else:
        uf.freeze(model, "head")
    assert backend.read(model)[path]
    assert backend.get_gradient(tensors[path]) is None


def test_removal_keeps_the_gradients_of_what_was_trained(kit):
    backend, model = kit.backend, kit.plain.make()
    tensors = backend.objects(model)
    path = "blocks.0.first.weight"
    handle = uf.freeze(model, "head")
    backend.set_gradient(
        tensors[path], backend.from_array(backend.to_array(tensors[path]), tensors[path])
    )
    handle.remove()
    assert backend.get_gradient(tensors[path]) is not None


def test_a_plan_is_not_applied_to_a_model_that_is_frozen_for_a_while(kit):
    model = kit.plain.make()
    before = kit.backend.read(model)
    with uf.frozen(model), uf.frozen(model):
        with pytest.raises(PlanError, match="frozen for a while"):
            uf.freeze(model, "head")
        assert not any(kit.backend.read(model).values())
    assert kit.backend.read(model) == before
    uf.freeze(model, "head").remove()


def test_parity_refuses_what_apply_refuses(kit, monkeypatch):
    finding = Finding("blocks.0", "would not hold")
    monkeypatch.setattr(type(kit.backend), "check", lambda *_: [finding])
    model, plan = kit.plain.make(), uf.FreezePlan().freeze("head")
    for run in (
        lambda: plan.apply(model),
        lambda: uf.check_parity(plan, model, model, batch=kit.plain.batch),
    ):
        with pytest.raises(UnsupportedPlanError, match=r"blocks\.0: would not hold"):
            run()


def test_parity_refuses_phases(kit):
    plan = uf.FreezePlan.from_yaml("{unifreeze: 1, rules: [{only: head}], phases: [{name: a}]}")
    model = kit.plain.make()
    with pytest.raises(PlanError, match="only a plan without phases can be used here"):
        uf.check_parity(plan, model, model, batch=kit.plain.batch)


@pytest.mark.parametrize("plan", ["head.yaml", {"rules": []}, None])
def test_what_is_no_plan_is_refused(kit, plan):
    model = kit.plain.make()
    for run in (
        lambda: uf.apply(plan, model),
        lambda: uf.resolve(plan, model),
        lambda: uf.check_parity(plan, model, model, batch=kit.plain.batch),
    ):
        with pytest.raises(ArgumentError, match=r"should be a FreezePlan(.|\n)*FreezePlan"):
            run()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (object(), "a batch holds arrays of numbers"),
        ("abc", r"'abc' cannot be read[^\0]*a tokenizer"),
        ([None], "a batch holds arrays of numbers"),
    ],
)
def test_what_is_no_batch_is_refused(kit, batch, message):
    with pytest.raises(TargetError, match=message):
        uf.resolve(uf.FreezePlan().freeze("head"), kit.plain.make(), batch=batch)


def test_a_plan_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(PlanFileError, match="cannot be written"):
        uf.FreezePlan().freeze("head").save(tmp_path / "nowhere" / "plan.yaml")


def test_a_plan_that_trains_nothing_has_no_optimizer(nets):
    handle = uf.apply(uf.FreezePlan().freeze("all"), nets.Stack())
    with pytest.raises(OptimizerError, match="nothing to train"):
        handle.optimizer(nets.SGD, lr=0.1)
