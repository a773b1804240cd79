"""Optimizers under phases: their moments, and their states saved and loaded by parameter names."""

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.phased_runs import HEAD, WARM, load, plan, saved, started
from tests.support.sides import ROWS, SIDES, Paddle, Torch, close, named, values
from unifreeze.errors import OptimizerError, ScheduleError


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


def adamw(side, handle, **settings):
    return handle.optimizer(side.optimizers.AdamW, weight_decay=0.0, **settings)


GROUPS = "groups: [{match: head, lr_scale: 2}, {match: norm, weight_decay: 0}]"


# Moments.


@pytest.mark.parametrize(("policy", "first"), [("keep", False), ("clear", True)])
def test_moments_of_what_is_frozen_are_kept_or_cleared(side, policy, first):
    text = plan(
        "{name: all, rules: [{train: all}], lr: 0.01}",
        "{name: head, at: {step: 3}, rules: [{only: head}]}",
        "{name: again, at: {step: 5}, like: all}",
        more=f"moments: {policy}",
    )
    model = side.build()
    handle = text.apply(model, batch=ROWS)
    optimizer = adamw(side, handle)
    for step in range(6):
        handle.step(step=step)
        before = values(model)
        gradients = side.train(model, optimizer)
    after = values(model)
    head = set(handle.plan.in_phase(1).resolve(model, batch=ROWS).trainable_paths)
    for name, gradient in gradients.items():
        moved = before[name] - after[name]
        # Adam's first step from nothing is the rate times the gradient's sign.
        clear = np.abs(gradient) > 1e-4
        sign_like = np.allclose(moved[clear], 0.01 * np.sign(gradient[clear]), rtol=0.02)
        if clear.sum() > 5:
            assert sign_like == (first and name not in head), name


# Optimizers' states by name.


def test_a_saved_state_finds_its_parameters_by_name(side):
    """Under one plan the optimizer has one group, under the other three, in another order."""
    one = uf.FreezePlan().only("head | blocks[-1]")
    other = one.with_group("head", lr_scale=2.0).with_group("norm", lr_scale=0.5)
    model = side.build()
    handle = one.apply(model, batch=ROWS)
    optimizer = adamw(side, handle, lr=0.01)
    side.train(model, optimizer)
    weights, state = values(model), saved(side, optimizer)
    moments = first_moments(side, model, optimizer)

    again = side.build()
    for name, tensor in named(again):
        side.assign(tensor, weights[name])
    regrouped = adamw(side, other.apply(again, batch=ROWS), lr=0.01)
    load(side, regrouped, state)
    found = first_moments(side, again, regrouped)
    assert found.keys() == moments.keys()
    assert len(found) == 8
    for name, moment in moments.items():
        assert np.array_equal(found[name], moment), name
    if side is Torch:  # in Paddle a group's scale is no part of the state
        assert [group["lr"] for group in regrouped.param_groups] == [0.01, 0.005, 0.02]
    side.train(again, regrouped)


def test_a_saved_state_brings_the_rate_that_a_scheduler_had_made():
    plan = uf.FreezePlan().only("head | blocks[-1]").with_group("head", lr_scale=2.0)
    optimizer = adamw(Torch, plan.apply(Torch.build(), batch=ROWS), lr=0.01)
    scheduler = Torch.scheduler(optimizer)
    optimizer.step()
    scheduler.step()
    again = adamw(Torch, plan.apply(Torch.build(), batch=ROWS), lr=0.01)
    load(Torch, again, saved(Torch, optimizer))
    assert [group["lr"] for group in again.param_groups] == [0.005, 0.01]


def first_moments(side, model, optimizer):
    if side is Torch:
        return {
            name: optimizer.state[tensor]["exp_avg"].numpy().copy()
            for name, tensor in named(model)
            if "exp_avg" in optimizer.state.get(tensor, {})
        }
    held = optimizer._accumulators["moment1"]
    return {n: held[t.name].numpy().copy() for n, t in named(model) if t.name in held}


def test_a_tied_parameter_goes_by_its_first_name_and_one_outside_the_model_by_its_place(side):
    model = side.build()
    if side is Torch:
        model.again = model.fc
        more = torch.nn.Parameter(torch.ones(3))
    else:
        model.again = model.out
        more = paddle.create_parameter([3], "float32")
    handle = plan(HEAD, WARM.partition(", warmup")[0] + "}").apply(model)
    optimizer = side.optimizers.SGD(
        **{
            "lr" if side is Torch else "learning_rate": 0.1,
            "params" if side is Torch else "parameters": [*model.parameters(), more],
        }
    )
    handle.attach(optimizer)
    state = saved(side, optimizer)
    names = (
        state["param_groups"][0]["param_names"]
        if side is Torch
        else state["unifreeze_names"]["parameters"]
    )
    assert {row.path for row in handle.resolution.spec.parameters} <= set(names)
    assert [name.split()[0] for name in names if " " in name][-1] == "parameter"
    load(side, optimizer, state)


def test_a_state_of_other_parameters_is_refused_by_name(side):
    """As many parameters of the same shapes: by position this would load without a word."""
    saved_under = uf.FreezePlan().only("blocks[0] & norm")
    loaded_under = uf.FreezePlan().only("blocks[1] & norm")
    model = side.build()
    optimizer = adamw(side, saved_under.apply(model, batch=ROWS), lr=0.01)
    side.train(model, optimizer)
    state = saved(side, optimizer)
    again = side.build()
    handle = loaded_under.apply(again, batch=ROWS)
    with pytest.raises(OptimizerError, match="of other parameters: it lacks"):
        load(side, adamw(side, handle, lr=0.01), state)


def test_a_state_without_names_loads_as_the_framework_does_it(side):
    model = side.build()
    optimizer = adamw(side, uf.FreezePlan().only("head").apply(model, batch=ROWS), lr=0.01)
    side.train(model, optimizer)
    state = saved(side, optimizer)
    if side is Torch:
        for group in state["param_groups"]:
            del group["param_names"]
    else:
        del state["unifreeze_names"]
    before = first_moments(side, model, optimizer)
    side.train(model, optimizer)
    load(side, optimizer, state)
    for name, moment in first_moments(side, model, optimizer).items():
        close(moment, before[name])


def test_paddle_s_own_names_that_match_nothing_are_told():
    text = plan(HEAD, WARM)
    model, _, optimizer = started(Paddle, text)
    optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters())
    Paddle.train(model, optimizer)
    state = optimizer.state_dict()
    again = Paddle.build()  # in the same process, so that its layers are numbered on
    handle = text.apply(again, batch=ROWS)
    its_optimizer = paddle.optimizer.AdamW(0.1, parameters=again.parameters())
    its_optimizer.set_state_dict(state)
    handle.attach(its_optimizer)
    handle.step(step=0)
    with pytest.raises(OptimizerError, match="of other parameters, or names them otherwise"):
        Paddle.train(again, its_optimizer)


def test_a_state_loaded_before_the_optimizer_is_attached_counts():
    text = plan(HEAD, WARM)
    model = Paddle.build()
    handle = text.apply(model, batch=ROWS)
    optimizer = adamw(Paddle, handle)
    handle.step(step=0)
    Paddle.train(model, optimizer)
    state, moments = saved(Paddle, optimizer), first_moments(Paddle, model, optimizer)
    again = Paddle.build()
    handle = text.apply(again, batch=ROWS)
    its_optimizer = paddle.optimizer.AdamW(0.1, parameters=again.parameters())
    its_optimizer.set_state_dict(state)
    with pytest.raises(OptimizerError, match="of other parameters"):
        handle.attach(its_optimizer)  # it holds all, and the state is of what any phase trains
    handle.remove()
    again = Paddle.build()
    handle = text.apply(again, batch=ROWS)
    paths = [path for group in handle.groups() for path in group.paths]
    own = dict(named(again))
    its_optimizer = paddle.optimizer.AdamW(0.1, parameters=[own[path] for path in paths])
    its_optimizer.set_state_dict(state)
    handle.attach(its_optimizer)
    found = first_moments(Paddle, again, its_optimizer)
    assert found.keys() == moments.keys()
    assert all(np.array_equal(found[name], moments[name]) for name in moments)


def test_an_optimizer_without_the_plan_s_groups_is_refused(side):
    text = plan(HEAD, WARM.replace(", warmup: {steps: 4, divisor: 5}", ""), more=GROUPS)
    model = side.build()
    handle = text.apply(model, batch=ROWS)
    cls = side.optimizers.AdamW
    made = [tensor for _, tensor in named(model)]
    own = cls(made, lr=0.1) if side is Torch else cls(0.1, parameters=made)
    with pytest.raises(OptimizerError, match="was built without these groups"):
        handle.attach(own)
    with pytest.raises(OptimizerError, match="was built without these groups"):
        handle.check_optimizer(own)
    rows = handle.param_groups(lr=0.1)
    handle.attach(cls(rows) if side is Torch else cls(0.1, parameters=rows))
    handle.check_optimizer(adamw(side, handle))


def test_would_stop_looks_ahead_and_changes_nothing(side):
    _, handle, _ = started(side, plan(HEAD, "{name: end, at: {step: 3}, stop: true}"))
    handle.step(step=0)
    before = handle.state_dict()
    assert [handle.would_stop(step=step) for step in (1, 2, 3, 4)] == [False, False, True, True]
    assert handle.state_dict() == before
    with pytest.raises(ScheduleError, match="needs the epoch or the step"):
        handle.would_stop()
