"""One kind of state for every plan: it says which plan and model it is of, and is theirs alone."""

import json

import numpy as np
import pytest

import tests.support.paddle_trainer_runs as paddle_runs
import tests.support.torch_trainer_runs as torch_runs
import unifreeze as uf
from tests.support.pairs import small
from tests.support.sides import ROWS, SIDES, Torch
from unifreeze.errors import ScheduleError

HEAD = "{name: head, rules: [{only: head}]}"
WORDS = np.arange(6).reshape(2, 3)


def phases(*rows):
    return uf.FreezePlan.from_yaml(f"{{unifreeze: 1, phases: [{', '.join([HEAD, *rows])}]}}")


PLANS = {
    "head": uf.FreezePlan().only("head"),
    "biases": uf.FreezePlan().freeze("bias"),
    "all": uf.FreezePlan().train("all"),
    "with groups": uf.FreezePlan().only("head").with_group("head", lr_scale=2.0),
    "other statistics": uf.FreezePlan.from_yaml(
        "{unifreeze: 1, rules: [{only: head}], norm_stats: update}"
    ),
    "one phase": phases(),
    "two phases": phases("{name: all, at: {epoch: 1}, add: [{train: all}]}"),
    "later phases": phases("{name: all, at: {epoch: 2}, add: [{train: all}]}"),
}
MODELS = {
    "image": (small.torch_image, small.paddle_image),
    "text": (small.torch_text, small.paddle_text),
    "more words": (
        lambda: small.torch_text(vocabulary=13),
        lambda: small.paddle_text(vocabulary=13),
    ),
}
KEYS = {"unifreeze_state", "plan", "plan_now", "plan_text", "model", "phase", "told", "history"}


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


def applied(side, plan, model):
    batch = ROWS if model == "image" else WORDS
    return PLANS[plan].apply(MODELS[model][SIDES.index(side)](), batch=batch)


def as_file(state):
    return json.loads(json.dumps(state, allow_nan=False))


def pairs():
    return [(plan, model) for plan in PLANS for model in MODELS]


@pytest.fixture(scope="module")
def handles():
    """One of each sort; a state says nothing of the framework."""
    return {(side, *row): applied(side, *row) for side in SIDES for row in pairs()}


@pytest.mark.parametrize(("plan", "model"), pairs())
def test_a_state_is_taken_by_its_own_plan_on_its_own_model_alone(side, plan, model, handles):
    own = applied(side, plan, model)
    own.step(epoch=0)
    state = as_file(own.state_dict())
    taken = []
    for row, handle in handles.items():
        before = as_file(handle.state_dict())
        if loads(handle, state):
            taken.append(row)
            assert as_file(handle.state_dict()) == state
            handle.load_state_dict(before)
        assert as_file(handle.state_dict()) == before
    assert taken == [(one, plan, model) for one in SIDES]


def loads(handle, state):
    try:
        handle.load_state_dict(state)
    except ScheduleError:
        return False
    return True


@pytest.mark.parametrize("plan", PLANS)
def test_a_state_says_what_it_is_of(side, plan):
    handle = applied(side, plan, "image")
    state = as_file(handle.state_dict())
    assert state.keys() >= KEYS
    assert uf.FreezePlan.from_yaml(state["plan_text"]) == PLANS[plan]
    assert state["told"] is False
    assert state["history"]["rows"] == []
    assert (state["phase"] is None) is (handle.phase is None) is (not PLANS[plan].phases)
    handle.step(epoch=0, metrics={"loss": 1.0})
    state = as_file(handle.state_dict())
    assert state["told"] is True
    assert len(state["history"]["rows"]) == 2
    if not PLANS[plan].phases:
        assert state.keys() == KEYS


def test_the_difference_to_another_plan_is_shown(side):
    state = applied(side, "head", "image").state_dict()
    with pytest.raises(ScheduleError, match="of another plan") as caught:
        applied(side, "biases", "image").load_state_dict(state)
    assert '-- only: "head"' in str(caught.value)
    assert '+- freeze: "bias"' in str(caught.value)
    assert "in phase" not in str(caught.value)


def without(key):
    return lambda state: {name: value for name, value in state.items() if name != key}


DAMAGES = {
    "empty": lambda state: {},
    "an older format": lambda state: {**state, "unifreeze_state": 2},
    "as it was once": lambda state: {"unifreeze_state": 2, "history": state["history"]},
    **{f"no {key}": without(key) for key in sorted(KEYS)},
    "no truth": lambda state: {**state, "told": "yes"},
    "no history": lambda state: {**state, "history": {"rows": 3}},
    "no rows": lambda state: {**state, "history": None},
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("plan", ["head", "one phase", "two phases"])
def test_a_damaged_state_is_refused_and_changes_nothing(side, plan, damage):
    handle = applied(side, plan, "image")
    handle.step(epoch=0, metrics={"loss": 0.5})
    before = as_file(handle.state_dict())
    with pytest.raises(ScheduleError):
        handle.load_state_dict(DAMAGES[damage](as_file(before)))
    assert as_file(handle.state_dict()) == before


def test_a_run_without_phases_goes_on_with_its_history(side):
    handle = applied(side, "head", "image")
    for epoch in range(2):
        handle.step(epoch=epoch, metrics={"val_loss": 1.0 / epoch} if epoch else None)
    again = applied(side, "head", "image")
    again.load_state_dict(as_file(handle.state_dict()))
    for one in (handle, again):
        one.step(epoch=2, metrics={"val_loss": 0.25})
    assert as_file(again.state_dict()) == as_file(handle.state_dict())
    assert again.report().table() == handle.report().table()


# In the trainers.

RUNS = {
    "lightning": (torch_runs.lightning, 3),
    "transformers": (torch_runs.hugging_face, 3),
    "model_fit": (paddle_runs.model_fit, 3),
    "paddlenlp": (paddle_runs.paddlenlp, 3),
}


def over_everything(trainer, model):
    if trainer in ("lightning", "transformers"):
        return torch_runs.torch.optim.SGD(model.parameters(), lr=0.1)
    return paddle_runs.over_everything(model)


@pytest.mark.parametrize("trainer", RUNS)
def test_a_checkpoint_of_a_plan_without_phases_is_of_that_plan(trainer, tmp_path):
    run, steps = RUNS[trainer]
    make = {"optimizer": lambda model: over_everything(trainer, model)}
    plan, other = uf.FreezePlan().only("head"), uf.FreezePlan().freeze("stem")
    with paddle_runs.paddle.utils.unique_name.guard():
        whole = run(tmp_path / "whole", plan, epochs=2, **make)
    checkpoint = whole.checkpoints[steps]
    with paddle_runs.paddle.utils.unique_name.guard():
        again = run(tmp_path / "again", plan, epochs=2, checkpoint=checkpoint, **make)
    assert again.after == whole.after[steps:]
    assert len(again.handle.report().rows) == len(whole.handle.report().rows) >= 1
    with (
        paddle_runs.paddle.utils.unique_name.guard(),
        pytest.raises(ScheduleError, match="of another plan"),
    ):
        run(tmp_path / "other", other, epochs=2, checkpoint=checkpoint, **make)


def test_accelerate_saves_and_loads_it_too(tmp_path):
    from accelerate import Accelerator

    def prepared(plan):
        accelerator = Accelerator(cpu=True)
        model = Torch.build()
        handle = PLANS[plan].apply(model)
        accelerator.prepare(model)
        accelerator.register_for_checkpointing(handle)
        return accelerator, handle

    accelerator, handle = prepared("head")
    handle.step(epoch=3)
    accelerator.save_state(str(tmp_path))
    again, its_handle = prepared("head")
    again.load_state(str(tmp_path))
    assert its_handle.state_dict() == handle.state_dict()
    other, _ = prepared("biases")
    with pytest.raises(ScheduleError, match="of another plan"):
        other.load_state(str(tmp_path))
