"""Runs under phases: warm-ups, best values, moments, what was trained, states by name."""

import io
import json

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.pairs import small
from tests.support.rounding import SINGLE_PART
from tests.support.sides import ROWS, SIDES, Paddle, Torch, check_step, close, named, values
from unifreeze.errors import ArgumentError, OptimizerError, ScheduleError, WeightFileError

HEAD = "{name: head, rules: [{only: head}], lr: 0.1}"


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


def plan(*phases, more=""):
    rows = "".join(f"\n  - {phase}" for phase in phases)
    return uf.FreezePlan.from_yaml(f"unifreeze: 1\n{more}\nphases:{rows}\n")


def started(side, text, **settings):
    model = side.build()
    handle = text.apply(model, batch=ROWS)
    return model, handle, side.sgd(handle, **settings)


def adamw(side, handle, **settings):
    return handle.optimizer(side.optimizers.AdamW, weight_decay=0.0, **settings)


def saved(side, thing):
    """Return a state as it comes back from a file."""
    buffer = io.BytesIO()
    if side is Torch:
        torch.save(thing.state_dict(), buffer)
        return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    paddle.save(thing.state_dict(), buffer)
    return paddle.load(io.BytesIO(buffer.getvalue()))


def load(side, thing, state):
    (thing.load_state_dict if side is Torch else thing.set_state_dict)(state)


GROUPS = "groups: [{match: head, lr_scale: 2}, {match: norm, weight_decay: 0}]"

# Warming up what has just been unfrozen.

WARM = '{name: top, at: {step: 2}, add: [{train: "blocks[-1]"}], warmup: {steps: 4, divisor: 5}}'


def factors(side, model, optimizer, rate):
    """Train a step; return what the rate of each parameter was multiplied by."""
    before = values(model)
    gradients = side.train(model, optimizer)
    after = values(model)
    found = {}
    for name, gradient in gradients.items():
        largest = np.unravel_index(np.argmax(np.abs(gradient)), gradient.shape)
        found[name] = float((before[name] - after[name])[largest] / gradient[largest] / rate)
    return found


@pytest.mark.parametrize("groups", ["", "groups: [{match: norm, lr_scale: 0.5}]"])
def test_what_is_unfrozen_begins_at_a_share_of_the_rate(side, groups):
    model, handle, optimizer = started(side, plan(HEAD, WARM, more=groups))
    norms = {row.path for row in handle.resolution.spec.parameters if row.kind == "norm"}
    rows = []
    for step in range(8):
        handle.step(step=step)
        rows.append(factors(side, model, optimizer, 0.1))
    head = rows[0].keys()
    for step, row in enumerate(rows):
        warm = 1.0 if step >= 6 else (1 + 4 * (step - 2) / 4) / 5
        for name, factor in row.items():
            wanted = (1.0 if name in head else warm) * (0.5 if groups and name in norms else 1.0)
            assert factor == pytest.approx(wanted, rel=SINGLE_PART), (step, name)
    assert len(rows[2]) == 8
    assert len(head) == 2


def test_without_a_divisor_the_rate_rises_from_one_step_s_share(side):
    model, handle, optimizer = started(side, plan(HEAD, WARM.replace(", divisor: 5", "")))
    handle.step(step=0)
    head = factors(side, model, optimizer, 0.1).keys()
    for step, wanted in [(2, 0.25), (3, 0.5), (4, 0.75), (5, 1.0), (6, 1.0)]:
        handle.step(step=step)
        found = factors(side, model, optimizer, 0.1)
        assert all(found[name] == pytest.approx(1, rel=SINGLE_PART) for name in head)
        new = [factor for name, factor in found.items() if name not in head]
        assert new == pytest.approx([wanted] * 6, rel=SINGLE_PART)


def test_a_warm_up_goes_on_after_a_resume(side):
    text = plan(HEAD, WARM)
    model, handle, optimizer = started(side, text)
    for step in range(4):
        handle.step(step=step)
        side.train(model, optimizer)
    state, weights = json.loads(json.dumps(handle.state_dict())), values(model)
    optimizer_state = saved(side, optimizer)

    again = side.build()
    for name, tensor in named(again):
        side.assign(tensor, weights[name])
    resumed = text.apply(again, batch=ROWS)
    resumed.load_state_dict(state)
    its_optimizer = side.sgd(resumed)
    load(side, its_optimizer, optimizer_state)
    for handle_, model_, optimizer_ in (
        (handle, model, optimizer),
        (resumed, again, its_optimizer),
    ):
        handle_.step(step=4)
        found = factors(side, model_, optimizer_, 0.1)
        assert sorted(round(factor, 2) for factor in found.values()) == [0.6] * 6 + [1.0] * 2


def test_an_optimizer_that_cannot_warm_up_is_refused_when_it_is_attached():
    model = Torch.build()
    handle = plan(HEAD, WARM).apply(model, batch=ROWS)
    with pytest.raises(OptimizerError, match="warms up 6 of the 16 parameters in param group 0"):
        handle.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    # Paddle has a rate for each parameter.
    model = Paddle.build()
    handle = plan(HEAD, WARM).apply(model, batch=ROWS)
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    handle.attach(optimizer)
    handle.step(step=2)
    found = sorted(round(f, 2) for f in factors(Paddle, model, optimizer, 0.1).values())
    assert found == [0.2] * 6 + [1.0] * 2
    assert {tensor.optimize_attr["learning_rate"] for _, tensor in named(model)} == {1.0}


# Best values.

ALL = "{name: all, rules: [{train: all}], lr: 0.1}"
THEN_HEAD = (
    "{name: head, when: {metric: loss, stalled_for: 2}, rules: [{only: head}], restore_best: true}"
)

BEST = (
    '{name: top, when: {metric: loss, stalled_for: 2}, add: [{train: "blocks[-1]"}], '
    "restore_best: true}"
)


def test_a_phase_begins_from_the_best_values_of_the_one_before(side, tmp_path):
    model, handle, optimizer = started(side, plan(HEAD, BEST))
    handle.keep_best(tmp_path / "best")
    seen = []
    for epoch, loss in enumerate([None, 1.0, 0.5, 0.7, 0.6]):
        seen.append(values(model))
        began = handle.step(epoch=epoch, metrics={"loss": loss} if loss else None)
        if epoch < 4:
            side.train(model, optimizer)
    assert began
    assert handle.phase.name == "top"
    now = values(model)
    assert all(np.array_equal(now[name], seen[2][name]) for name in now)
    assert any(not np.array_equal(seen[4][name], seen[2][name]) for name in now)
    handle.verify()
    assert len(check_step(side, model, optimizer, 0.1)) == 8
    handle.verify()


def test_master_weights_go_back_with_the_values(tmp_path):
    """They need a GPU; Paddle writes each step's values from them."""
    model, handle, optimizer = started(Paddle, plan(HEAD, BEST))
    handle.keep_best(tmp_path)
    bias = model.out.bias
    for epoch, loss in enumerate([None, 1.0, 1.1]):
        handle.step(epoch=epoch, metrics={"loss": loss} if loss else None)
        if epoch == 1:
            best = bias.numpy().copy()
        Paddle.train(model, optimizer)
    optimizer._master_weights = {bias.name: bias.astype("float64")}
    state = handle.trainable_state_dict()
    handle.step(epoch=3, metrics={"loss": 1.2})
    assert handle.phase.name == "top"
    assert np.array_equal(optimizer._master_weights[bias.name].numpy(), best.astype("float64"))
    handle.load_trainable_state_dict(state)
    wanted = state["tensors"]["out.bias"]
    assert not np.array_equal(wanted, best)
    assert np.array_equal(optimizer._master_weights[bias.name].numpy(), wanted.astype("float64"))


def everything(model):
    """Parameters, running statistics and counters."""
    return {name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()}


def test_statistics_are_among_the_best_values(side, tmp_path):
    model, handle, optimizer = started(side, plan(ALL, THEN_HEAD))
    handle.keep_best(tmp_path)
    for epoch, loss in enumerate([None, 1.0, 2.0, 2.0]):
        if epoch == 1:
            best = everything(model)
        if epoch == 3:
            last = everything(model)
        handle.step(epoch=epoch, metrics={"loss": loss} if loss else None)
        if epoch < 3:
            side.train(model, optimizer)
    assert handle.phase.name == "head"
    now = everything(model)
    assert all(np.array_equal(now[name], best[name]) for name in best)
    moved = {name for name in best if not np.array_equal(last[name], best[name])}
    assert any("mean" in name for name in moved)
    handle.verify()


def test_the_best_values_survive_a_kill(side, tmp_path):
    text = plan(HEAD, BEST)
    model, handle, optimizer = started(side, text)
    handle.keep_best(tmp_path)
    for epoch, loss in enumerate([None, 1.0, 0.5]):
        handle.step(epoch=epoch, metrics={"loss": loss} if loss else None)
        best = values(model)
        side.train(model, optimizer)
    state, weights = handle.state_dict(), values(model)
    handle.step(epoch=3, metrics={"loss": 0.1})  # after the checkpoint; then it is killed

    again = side.build()
    for name, tensor in named(again):
        side.assign(tensor, weights[name])
    resumed = text.apply(again, batch=ROWS)
    resumed.load_state_dict(state)
    resumed.keep_best(tmp_path)
    its_optimizer = side.sgd(resumed)
    for epoch in (3, 4):
        side.train(again, its_optimizer)
        resumed.step(epoch=epoch, metrics={"loss": 0.6})
    assert resumed.phase.name == "top"
    now = values(again)
    assert all(np.array_equal(now[name], best[name]) for name in now)


def test_best_values_stay_that_saved_states_refer_to(side, tmp_path):
    """Checkpoints are rarer than better values: those of the checkpoint are still there."""
    text = plan(HEAD, BEST)
    model, handle, optimizer = started(side, text)
    handle.keep_best(tmp_path)
    for epoch in range(9):
        handle.step(epoch=epoch, metrics={"loss": 1.0 / epoch} if epoch else None)
        best = values(model)
        if epoch == 2:
            state = handle.state_dict()
            kept = best
        side.train(model, optimizer)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "best-2--1.safetensors",
        "best-8--1.safetensors",
    ]
    again = side.build()
    for name, tensor in named(again):
        side.assign(tensor, kept[name])
    resumed = text.apply(again, batch=ROWS)
    resumed.load_state_dict(state)
    resumed.keep_best(tmp_path)
    its_optimizer = side.sgd(resumed)
    for epoch in (3, 4):  # it gets no better than in the checkpoint this time
        side.train(again, its_optimizer)
        resumed.step(epoch=epoch, metrics={"loss": 2.0})
    assert resumed.phase.name == "top"
    assert all(np.array_equal(now, kept[name]) for name, now in values(again).items())


def test_best_values_of_old_states_are_dropped(side, tmp_path):
    model, handle, optimizer = started(side, plan(HEAD, BEST))
    handle.keep_best(tmp_path)
    for epoch in range(9):
        handle.step(epoch=epoch, metrics={"loss": 1.0 / epoch} if epoch else None)
        handle.state_dict()
        side.train(model, optimizer)
    kept = [f"best-{epoch}--1.safetensors" for epoch in (6, 7, 8)]
    assert sorted(file.name for file in tmp_path.iterdir()) == kept


def test_best_values_want_a_folder(side):
    _model, handle, _optimizer = started(side, plan(HEAD, BEST))
    handle.step(epoch=0)
    with pytest.raises(ScheduleError, match=r"phase 'top' begins from the best values, .* kept"):
        handle.step(epoch=1, metrics={"loss": 1.0})
    handle.verify()


def test_best_values_that_are_gone_are_told(side, tmp_path):
    model, handle, optimizer = started(side, plan(HEAD, BEST))
    handle.keep_best(tmp_path)
    for epoch, loss in enumerate([None, 0.5, 0.6]):
        handle.step(epoch=epoch, metrics={"loss": loss} if loss else None)
        side.train(model, optimizer)
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(WeightFileError):
        handle.step(epoch=3, metrics={"loss": 0.7})
    assert handle.phase.name == "head"
    handle.verify()


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


# What was trained.


def test_what_was_trained_goes_back_onto_its_base(side):
    text = plan(HEAD, '{name: top, at: {step: 2}, add: [{train: "blocks[-1]"}]}')
    base = side.build()
    start = values(base)
    handle = text.apply(base, batch=ROWS)
    optimizer = side.sgd(handle)
    for step in range(4):
        handle.step(step=step)
        side.train(base, optimizer)
    state = handle.trainable_state_dict()
    trained = {
        row.path for row in handle.resolution.spec.parameters if row.path in state["tensors"]
    }
    assert trained == set(handle.resolution.trainable_paths)

    other = side.build()
    for name, tensor in named(other):
        side.assign(tensor, start[name])
    fresh = text.apply(other, batch=ROWS)
    fresh.load_trainable_state_dict(state)
    now, want = values(other), values(base)
    assert all(np.array_equal(now[name], want[name]) for name in want)
    fresh.verify()


def test_statistics_that_moved_are_part_of_what_was_trained(side):
    text = plan(ALL, "{name: head, at: {step: 2}, rules: [{only: head}]}")
    model, handle, optimizer = started(side, text)
    start = everything(model)
    for step in range(3):
        handle.step(step=step)
        side.train(model, optimizer)
    now = everything(model)
    moved = {name for name in now if not np.array_equal(now[name], start[name])}
    assert any("mean" in name for name in moved)
    assert moved <= handle.trainable_state_dict()["tensors"].keys()


def test_what_was_trained_refuses_another_base_and_loses_nothing(side):
    model, handle, optimizer = started(side, plan(HEAD, WARM))
    handle.step(step=0)
    side.train(model, optimizer)
    state = handle.trainable_state_dict()
    other, fresh, _ = started(side, plan(HEAD, WARM))
    for name, tensor in named(other):
        side.assign(tensor, values(model)[name])
    first = next(path for path in handle.resolution.frozen_paths)
    side.write(dict(named(other))[first])
    fresh.rebase()
    before = values(other)
    with pytest.raises(WeightFileError, match="another base: 1 tensor differs") as caught:
        fresh.load_trainable_state_dict(state)
    assert first in str(caught.value)
    assert all(np.array_equal(before[name], value) for name, value in values(other).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {}, "not the state of what was trained"),
        (lambda state: {**state, "unifreeze_trained": 9}, "of format 9"),
        (lambda state: {k: v for k, v in state.items() if k != "base"}, "lacks base"),
        (lambda state: {**state, "framework": "jax"}, "trained in jax"),
        (lambda state: {**state, "tensors": {"x": np.zeros(2)}}, "is not in the model"),
        (
            lambda s: {**s, "tensors": {k: v[..., :1] for k, v in s["tensors"].items()}},
            "do not fit",
        ),
    ],
)
def test_what_is_no_such_state_is_told(side, change, message):
    _model, handle, _optimizer = started(side, plan(HEAD, WARM))
    with pytest.raises(WeightFileError, match=message):
        handle.load_trainable_state_dict(change(handle.trainable_state_dict()))


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


# States of runs.


def test_a_state_of_another_plan_shows_the_difference(side):
    _, handle, _ = started(side, plan(HEAD, WARM))
    _, other, _ = started(side, plan(HEAD, WARM.replace("step: 2", "step: 3")))
    with pytest.raises(ScheduleError, match="of another plan") as caught:
        other.load_state_dict(handle.state_dict())
    assert "step: 2" in str(caught.value)
    assert "step: 3" in str(caught.value)


def test_a_state_of_another_model_is_refused(side):
    text = plan(
        '{name: few, rules: [{only: "params[:2]"}]}',
        "{name: all, at: {step: 2}, add: [{train: all}]}",
    )
    _, handle, _ = started(side, text, lr=0.1)
    text_model = small.torch_text() if side is Torch else small.paddle_text()
    other = text.apply(text_model)
    with pytest.raises(ScheduleError, match="of another model"):
        other.load_state_dict(handle.state_dict())


def test_a_state_of_a_plan_without_phases_is_told(side):
    handle = uf.FreezePlan().only("head").apply(side.build(), batch=ROWS)
    handle.step(epoch=0)
    _, other, _ = started(side, plan(HEAD, WARM))
    with pytest.raises(ScheduleError, match="of a plan without phases"):
        other.load_state_dict(handle.state_dict())
    with pytest.raises(ScheduleError, match="this one has none"):
        handle.load_state_dict(other.state_dict())


@pytest.mark.parametrize("state", [3, None, "x", []])
def test_what_is_no_state_is_told(side, state):
    handle = uf.FreezePlan().only("head").apply(side.build(), batch=ROWS)
    with pytest.raises(ArgumentError, match=r"state is .*, and should be a mapping"):
        handle.load_state_dict(state)


def test_a_state_goes_from_one_framework_to_the_other():
    text = plan(HEAD, WARM)
    model, handle, optimizer = started(Torch, text)
    for step in range(4):
        handle.step(step=step, metrics={"loss": 1.0 / (step + 1)})
        Torch.train(model, optimizer)
    state = json.loads(json.dumps(handle.state_dict()))
    _, other, _ = started(Paddle, text)
    other.load_state_dict(state)
    assert other.phase.name == "top"
    assert other.state_dict() == handle.state_dict()


@pytest.mark.parametrize("key", ["schedule", "taken", "sums", "measured"])
def test_a_damaged_state_is_told_and_changes_nothing(side, key):
    _, handle, _ = started(side, plan(HEAD, WARM))
    handle.step(step=2)
    state = handle.state_dict()
    for value in (None, [1], "x"):
        with pytest.raises(ScheduleError, match="not a state of a"):
            handle.load_state_dict({**state, key: value})
    del state[key]
    with pytest.raises(ScheduleError, match="not a state of a"):
        handle.load_state_dict(state)
    assert handle.phase.name == "top"


def test_the_report_tells_each_epoch_also_without_phases(side):
    model = side.build()
    handle = uf.FreezePlan().only("head").apply(model, batch=ROWS)
    for epoch in range(3):
        handle.step(epoch=epoch, metrics={"val_loss": 1.0 / epoch} if epoch else None)
    again = uf.FreezePlan().only("head").apply(side.build(), batch=ROWS)
    again.load_state_dict(json.loads(json.dumps(handle.state_dict())))
    report = again.report({"val_loss": 0.4})
    assert [row["val_loss"] for row in report.rows] == [1.0, 0.5, 0.4]
    assert {row["trainable"] for row in report.rows} == {handle.resolution.counts()[0]}
    with pytest.raises(ArgumentError, match="should be a number"):
        handle.step(epoch=3, metrics={"val_loss": "low"})
