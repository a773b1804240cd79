"""In every trainer of Paddle a plan makes the run that the plain loop makes, to the last bit."""

import re
import runpy
from pathlib import Path

import numpy as np
import paddle
import pytest

import tests.support.paddle_trainer_runs as runs
import unifreeze as uf
from tests.support.paddle_trainer_runs import PLAN, RUNS, TIMELINE, FitCallback, Stack
from unifreeze.errors import (
    FrozenDriftError,
    OptimizerError,
    ScheduleError,
    UnsupportedPlanError,
)

HEAD = {"head.weight", "head.bias"}
TOP = {name for name in Stack().state_dict() if name.startswith("blocks.1.")}
CALLBACKS = ["model_fit", "paddlenlp"]
STILL = uf.FreezePlan().only("head")


def phases(*more):
    """A plan that trains the head, and then more."""
    lines = ["unifreeze: 1", "phases:", "  - {name: head, rules: [{only: head}]}"]
    return uf.FreezePlan.from_yaml("\n".join([*lines, *(f"  - {one}" for one in more)]))


def size(content):
    return np.abs(np.frombuffer(content, "float32")).mean()


def nlp_callback(*args, **named):
    from unifreeze_paddle.trainers.paddlenlp import FreezeCallback

    return FreezeCallback(*args, **named)


def meddle(model):
    with paddle.no_grad():
        model.stem.weight.set_value(model.stem.weight + 1)


class KilledError(Exception):
    """Stands for what ends a process."""


class FitMeddler(paddle.callbacks.Callback):
    """Writes into what is frozen."""

    def on_epoch_end(self, epoch, logs=None):
        meddle(self.model.network)


def paddlenlp_meddler():
    from paddlenlp.trainer import TrainerCallback

    class Meddler(TrainerCallback):
        def on_epoch_end(self, args, state, control, model=None, **_):
            meddle(model)

    return Meddler()


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
def test_paddlenlp_resumes_in_the_middle_of_an_epoch(whole, steps, tmp_path):
    checkpoint = whole["paddlenlp"].checkpoints[steps]
    resumed = RUNS["paddlenlp"](tmp_path, checkpoint=checkpoint)
    assert resumed.after == whole["paddlenlp"].after[steps:]


def test_an_optimizer_that_lacks_what_a_phase_trains_is_refused(trainer, tmp_path):
    def over_the_head(model):
        return paddle.optimizer.AdamW(0.1, parameters=model.head.parameters())

    with pytest.raises(OptimizerError, match="lacks 14 parameters that the plan trains"):
        RUNS[trainer](tmp_path, optimizer=over_the_head)


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_a_plan_without_phases_refuses_an_optimizer_without_what_it_trains(trainer, tmp_path):
    def over_the_bias(model):
        return paddle.optimizer.AdamW(0.1, parameters=[model.head.bias])

    with pytest.raises(OptimizerError, match="lacks 1 parameter that the plan trains: head"):
        RUNS[trainer](tmp_path, STILL, optimizer=over_the_bias)


def test_a_plan_without_phases_holds(trainer, tmp_path):
    made = RUNS[trainer](tmp_path, STILL, epochs=2)
    assert made.moved(None) == HEAD
    made.handle.verify()


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_a_plan_without_phases_is_resumed_too(trainer, tmp_path):
    with paddle.utils.unique_name.guard():  # without phases an optimizer's state goes by these
        whole = RUNS[trainer](tmp_path / "one", STILL, epochs=3)
    with paddle.utils.unique_name.guard():
        other = RUNS[trainer](tmp_path / "other", STILL, epochs=3, checkpoint=whole.checkpoints[6])
    assert other.after == whole.after[6:]


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_the_plan_is_saved_beside_the_run(whole, trainer):
    assert uf.FreezePlan.load(whole[trainer].folder / "freeze_plan.yaml") == PLAN


@pytest.mark.parametrize(("place", "steps"), [("step: 4", 4), ("step: 5", 5), ("epoch: 2", 6)])
@pytest.mark.parametrize("trainer", CALLBACKS)
def test_training_ends_with_the_step_before_the_schedule_s_end(trainer, place, steps, tmp_path):
    plan = phases(f"{{name: end, at: {{{place}}}, stop: true}}")
    made = RUNS[trainer](tmp_path, plan)
    assert len(made.phases) == steps
    assert made.handle.stopped


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_training_ends_where_it_should_without_a_validation_too(trainer, tmp_path):
    plan = phases("{name: end, at: {epoch: 2}, stop: true}")
    more = {
        "model_fit": {"validated": False, "accumulate_grad_batches": 1},
        "paddlenlp": {"evaluation_strategy": "no", "gradient_accumulation_steps": 1},
    }
    made = RUNS[trainer](tmp_path, plan, **more[trainer])
    assert len(made.phases) == 2 * runs.BATCHES
    assert made.handle.stopped


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_a_run_whose_schedule_has_ended_cannot_be_resumed(trainer, tmp_path):
    plan = phases("{name: end, at: {epoch: 2}, stop: true}")
    last = RUNS[trainer](tmp_path / "one", plan).checkpoints[6]
    with pytest.raises(ScheduleError, match="has ended, after 2 epochs and 6 steps"):
        RUNS[trainer](tmp_path / "other", plan, checkpoint=last)


def test_a_phase_s_weight_decay_takes_effect(trainer, tmp_path):
    shrinks = {}
    for decay in (0.0, 5.0):
        more = f"{{name: all, at: {{epoch: 1}}, add: [{{train: all}}], weight_decay: {decay}}}"
        made = RUNS[trainer](tmp_path / str(decay), phases(more), epochs=2)
        shrinks[decay] = size(made.after[-1]["stem.weight"])
        first = made.after[2]
        assert first["stem.weight"] == made.start["stem.weight"]
    assert shrinks[5.0] < 0.9 * shrinks[0.0]


def test_model_fit_s_reduction_of_the_rate_reduces_the_phase_s(tmp_path):
    plateau = paddle.callbacks.ReduceLROnPlateau(patience=1, min_delta=100, factor=1e-6, verbose=0)
    plan = phases("{name: all, at: {epoch: 1}, rules: [{train: all}], lr: 0.05}")
    made = RUNS["model_fit"](tmp_path, plan, epochs=4, others=[plateau])
    before, reduced, end = (
        np.frombuffer(made.after[number]["head.weight"], "float32") for number in (2, 5, 11)
    )
    assert np.abs(reduced - before).max() > 0.01
    assert 0 < np.abs(end - reduced).max() < 1e-5


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_what_moves_while_it_is_frozen_is_found_at_the_boundary(trainer, tmp_path):
    plan = phases("{name: all, at: {epoch: 1}, add: [{train: all}]}")
    meddler = {"model_fit": FitMeddler, "paddlenlp": paddlenlp_meddler}[trainer]()
    with pytest.raises(FrozenDriftError, match=r"stem\.weight"):
        RUNS[trainer](tmp_path, plan, others=[meddler])


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_what_moves_in_the_last_phase_is_found_at_the_end(trainer, tmp_path):
    meddler = {"model_fit": FitMeddler, "paddlenlp": paddlenlp_meddler}[trainer]()
    with pytest.raises(FrozenDriftError, match=r"stem\.weight"):
        RUNS[trainer](tmp_path, STILL, epochs=1, others=[meddler])


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_rates_by_group_need_an_optimizer_that_has_them(trainer, tmp_path):
    plan = uf.FreezePlan.from_yaml(
        "unifreeze: 1\nrules: [{freeze: stem}]\ngroups: [{match: head, lr_scale: 10}]"
    )
    with pytest.raises(OptimizerError, match="by group"):
        RUNS[trainer](tmp_path, plan)


def test_paddlenlp_takes_a_handle_and_the_optimizer_built_from_it(tmp_path):
    plan = uf.FreezePlan.from_yaml(
        "unifreeze: 1\nrules: [{freeze: stem}]\ngroups: [{match: head, lr_scale: 10}]"
    )
    model = Stack()
    handle = plan.apply(model)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=1e-3)
    callback = nlp_callback(handle)
    made = RUNS["paddlenlp"](
        tmp_path, callback=callback, model=model, optimizer=lambda _: optimizer, epochs=1
    )
    assert made.handle is handle
    assert made.moved(None) == set(made.start) - {"stem.weight", "stem.bias"}


def test_model_fit_says_that_it_takes_no_groups(tmp_path):
    model = Stack()
    handle = uf.FreezePlan.from_yaml(
        "unifreeze: 1\nrules: [{freeze: stem}]\ngroups: [{match: head, lr_scale: 10}]"
    ).apply(model)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=1e-3)
    with pytest.raises(OptimizerError, match="cannot step an optimizer with param groups"):
        RUNS["model_fit"](tmp_path, callback=FitCallback(handle), optimizer=lambda _: optimizer)


def test_model_fit_goes_on_with_a_second_fit(whole):
    network = Stack()
    model, callback = paddle.Model(network), FitCallback(PLAN)
    model.prepare(runs.over_everything(network), runs.share)
    with runs.traced(network, lambda: callback.handle, "") as trace:
        for epochs in (2, 3):
            model.fit(
                runs.Samples(),
                runs.Samples(99, 1),
                batch_size=runs.SIZE,
                epochs=epochs,
                shuffle=False,
                verbose=0,
                callbacks=callback,
                accumulate_grad_batches=runs.ACCUMULATED,
            )
    assert trace.after == whole["model_fit"].after[:15]


@pytest.mark.parametrize("given", ["plan", "handle"])
def test_paddlenlp_begins_anew_when_it_trains_again(given, tmp_path):
    model = Stack()
    callback = nlp_callback(PLAN if given == "plan" else PLAN.apply(model))
    trainer = runs.trainer_of(tmp_path, [callback], model=model)
    trainer.evaluate()
    for _ in range(2):
        with runs.traced(model, lambda: callback.handle, "") as trace:
            trainer.train()
        assert trace.phases == TIMELINE


def test_paddlenlp_meets_what_moved_before_it_loads_the_best_weights(tmp_path):
    with pytest.raises(FrozenDriftError, match=r"stem\.weight"):
        RUNS["paddlenlp"](
            tmp_path,
            STILL,
            epochs=1,
            load_best_model_at_end=True,
            save_strategy="epoch",
            others=[paddlenlp_meddler()],
        )


def test_model_fit_may_save_before_or_after_the_plan_s_callback(whole, tmp_path):
    saver = paddle.callbacks.ModelCheckpoint(save_dir=str(tmp_path))
    made = RUNS["model_fit"](tmp_path, others=[saver])
    for epoch in range(6):
        name = f"{epoch}.unifreeze.json"
        saved = [folder / name for folder in (tmp_path, whole["model_fit"].folder)]
        # Every run has an identity of its own.
        states = [re.sub(r'"run": "\w+"', "", file.read_text()) for file in saved]
        assert states[0] == states[1]
    assert made.after == whole["model_fit"].after


def test_model_fit_killed_before_a_validation_ends_is_resumed_before_it(whole, tmp_path):
    class Killer(paddle.callbacks.Callback):
        seen = 0

        def on_eval_batch_begin(self, step, logs=None):
            self.seen += 1
            if self.seen == 2:
                raise KilledError

    with pytest.raises(KilledError):
        RUNS["model_fit"](tmp_path, others=[Killer()])
    with pytest.raises(ScheduleError, match="before the evaluation of epoch 1"):
        RUNS["model_fit"](tmp_path / "b", checkpoint=tmp_path / "1")
    resumed = RUNS["model_fit"](tmp_path / "c", checkpoint=tmp_path / "0")
    assert resumed.after == whole["model_fit"].after[3:]


def killer(moment, epoch):
    """Ends PaddleNLP's run at some moment of an epoch, before the plan's callback hears of it."""
    from paddlenlp.trainer import TrainerCallback

    def ends(self, args, state, control, **_):
        if round(state.epoch) == epoch:
            raise KilledError

    return type("Killer", (TrainerCallback,), {moment: ends})()


def test_paddlenlp_killed_before_an_evaluation_is_resumed_before_it(whole, tmp_path):
    with pytest.raises(KilledError):
        RUNS["paddlenlp"](tmp_path, others=[killer("on_epoch_end", 2)])
    with pytest.raises(ScheduleError, match="before the evaluation of epoch 1"):
        RUNS["paddlenlp"](tmp_path / "b", checkpoint=tmp_path / "checkpoint-6")
    resumed = RUNS["paddlenlp"](tmp_path / "c", checkpoint=tmp_path / "checkpoint-5")
    assert resumed.after == whole["paddlenlp"].after[5:]


def test_paddlenlp_killed_so_goes_on_where_no_metric_is_waited_for(tmp_path):
    plan = phases("{name: all, at: {epoch: 2}, add: [{train: all}]}")
    whole = RUNS["paddlenlp"](tmp_path / "a", plan, epochs=3)
    with pytest.raises(KilledError):
        RUNS["paddlenlp"](tmp_path / "b", plan, epochs=3, others=[killer("on_epoch_end", 2)])
    checkpoint = tmp_path / "b" / "checkpoint-6"
    resumed = RUNS["paddlenlp"](tmp_path / "c", plan, epochs=3, checkpoint=checkpoint)
    assert resumed.phases == ["all"] * 3
    assert resumed.after == whole.after[6:]


def test_paddlenlp_killed_after_an_evaluation_goes_on_with_it(whole, tmp_path):
    with pytest.raises(KilledError):
        RUNS["paddlenlp"](tmp_path, save_strategy="epoch", others=[killer("on_epoch_begin", 2)])
    resumed = RUNS["paddlenlp"](tmp_path / "b", checkpoint=tmp_path / "checkpoint-6")
    assert resumed.after == whole["paddlenlp"].after[6:]


def test_a_resumed_fit_that_has_had_its_epochs_says_so(whole, tmp_path):
    checkpoint = whole["model_fit"].checkpoints[6]
    with pytest.raises(ScheduleError, match="has ended, after 2 epochs"):
        RUNS["model_fit"](tmp_path, checkpoint=checkpoint, epochs=2)


def test_a_checkpoint_without_a_state_is_refused(whole, tmp_path):
    with pytest.raises(ScheduleError, match=r"cannot read .*none\.unifreeze\.json"):
        RUNS["model_fit"](tmp_path, checkpoint=tmp_path / "none")
    trainer = runs.trainer_of(tmp_path, [], epochs=1)
    trainer.train()
    with pytest.raises(ScheduleError, match="resumes at step 3, and nothing tells the phase"):
        RUNS["paddlenlp"](tmp_path / "b", checkpoint=tmp_path / "checkpoint-3")


def test_a_state_of_another_step_is_refused(whole, tmp_path):
    callback = nlp_callback(PLAN, resume=whole["paddlenlp"].checkpoints[6])
    checkpoint = whole["paddlenlp"].checkpoints[3]
    with pytest.raises(ScheduleError, match=r"resumes at step 3, and .* is of step 6"):
        RUNS["paddlenlp"](tmp_path, callback=callback, checkpoint=checkpoint)


@pytest.mark.parametrize("trainer", CALLBACKS)
def test_a_phase_begins_from_the_best_values_also_after_a_resume(trainer, tmp_path):
    stalled = "when: {metric: eval_loss, stalled_for: 2, min_delta: 100}"
    best = f"{{name: all, {stalled}, add: [{{train: all}}], restore_best: true}}"
    plan = phases(best.replace("eval_loss", "val_loss"))
    plain = RUNS["plain"](tmp_path / "plain", plan, epochs=5)
    whole = RUNS[trainer](tmp_path / "whole", phases(best), epochs=5)
    assert whole.phases == ["head"] * 9 + ["all"] * 6
    assert whole.after == plain.after
    checkpoint = whole.checkpoints[6]
    resumed = RUNS[trainer](tmp_path / "resumed", phases(best), epochs=5, checkpoint=checkpoint)
    assert resumed.after == whole.after[6:]


def test_paddlenlp_refuses_phases_after_which_a_model_with_adapters_saves_no_more(tmp_path):
    from paddlenlp.peft import LoRAConfig, LoRAModel

    import examples.trainers.paddlenlp_ernie as example

    def train(verb, **settings):
        model = LoRAModel(
            example.paddle_ernie(**example.SIZES), LoRAConfig(target_modules=[".*q_proj"], r=2)
        )
        callback = nlp_callback(phases(f"{{name: adapters, at: {{epoch: 1}}, {verb}}}"))
        made = runs.trainer_of(tmp_path, [callback], model=model, epochs=2, **settings)
        made.train_dataset = made.eval_dataset = example.Sentences()
        made.train()
        return callback.handle.phase.name

    again = "rules: [{only: adapter}]"
    with pytest.raises(UnsupportedPlanError, match=r"'adapters' freezes again 2 .*\n.*classifier"):
        train(again)
    assert train(again, save_strategy="no") == train("add: [{train: adapter}]") == "adapters"


def test_no_phase_begins_while_paddlenlp_accumulates(tmp_path):
    plan = phases("{name: all, at: {epoch: 1}, add: [{train: all}]}")
    made = RUNS["paddlenlp"](tmp_path, plan, epochs=2, batches=5)
    assert made.phases == ["head", "head", "head", "all"]


@pytest.mark.parametrize("greater", [True, False])  # one of which takes the first epoch for best
def test_paddlenlp_may_load_the_best_weights_at_the_end(greater, tmp_path):
    plan = uf.FreezePlan.from_yaml(
        "unifreeze: 1\nphases: [{name: all, rules: [{train: all}]}, "
        "{name: head, at: {epoch: 2}, rules: [{only: head}]}]"
    )
    made = RUNS["paddlenlp"](
        tmp_path,
        plan,
        epochs=3,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=greater,
        save_strategy="epoch",
    )
    made.handle.verify()


AGAIN = ["full", "head again", "head again"]
EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "trainers"


@pytest.mark.parametrize(
    ("name", "second"),
    [("plain_paddle", (3, 4, 5)), ("paddle_model_fit", (0, 1, 2)), ("paddlenlp_ernie", (3, 4, 5))],
)
def test_an_example_is_resumed_half_way(name, second, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    shown = [re.match(r"\d [a-z ]+(?= trainable)|unchanged", line) for line in lines]
    later = [f"{n} {phase}" for n, phase in zip(second, AGAIN, strict=True)]
    wanted = ["0 head", "1 top", "2 top", "unchanged", *later, "unchanged"]
    assert [found[0] for found in shown if found] == wanted
    assert name == "plain_paddle" or lines[-1] == "['freeze_plan.yaml']"
