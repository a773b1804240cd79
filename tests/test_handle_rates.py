"""`Handle.rates`: each group's learning rate of now, checked against what a step does."""

import gc

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.rounding import SINGLE_PART
from tests.support.sides import ROWS, SIDES, Paddle, Torch, named, values
from unifreeze.errors import OptimizerError

GROUPS = (
    uf.FreezePlan()
    .freeze("conv")
    .with_group("head", lr_scale=10)
    .with_group("norm & bias", lr_scale=0.5, weight_decay=0.0)
)


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


def stepped(side, model, optimizer):
    """Train a step of SGD; return the rate that each parameter was moved by."""
    before = values(model)
    gradients = side.train(model, optimizer)
    after = values(model)
    found = {}
    for name, gradient in gradients.items():
        at = np.unravel_index(np.argmax(np.abs(gradient)), gradient.shape)
        found[name] = float((before[name] - after[name])[at] / gradient[at])
    return found


def check_rates(side, handle, model, optimizer):
    """Check that the next step trains every group at the rate that is said."""
    rates = handle.rates()
    groups = {group.name: group.paths for group in handle.groups()}
    assert rates.keys() == groups.keys()
    moved = stepped(side, model, optimizer)
    checked = 0
    for name, rate in rates.items():
        for path in groups[name]:
            if path in moved:
                assert moved[path] == pytest.approx(rate, rel=1e3 * SINGLE_PART)
                checked += 1
    assert checked == len(moved)
    return rates


def test_groups_have_the_rate_that_a_step_uses(side):
    model = side.build()
    handle = GROUPS.apply(model)
    optimizer = side.sgd(handle, lr=0.01)
    rates = check_rates(side, handle, model, optimizer)
    assert sorted(rates.values()) == pytest.approx([0.005, 0.01, 0.1])


def test_a_scheduler_is_followed(side):
    model = side.build()
    handle = GROUPS.apply(model)
    optimizer = side.sgd(handle, lr=0.1)
    scheduler = side.scheduler(optimizer)
    first = check_rates(side, handle, model, optimizer)
    scheduler.step()
    then = check_rates(side, handle, model, optimizer)
    assert then == {name: pytest.approx(rate / 2) for name, rate in first.items()}


def test_phases_and_their_warm_up_are_in_the_rates(side):
    plan = uf.FreezePlan.from_yaml(
        "unifreeze: 1\n"
        "groups: [{match: head, lr_scale: 2}]\n"
        "phases:\n"
        "  - {name: head, rules: [{only: head}], lr: 0.1}\n"
        '  - {name: top, at: {step: 2}, add: [{train: "blocks[-1]"}], lr: 0.05,'
        " warmup: {steps: 3, divisor: 5}}\n"
    )
    model = side.build()
    handle = plan.apply(model, batch=ROWS)
    optimizer = side.sgd(handle)
    seen = []
    for step in range(8):
        handle.step(step=step)
        seen.append(check_rates(side, handle, model, optimizer))
    head = next(name for name in seen[0] if name.startswith("lr x 2"))
    top = next(name for name in seen[0] if "warmed up" in name)
    assert [rates[head] for rates in seen] == pytest.approx([0.2] * 2 + [0.1] * 6)
    assert [rates[top] for rates in seen[2:]] == pytest.approx(
        [0.01, 0.05 * 7 / 15, 0.05 * 11 / 15, 0.05, 0.05, 0.05]
    )


def test_an_optimizer_that_was_attached_is_read(side):
    plan = uf.FreezePlan.from_yaml(
        "unifreeze: 1\nphases: [{name: head, rules: [{only: head}], lr: 0.1}]\n"
    )
    model = side.build()
    handle = plan.apply(model)
    with pytest.raises(OptimizerError, match="the handle has no optimizer"):
        handle.rates()
    tensors = [tensor for _, tensor in named(model)]
    if side is Torch:
        handle.attach(torch.optim.SGD(tensors, lr=0.4))
    else:
        handle.attach(paddle.optimizer.SGD(0.4, parameters=tensors))
    assert list(handle.rates().values()) == pytest.approx([0.1])


def test_without_an_optimizer_it_is_said_how_to_get_one(side):
    handle = GROUPS.apply(side.build())
    for _ in range(2):
        with pytest.raises(OptimizerError, match="the handle has no optimizer") as caught:
            handle.rates()
        assert "handle.optimizer(" in caught.value.hint
        side.sgd(handle, lr=0.1)  # nobody keeps it
        gc.collect()


def test_an_optimizer_from_before_the_model_changed_is_refused(side):
    model = side.build()
    handle = uf.FreezePlan().only("head").apply(model)
    optimizer = side.sgd(handle, lr=0.1)
    head = "fc" if side is Torch else "out"
    kind = type(getattr(model, head))
    setattr(model, head, kind(4, 7))
    handle.reapply()
    with pytest.raises(OptimizerError, match="lacks 2 parameters"):
        handle.rates()
    assert optimizer is not None


def test_a_rate_that_a_models_author_set_is_told_apart():
    model = Paddle.build()
    model.out.bias.optimize_attr["learning_rate"] = 3.0
    handle = uf.FreezePlan().only("head").with_group("head", lr_scale=2).apply(model)
    optimizer = Paddle.sgd(handle, lr=0.1)
    assert sorted(handle.rates().values()) == pytest.approx([0.2, 0.6])
    assert all("(1 at 0." in name for name in handle.rates())
    assert optimizer is not None
