"""A phase's warm-up: what has just been unfrozen begins at a share of its rate."""

import json

import numpy as np
import paddle
import pytest
import torch

from tests.support.phased_runs import HEAD, WARM, load, plan, saved, started
from tests.support.rounding import SINGLE_PART
from tests.support.sides import ROWS, SIDES, Paddle, Torch, named, values
from unifreeze.errors import OptimizerError


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


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
