"""A phase begins from the best values of the phase before; where they are kept and when dropped."""

import numpy as np
import pytest

from tests.support.phased_runs import ALL, HEAD, everything, plan, started
from tests.support.sides import ROWS, SIDES, Paddle, check_step, named, values
from unifreeze.errors import ScheduleError, WeightFileError


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


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
