"""In every trainer of PyTorch a plan makes the run that the plain loop makes, to the last bit."""

import runpy

import pytest
import torch

import unifreeze as uf
from tests.support.torch_trainer_runs import (
    PLAN,
    RUNS,
    STEPS_PER_EPOCH,
    TIMELINE,
    hugging_face_trainer,
    task,
)
from unifreeze.errors import FrozenDriftError, OptimizerError, ScheduleError
from unifreeze_torch.trainers import lightning as pl
from unifreeze_torch.trainers import transformers as hf

HEAD = {"net.head.weight", "net.head.bias"}
TOP = {name for name in task().state_dict() if name.startswith("net.blocks.1.")}
CALLBACKS = ["lightning", "transformers"]
STILL = uf.FreezePlan().only("head")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return {name: run(tmp_path_factory.mktemp(name)) for name, run in RUNS.items()}


@pytest.fixture(params=list(RUNS))
def trainer(request):
    return request.param


def test_phases_begin_at_the_steps_they_should_and_the_run_stops(whole, trainer):
    assert whole[trainer].phases == TIMELINE
    assert whole[trainer].handle.phase.name == "end"


def test_every_step_leaves_the_bits_that_the_plain_loop_leaves(whole, trainer):
    assert whole[trainer].after == whole["plain"].after


def test_a_phase_moves_what_it_trains_and_nothing_else(whole, trainer):
    moved = {phase: whole[trainer].moved(phase) for phase in TIMELINE}
    assert moved["head"] == moved["head again"] == HEAD
    assert moved["top"] == HEAD | TOP
    assert moved["all"] == set(whole[trainer].start)


@pytest.mark.parametrize("steps", [3, 6, 12, 15])
def test_a_resumed_run_ends_on_the_bits_of_the_uninterrupted_one(whole, trainer, steps, tmp_path):
    resumed = RUNS[trainer](tmp_path, checkpoint=whole[trainer].checkpoints[steps])
    assert resumed.phases == TIMELINE[steps:]
    assert resumed.after == whole[trainer].after[steps:]


@pytest.mark.parametrize("steps", [4, 13, 17])
def test_transformers_resumes_in_the_middle_of_an_epoch(whole, steps, tmp_path):
    checkpoint = whole["transformers"].checkpoints[steps]
    resumed = RUNS["transformers"](tmp_path, checkpoint=checkpoint)
    assert resumed.after == whole["transformers"].after[steps:]


def test_an_optimizer_that_lacks_what_a_phase_trains_is_refused(trainer, tmp_path):
    def over_the_head(model):
        return torch.optim.AdamW(model.net.head.parameters(), lr=0.1)

    with pytest.raises(OptimizerError, match="lacks 14 parameters that the plan trains"):
        RUNS[trainer](tmp_path, optimizer=over_the_head)


def test_an_optimizer_that_the_user_built_over_everything_is_steered(whole, trainer, tmp_path):
    def over_everything(model):
        return torch.optim.AdamW(model.parameters(), lr=0.4, weight_decay=0.0)

    made = RUNS[trainer](tmp_path, optimizer=over_everything)
    assert made.after[:9] == whole["plain"].after[:9]


def test_the_history_is_that_of_the_plain_loop(whole, trainer):
    rows, plain = (
        [
            (row["epoch"], row["phase"], row["trainable"], loss(row["metrics"]))
            for row in whole[name].handle.state_dict()["history"]["rows"]
        ]
        for name in (trainer, "plain")
    )
    assert rows == plain


def loss(metrics):
    """The validation's; trainers add a batch's losses up in orders of their own.

    A mean of other losses would differ in its second digit, rounding does in its seventh.
    """
    return pytest.approx(metrics["val_loss"], rel=1e-4) if "val_loss" in metrics else None


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_the_plan_is_saved_beside_the_run(whole, trainer, tmp_path):
    folder = whole[trainer].checkpoints[3].parent
    assert uf.FreezePlan.load(folder / "freeze_plan.yaml") == PLAN


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_a_plan_without_phases_holds_and_its_optimizer_has_only_what_trains(trainer, tmp_path):
    seen = []

    def over_what_trains(model):
        seen.extend(name for name, p in model.named_parameters() if p.requires_grad)
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    more = {"optimizer": over_what_trains} if trainer == "lightning" else {"optim": "sgd"}
    made = RUNS[trainer](tmp_path, STILL, epochs=1, **more)
    assert made.moved(None) == HEAD
    assert set(seen) <= HEAD
    made.handle.verify()


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_a_plan_without_phases_refuses_an_optimizer_without_what_it_trains(trainer, tmp_path):
    def over_the_bias(model):
        return torch.optim.SGD([model.net.head.bias], lr=0.1)

    with pytest.raises(OptimizerError, match=r"lacks 1 parameter that the plan trains: net\.head"):
        RUNS[trainer](tmp_path, STILL, optimizer=over_the_bias)


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_gradients_are_measured_in_the_step_that_made_them(trainer, tmp_path):
    measured = "{every: {epochs: 1}, share: 20, times: 3}"
    plan = uf.FreezePlan.from_yaml(
        f"{{unifreeze: 1, phases: [{{name: small, by_gradient: {measured}, lr: 0.01}}]}}"
    )
    made, plain = (RUNS[name](tmp_path / name, plan, epochs=4) for name in (trainer, "plain"))
    assert made.phases == plain.phases
    assert made.after == plain.after


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_a_phase_begins_from_the_best_values_of_the_one_before(trainer, tmp_path):
    plan = uf.FreezePlan.from_yaml(
        """
        unifreeze: 1
        phases:
          - {name: worse, rules: [{only: head}], lr: 0.3}
          - when: {metric: val_loss, stalled_for: 2, mode: max}
            name: better
            restore_best: true
            add: [{train: all}]
            lr: 1e-9
        """
    )
    made = RUNS[trainer](tmp_path, plan, epochs=5)
    number = made.phases.index("better")
    best = made.after[number - 1 - 2 * STEPS_PER_EPOCH]["net.head.bias"]
    assert floats(made.after[number]["net.head.bias"]) == pytest.approx(floats(best), abs=1e-6)
    assert made.after[number - 1]["net.head.bias"] != best


GROUPS = uf.FreezePlan.from_yaml(
    """
    unifreeze: 1
    phases:
      - {name: head, rules: [{only: head}], lr: 0.02}
      - {name: top, at: {epoch: 1}, add: [{train: "blocks[-1]"}]}
    groups: [{match: head, lr_scale: 10}, {match: "bias | norm", weight_decay: 0}]
    """
)


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_an_optimizer_without_the_groups_of_the_plan_is_refused(trainer, tmp_path):
    with pytest.raises(OptimizerError, match="built without these groups"):
        RUNS[trainer](tmp_path, GROUPS, epochs=2)


def test_transformers_takes_an_optimizer_with_the_groups_of_the_plan(tmp_path):
    model = task()
    handle = GROUPS.apply(model)
    optimizer = handle.optimizer(torch.optim.AdamW, weight_decay=0.0)
    callback = hf.FreezeCallback(handle)
    made = RUNS["transformers"](
        tmp_path, callback=callback, model=model, optimizer=lambda _: optimizer, epochs=2
    )
    assert made.after == RUNS["plain"](tmp_path / "plain", GROUPS, epochs=2).after


def test_lightning_takes_an_optimizer_with_the_groups_of_the_plan(tmp_path):
    callback = pl.FreezeCallback(GROUPS)

    def by_the_plan(_):
        return callback.handle.optimizer(torch.optim.AdamW, weight_decay=0.0)

    made = RUNS["lightning"](tmp_path, callback=callback, optimizer=by_the_plan, epochs=2)
    assert made.after == RUNS["plain"](tmp_path / "plain", GROUPS, epochs=2).after


def push(model):
    """What frozen weights suffer from something that writes to them."""
    with torch.no_grad():
        model.net.stem.weight.add_(1.0)


@pytest.mark.parametrize("trainer", CALLBACKS)
@pytest.mark.parametrize("plan", [STILL, PLAN], ids=["without phases", "with phases"])
def test_what_moves_although_frozen_is_found(trainer, plan, tmp_path):
    class Pushing(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            push(self.model)

    def pushing(model):
        optimizer = Pushing(model.parameters(), lr=0.1)
        optimizer.model = model
        return optimizer

    with pytest.raises(FrozenDriftError, match=r"net\.stem\.weight: moved"):
        RUNS[trainer](tmp_path, plan, optimizer=pushing, epochs=2)


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_a_checkpoint_without_the_state_of_the_plan_is_refused(trainer, tmp_path):
    def over_everything(model):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    without = RUNS[trainer](tmp_path / "without", STILL, epochs=1, optimizer=over_everything)
    with pytest.raises(ScheduleError, match="says nothing of the plan's phases"):
        RUNS[trainer](tmp_path, checkpoint=without.checkpoints[3], optimizer=over_everything)


def test_a_checkpoint_written_without_the_callback_is_refused(tmp_path):
    hugging_face_trainer(tmp_path, [], epochs=1).train()
    with pytest.raises(ScheduleError, match="says nothing of the plan's phases"):
        RUNS["transformers"](tmp_path, checkpoint=tmp_path / "checkpoint-2")


@pytest.mark.parametrize(
    "name", ["plain_torch", "accelerate_resnet", "lightning_resnet", "transformers_bert"]
)
def test_an_example_goes_through_its_phases(name, capsys):
    runpy.run_module(f"examples.trainers.{name}", run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    shown = [line.partition(" trainable")[0] for line in lines if "trainable params" in line]
    assert shown == ["0 head", "1 top", "2 top", "3 full", "4 head again", "5 head again"]
    assert sum(line.startswith("unchanged") for line in lines) == 2


def floats(content):
    return torch.frombuffer(bytearray(content), dtype=torch.float32).tolist()
