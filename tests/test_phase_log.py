"""What is logged when phases begin: once each, in every trainer, and only if the user asks."""

import logging
import re
import subprocess
import sys
from itertools import pairwise

import pytest

import unifreeze as uf
from tests.support import paddle_trainer_runs, torch_trainer_runs
from tests.support.sides import Paddle, Torch
from unifreeze.errors import ScheduleError

PLAN = (
    uf.FreezePlan()
    .phase("head", rules={"only": "head"}, lr=0.1)
    .phase("top", at={"epoch": 2}, add={"train": "blocks[-1]"}, lr=0.01, weight_decay=0.5)
    .phase("full", after={"epochs": 1}, add={"train": "all"}, warmup={"steps": 3})
    .phase("again", when={"metric": "loss", "stalled_for": 1}, like="head")
    .phase("end", at={"epoch": 9}, stop=True)
)
RUNS = {
    **{f"torch {name}": run for name, run in torch_trainer_runs.RUNS.items()},
    **{f"paddle {name}": run for name, run in paddle_trainer_runs.RUNS.items()},
}


@pytest.fixture(params=[Torch, Paddle])
def side(request):
    return request.param


@pytest.fixture
def said(caplog):
    """What was logged so far; whatever libraries make of the root logger."""
    logger = logging.getLogger("unifreeze")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    logger.propagate, before = False, logger.propagate
    yield lambda: [one.getMessage() for one in caplog.records if one.name == "unifreeze"]
    logger.removeHandler(caplog.handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = before


def begun(lines):
    """Names of the phases that begin, and in which a run was resumed, in order."""
    return [re.match(r"(?:phase|(resumed) in phase) '(.*?)'", line).groups("") for line in lines]


def test_each_beginning_says_where_why_what_trains_and_at_which_rate(side, said):
    handle = PLAN.apply(side.build())
    side.sgd(handle)
    assert said() == []
    for epoch in range(10):
        for _ in range(2):  # the second call for an epoch changes nothing
            handle.step(epoch=epoch, metrics={"loss": 1.0})
    counts = [resolution.counts()[0] for resolution in handle._in_force.phases.resolutions]
    head, top, full = (f"{count:,} of {counts[2]:,} values train" for count in counts[:3])
    values = [f"({b - a:,} values)" for a, b in pairwise(counts[:3])]
    assert said() == [
        f"phase 'head' begins before epoch 0: {head}, lr 0.1",
        f"phase 'top' begins before epoch 2 (at epoch 2): {top}, "
        f"6 parameters {values[0]} begin to train, lr 0.01, weight decay 0.5",
        f"phase 'full' begins before epoch 3 (after 1 epoch): {full}, 8 parameters {values[1]} "
        "begin to train, lr 0.01, weight decay 0.5, warm-up over 3 steps",
        f"phase 'again' begins before epoch 5 (when loss has stalled for 1): {head}, 14 parameters "
        f"({counts[2] - counts[0]:,} values) no longer train, lr 0.01, weight decay 0.5",
        "phase 'end' begins before epoch 9 (at epoch 9): training ends",
    ]


def test_a_run_that_goes_on_says_in_which_phase_and_nothing_twice(side, said):
    first = PLAN.apply(side.build())
    side.sgd(first)
    for epoch in range(3):
        first.step(epoch=epoch)
    state, before = first.state_dict(), len(said())
    second = PLAN.apply(side.build())
    second.load_state_dict(state)
    side.sgd(second)
    for epoch in (2, 3):
        second.step(epoch=epoch)
    lines = said()[before:]
    assert begun(lines) == [("resumed", "top"), ("", "full")]
    assert lines[0].startswith("resumed in phase 'top', at epoch 2: ")
    assert lines[0].endswith("lr 0.01, weight decay 0.5")


def test_a_state_from_before_the_first_epoch_is_no_run_that_goes_on(side, said):
    handle = PLAN.apply(side.build())
    side.sgd(handle)
    handle.load_state_dict(handle.state_dict())
    assert said() == []
    handle.step(epoch=0)
    assert begun(said()) == [("", "head")]


def test_a_phase_that_cannot_begin_is_not_said_to(side, said):
    handle = PLAN.apply(side.build())
    side.sgd(handle)
    with pytest.raises(ScheduleError):
        handle.step(epoch=-1)
    assert said() == []
    handle.step(epoch=0)
    path = handle.resolution.frozen_paths[0]
    handle._backend.assign(handle.model, path, handle._backend.tensor(handle.model, path) + 1)
    with pytest.raises(uf.FrozenDriftError):
        handle.step(epoch=2)
    assert begun(said()) == [("", "head")]


def test_the_only_phase_of_a_plan_is_said_at_the_first_step(side, said):
    handle = uf.FreezePlan().phase("head", rules={"only": "head"}).apply(side.build())
    optimizer = side.sgd(handle)
    for _ in range(2):
        optimizer.step()
    (line,) = said()
    assert re.fullmatch(r"phase 'head' begins: .* values train, lr 0\.001", line)


@pytest.mark.parametrize("trainer", RUNS)
def test_every_trainer_says_each_phase_once_and_so_does_a_resumed_run(trainer, said, tmp_path):
    whole = RUNS[trainer](tmp_path / "whole")
    names = ["head", "top", "all", "head again", "end"]
    assert begun(said()) == [("", name) for name in names]
    before = len(said())
    RUNS[trainer](tmp_path / "resumed", checkpoint=whole.checkpoints[6])
    assert begun(said()[before:]) == [("resumed", "top"), *(("", name) for name in names[2:])]


def test_nothing_is_printed_and_no_handler_added_unless_the_user_asks():
    script = """
import logging, sys
import torch, unifreeze as uf
if len(sys.argv) > 1:
    logging.basicConfig(level=logging.INFO)
model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
handle = uf.FreezePlan().phase("top", rules={"only": 'path:"1"'}).apply(model)
handle.step(epoch=0)
assert not logging.getLogger("unifreeze").handlers
"""
    for more, shown in ([], ""), (["loud"], "INFO:unifreeze:phase 'top' begins before epoch 0"):
        command = [sys.executable, "-W", "ignore", "-c", script, *more]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert run.stdout == ""
        assert run.stderr.startswith(shown)
        assert bool(run.stderr) == bool(shown)


def test_a_resumed_phase_is_not_said_to_begin(side, said):
    handle = PLAN.apply(side.build())
    side.sgd(handle)
    handle.step(epoch=0)
    handle.step(epoch=2)
    state = handle.state_dict()
    other = PLAN.apply(side.build())
    side.sgd(other)
    other.load_state_dict(state)
    assert "begin to train" in said()[1]
    assert re.search(r"resumed in phase 'top', .* train since this phase began, lr", said()[-1])
