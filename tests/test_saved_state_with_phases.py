"""The state of a run under phases: refused where it does not belong, alike in both frameworks."""

import json

import pytest

import unifreeze as uf
from tests.support.pairs import small
from tests.support.phased_runs import HEAD, WARM, plan, started
from tests.support.sides import ROWS, SIDES, Paddle, Torch
from unifreeze.errors import ArgumentError, ScheduleError


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


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
