"""What a run has trained goes back onto its base, and onto nothing else."""

import numpy as np
import pytest

from tests.support.phased_runs import ALL, HEAD, WARM, everything, plan, started
from tests.support.sides import ROWS, SIDES, named, values
from unifreeze.errors import WeightFileError


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


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
