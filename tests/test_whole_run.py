"""A plan without phases is a run of one phase, which nobody sees."""

import re
from pathlib import Path

import numpy as np
import pytest

import unifreeze as uf
from tests.support.sides import SIDES, Paddle, Torch
from unifreeze._handle.schedule import Schedule
from unifreeze._handle.whole_run import phases_of, plans_of, schedule_of
from unifreeze.errors import ScheduleError, WeightFileError

HANDLE = Path(uf.__file__).parent / "_handle"
PLAIN = uf.FreezePlan().only("head")
PHASED = PLAIN.phase("top", add={"train": "blocks[-1]"})


def test_its_schedule_counts_nothing_and_begins_nothing():
    schedule = schedule_of(PLAIN)
    for epoch, step in ((3, None), (None, None), (0, 7), (None, 2)):
        again = schedule.copy()
        assert again.advance(epoch, step, {"loss": float("nan")}) == []
        assert again == schedule
        schedule = again
    assert schedule.named_phase is None
    assert not schedule.current.stop
    assert not schedule.waits
    assert not schedule.told


def test_it_has_one_phase_in_which_the_plan_itself_holds():
    assert [phase.name for phase in phases_of(PLAIN)] == [""]
    assert plans_of(PLAIN) == (PLAIN,)
    assert phases_of(PHASED) == PHASED.phases


@pytest.mark.parametrize(("plan", "other"), [(PLAIN, PHASED), (PHASED, PLAIN)])
def test_the_state_of_the_other_kind_is_refused(plan, other):
    states = {PLAIN: {"phase": None}, PHASED: {"phase": PHASED.phases[0].name}}
    schedule_of(plan).check_kind(states[plan])
    with pytest.raises(ScheduleError, match="and this one has"):
        schedule_of(plan).check_kind(states[other])


def test_a_state_without_phases_holds_no_schedule():
    assert schedule_of(PLAIN).saved({"taken": 1}) == {}
    schedule, counts = schedule_of(PLAIN).read({"phase": None})
    assert schedule == schedule_of(PLAIN)
    assert counts["taken"] == 0
    assert type(schedule_of(PHASED)) is Schedule


def test_whether_a_plan_has_phases_is_asked_in_one_place():
    asks = re.compile(
        r"\b(?:if|elif|while|and|or|not)\b[^\n]*\bplan\.phases\b(?!\.)|_run is (?:not )?None"
    )
    places = {
        file.name for file in HANDLE.rglob("*.py") if asks.search(file.read_text(encoding="utf-8"))
    }
    assert places == {"whole_run.py"}


@pytest.mark.parametrize("side", SIDES)
def test_a_failed_reapply_changes_nothing(side, monkeypatch):
    model = side.build()
    handle = PLAIN.apply(model)
    groups, resolution = handle.groups(), handle.resolution
    model.extra = type(model.fc if side is Torch else model.out)(8, 8)

    def refuse(*_):
        raise WeightFileError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(type(handle._backend), "write", refuse)
        with pytest.raises(WeightFileError, match="refused"):
            handle.reapply()
    assert handle.groups() == groups
    assert handle.resolution is resolution
    handle.reapply()
    assert handle.resolution is not resolution


def test_loaded_values_reach_the_master_weights_of_its_optimizer():
    """Paddle writes each step's values from them; without them the loaded values would be lost."""
    model = Paddle.build()
    handle = PLAIN.apply(model)
    optimizer = Paddle.sgd(handle, lr=0.1)
    bias = model.out.bias
    state = handle.trainable_state_dict()
    Paddle.train(model, optimizer)
    optimizer._master_weights = {bias.name: bias.astype("float64")}
    handle.load_trainable_state_dict(state)
    wanted = state["tensors"]["out.bias"]
    assert np.array_equal(optimizer._master_weights[bias.name].numpy(), wanted.astype("float64"))
