"""States that are damaged are refused as they are loaded, whole, and change nothing."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from tests.support.phased_runs import HEAD, everything, load, plan, started
from tests.support.sides import SIDES
from unifreeze import FreezePlan
from unifreeze.errors import ScheduleError, UnifreezeError, UnifreezeWarning, WeightFileError

BEST = (
    '{name: top, when: {metric: loss, stalled_for: 2}, add: [{train: "blocks[-1]"}], '
    "restore_best: true}"
)
ODD = (
    None,
    "x",
    -7,
    2**70,
    10**400,
    1.5,
    True,
    [],
    [1],
    [None],
    {},
    {"x": 1},
    np.zeros(3),
    object(),
)


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


def replaced(tree, path, value):
    """Return a copy of plain data with another value at a path."""
    tree = copy.deepcopy(tree)
    inner = tree
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return tree


def paths_in(tree, path=()):
    """Yield the path of each value in plain data."""
    if path:
        yield path
    items = tree.items() if isinstance(tree, dict) else ()
    for key, value in enumerate(tree) if isinstance(tree, list) else items:
        yield from paths_in(value, (*path, key))


def at_a_place(side, folder):
    """A run that has been told of epochs and metrics."""
    model, handle, _ = started(side, plan(HEAD, BEST))
    handle.keep_best(folder)
    for epoch, loss in enumerate([None, 1.0, 0.5]):
        handle.step(epoch=epoch, metrics={"loss": loss} if loss else None)
    return model, handle


@pytest.mark.filterwarnings("ignore:.*another run")
def test_wrong_types_anywhere_in_a_state_are_refused_as_it_is_loaded(side, tmp_path):
    _, handle = at_a_place(side, tmp_path)
    state = handle.state_dict()
    assert json.loads(json.dumps(state)) == state
    tried = 0
    for path in paths_in(state):
        for value in ODD:
            damaged = replaced(state, path, value)
            try:
                handle.load_state_dict(damaged)
                handle.step(epoch=3, metrics={"loss": 0.4})
                handle.report()
                json.dumps(handle.state_dict())
            except UnifreezeError:
                pass
            handle.load_state_dict(state)
            tried += 1
    assert tried > 300


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schedule", "watch", "best"), "0.5"),
        (("schedule", "watch", "since_best"), 1.5),
        (("schedule", "watch", "extra"), 1),
        (("schedule", "entered"), [0]),
        (("schedule", "reported"), "12"),
        (("schedule", "epoch"), "2"),
        (("taken",), "0"),
        (("sums",), {"a": "b"}),
        (("measured",), {"x": ["a"]}),
        (("measured",), {"1": "abc"}),
        (("plan_text",), 3),
        (("model",), np.zeros(3)),
        (("run",), 3),
    ],
)
def test_what_a_later_step_would_stumble_over_is_refused_at_once(side, path, value, tmp_path):
    _, handle = at_a_place(side, tmp_path)
    before = handle.state_dict()
    with pytest.raises(ScheduleError, match=r"not a state|another model"):
        handle.load_state_dict(replaced(before, path, value))
    assert handle.state_dict() == before


@pytest.mark.parametrize(
    "values", [["a", "b"], [1 + 5j, 2 + 5j], [None, None], [object(), 1], [b"a", b"b"]]
)
def test_values_of_another_kind_are_refused_and_nothing_is_written(side, values):
    model, handle, _ = started(side, FreezePlan().train("all"))
    state = handle.trainable_state_dict()
    before = everything(model)
    for path, array in state["tensors"].items():
        state["tensors"][path] = array * 0 + 7
    last = list(state["tensors"])[-1]
    shape = state["tensors"][last].shape
    state["tensors"][last] = np.resize(np.array(values), shape)
    with pytest.raises(WeightFileError, match=r"was saved as (float|int)\d+, and its values are"):
        handle.load_trainable_state_dict(state)
    now = everything(model)
    assert all(np.array_equal(now[name], before[name]) for name in before)


def test_a_state_that_went_through_json_is_loaded(side):
    _, handle, _ = started(side, FreezePlan().train("all"))
    state = handle.trainable_state_dict()
    plain = {**state, "tensors": {path: a.tolist() for path, a in state["tensors"].items()}}
    handle.load_trainable_state_dict(json.loads(json.dumps(plain)))
    now = handle.trainable_state_dict()["tensors"]
    assert all(np.array_equal(now[path], array) for path, array in state["tensors"].items())


def test_two_runs_that_share_a_folder_for_best_values_are_told(side, tmp_path):
    runs = [started(side, plan(HEAD, BEST))[1] for _ in range(2)]
    for handle in runs:
        handle.keep_best(tmp_path)
        handle.step(epoch=0)
    runs[0].step(epoch=1, metrics={"loss": 1.0})
    with pytest.warns(UnifreezeWarning, match="another run too: give each run a folder"):
        runs[1].step(epoch=1, metrics={"loss": 1.0})
    runs[0].step(epoch=2, metrics={"loss": 2.0})
    with pytest.raises(WeightFileError, match="the best values of another run"):
        runs[0].step(epoch=3, metrics={"loss": 2.0})


def test_a_resumed_run_is_the_same_run(side, tmp_path):
    model, first, _ = started(side, plan(HEAD, BEST))
    first.keep_best(tmp_path)
    first.step(epoch=0)
    first.step(epoch=1, metrics={"loss": 1.0})
    state = first.state_dict()
    again, resumed, _ = started(side, plan(HEAD, BEST))
    load(side, again, model.state_dict())
    resumed.rebase()
    resumed.load_state_dict(state)
    resumed.keep_best(tmp_path)
    resumed.step(epoch=2, metrics={"loss": 2.0})
    resumed.step(epoch=3, metrics={"loss": 2.0})
    assert resumed.phase.name == "top"
