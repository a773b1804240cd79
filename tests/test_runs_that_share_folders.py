"""Runs in trainers that share a folder, and checkpoints of trainers that were damaged."""

from __future__ import annotations

import json

import pytest
import torch

import unifreeze as uf
from tests.support import paddle_trainer_runs, torch_trainer_runs
from tests.support.phased_runs import HEAD, plan, started
from tests.support.sides import SIDES
from tests.support.torch_trainer_runs import hugging_face, lightning
from unifreeze._ports.weights import open_weights
from unifreeze._protocol import backend_for
from unifreeze.errors import ScheduleError, UnifreezeWarning
from unifreeze_paddle.trainers._run_state import RunState

RUNS = {
    name: {**torch_trainer_runs.RUNS, **paddle_trainer_runs.RUNS}[name]
    for name in ("lightning", "transformers", "model_fit", "paddlenlp")
}
BEST = uf.FreezePlan.from_yaml(
    """
    unifreeze: 1
    phases:
      - {name: worse, rules: [{only: head}], lr: 0.3}
      - when: {metric: val_loss, stalled_for: 1, mode: max}
        name: better
        restore_best: true
        add: [{train: all}]
        lr: 1e-9
    """
)


@pytest.mark.parametrize("trainer", RUNS)
def test_a_run_in_the_folder_of_another_is_told_and_keeps_its_own_values(trainer, tmp_path):
    apart = RUNS[trainer](tmp_path / "apart", BEST, epochs=4)
    assert "better" in apart.phases
    RUNS[trainer](tmp_path / "shared", BEST, epochs=2)
    for file in (tmp_path / "shared").glob("*.ckpt"):  # whose names Lightning would number
        file.unlink()
    with pytest.warns(UnifreezeWarning, match="another run too: give each run a folder"):
        second = RUNS[trainer](tmp_path / "shared", BEST, epochs=4)
    assert second.phases == apart.phases
    assert second.after == apart.after


@pytest.mark.parametrize("trainer", RUNS)
def test_a_run_that_goes_on_from_its_checkpoint_is_the_same_run(trainer, tmp_path, recwarn):
    made = RUNS[trainer](tmp_path, BEST, epochs=2)
    last = made.checkpoints[max(made.checkpoints)]
    recwarn.clear()
    RUNS[trainer](tmp_path, BEST, epochs=4, checkpoint=last)
    assert not [w for w in recwarn if "another run" in str(w.message)]


@pytest.mark.parametrize("side", SIDES)
def test_the_processes_of_one_run_are_not_other_runs(side, tmp_path, monkeypatch, recwarn):
    """Each has an identity of its own, and all write the same values into one folder."""
    when = "when: {metric: loss, stalled_for: 1}"
    phase = f"{{name: top, {when}, restore_best: true, add: [{{train: all}}]}}"
    ranks = [started(side, plan(HEAD, phase))[1] for _ in range(2)]
    for handle in ranks:
        monkeypatch.setattr(backend_for(handle.model), "several", lambda: True)
        handle.keep_best(tmp_path)
        handle.step(epoch=0)
    for loss in (1.0, 0.5):
        for handle in ranks:
            handle.step(epoch=1 if loss == 1.0 else 2, metrics={"loss": loss})
    assert not [w for w in recwarn if "another run" in str(w.message)]
    for file in tmp_path.iterdir():
        with open_weights(file) as weights:
            assert not weights.metadata["unifreeze.run"]


DAMAGES = (
    lambda state: [],
    lambda state: {**state, "handle": None},
    lambda state: {**state, "metrics": "x"},
    lambda state: {**state, "metrics": {"loss": [1]}},
    lambda state: {**state, "unmeasured": "yes"},
    lambda state: {key: value for key, value in state.items() if key != "handle"},
    lambda state: {**state, "handle": {**state["handle"], "schedule": {}}},
)


@pytest.mark.parametrize("damage", DAMAGES[1:])
def test_a_damaged_checkpoint_of_lightning_is_refused(damage, tmp_path):
    whole = lightning(tmp_path, torch_trainer_runs.PLAN, epochs=2)
    file = whole.checkpoints[3]
    checkpoint = torch.load(file, weights_only=False)
    key = next(name for name in checkpoint["callbacks"] if "Freeze" in name)
    checkpoint["callbacks"][key] = damage(checkpoint["callbacks"][key])
    torch.save(checkpoint, file)
    with pytest.raises(ScheduleError, match=r"metric|not a state of a"):
        lightning(tmp_path / "again", torch_trainer_runs.PLAN, checkpoint=file, epochs=4)


@pytest.mark.parametrize("damage", DAMAGES[1:])
def test_a_damaged_checkpoint_of_transformers_is_refused(damage, tmp_path):
    whole = hugging_face(tmp_path, torch_trainer_runs.PLAN, epochs=2)
    file = whole.checkpoints[3] / "trainer_state.json"
    state = json.loads(file.read_text())
    callbacks = state["stateful_callbacks"]
    callbacks["unifreeze"] = damage(callbacks["unifreeze"])
    file.write_text(json.dumps(state))
    with pytest.raises(ScheduleError, match=r"metric|not a state of a"):
        hugging_face(tmp_path, torch_trainer_runs.PLAN, checkpoint=file.parent, epochs=4)


def test_a_state_that_names_a_folder_no_run_has_made_is_refused(tmp_path):
    state = RunState(handle={}, epoch=0, step=0, reports={}, waiting=False, best="../../etc")
    state.save(tmp_path / "run.json")
    with pytest.raises(ScheduleError, match="no run has made"):
        RunState.load_from(tmp_path / "run.json")
    state.model_copy(update={"best": "../freeze_best"}).save(tmp_path / "run.json")
    assert RunState.load_from(tmp_path / "run.json").best == str(tmp_path.parent / "freeze_best")
