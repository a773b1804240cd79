"""A plan whose phases wait, and a loop that never calls `handle.step`: nothing of it is silent."""

import copy
import gc
import json
import warnings
import weakref

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.sides import ROWS, SIDES, Paddle, Torch, values
from unifreeze.errors import OptimizerError, ScheduleError, UnifreezeError, UnifreezeWarning

NEVER = "the schedule was never told of an epoch or step"
FIRST = "{name: head, rules: [{only: head}], lr: 0.1}"
ENTRIES = {
    "at: {epoch: 1}": "handle.step(epoch=epoch) before each epoch's first batch",
    "after: {epochs: 2}": "handle.step(epoch=epoch) before each epoch's first batch",
    "at: {step: 9}": "handle.step(step=step) before each of the optimizer's steps",
    "when: {metric: loss, stalled_for: 2}": 'handle.step(epoch=epoch, metrics={"loss": …})',
}
CALLS = ["step", "minimize", "closure"]


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


def plan(entry="at: {epoch: 1}"):
    rows = f"[{FIRST}, {{name: all, {entry}, add: [{{train: all}}]}}]"
    return uf.FreezePlan.from_yaml(f"{{unifreeze: 1, phases: {rows}}}")


ONE = uf.FreezePlan.from_yaml(f"{{unifreeze: 1, phases: [{FIRST}]}}")
NONE = uf.FreezePlan().only("head")


def rows(side):
    return torch.tensor(ROWS) if side is Torch else paddle.to_tensor(ROWS)


def forward(side, model):
    return (model(rows(side)) ** 2).mean()


def plain_optimizer(side, model):
    if side is Torch:
        return torch.optim.SGD(model.parameters(), lr=0.1)
    return paddle.optimizer.SGD(0.1, parameters=model.parameters())


def take_step(side, model, optimizer, call="step"):
    """One training step in one of the ways there are."""
    if call == "closure":

        def closure():
            optimizer.zero_grad()
            loss = forward(side, model)
            loss.backward()
            return loss

        return optimizer.step(closure)
    loss = forward(side, model)
    loss.backward()
    return optimizer.minimize(loss) if call == "minimize" else optimizer.step()


def quiet_no_grad(side):
    return torch.no_grad() if side is Torch else paddle.no_grad()


def warned(work):
    """What the product warns of while something is done."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        work()
    return [str(one.message) for one in seen if isinstance(one.message, UnifreezeWarning)]


def hooks(model):
    """Everything that could be left on any module, as a copy."""
    modules = model.modules() if isinstance(model, torch.nn.Module) else model.sublayers(True)
    kept = []
    for module in modules:
        own = vars(module)
        kept.append({name: list(own[name] or ()) for name in own if "hook" in name})
        kept.append(sorted(own))
    return kept


# The first step.


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("call", CALLS)
def test_the_first_step_is_refused_and_moves_nothing(side, entry, call):
    if (side is Torch) == (call == "minimize") and call != "step":
        call = "closure" if side is Torch else "minimize"
    model = side.build()
    handle = plan(entry).apply(model, batch=ROWS)
    optimizer = handle.optimizer(side.optimizers.AdamW, weight_decay=0.1)
    before = values(model)
    for _ in range(2):  # not the first time alone
        with pytest.raises(ScheduleError, match=NEVER) as caught:
            take_step(side, model, optimizer, call)
        assert ENTRIES[entry] in str(caught.value)
        assert "'head'" in str(caught.value)
        assert "'all'" in str(caught.value)
    after = values(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    moments = optimizer.state if side is Torch else optimizer._accumulators
    assert not any(len(one) for one in moments.values())
    assert handle.state_dict()["taken"] == 0

    handle.step(epoch=0, step=0)
    take_step(side, model, optimizer, call)
    moved = {
        name for name, value in values(model).items() if not np.array_equal(value, before[name])
    }
    assert moved == set(handle.resolution.trainable_paths)
    assert handle.state_dict()["taken"] == 1


def test_an_optimizer_of_a_plan_that_was_replaced_is_told_apart(side):
    """A notebook's cell that applies the plan runs twice, and the one with the optimizer once."""
    model = side.build()
    optimizer = plan().apply(model, batch=ROWS).optimizer(side.optimizers.SGD)
    handle = plan().apply(model, batch=ROWS)
    handle.step(epoch=0)
    before = values(model)
    with pytest.raises(OptimizerError, match="of a plan that was replaced"):
        take_step(side, model, optimizer)
    assert all(np.array_equal(before[name], value) for name, value in values(model).items())
    handle.attach(optimizer)
    take_step(side, model, optimizer)
    assert any(not np.array_equal(before[name], value) for name, value in values(model).items())


@pytest.mark.parametrize("text", [ONE, NONE], ids=["one phase", "no phases"])
def test_a_plan_of_one_phase_never_complains(side, text):
    model = side.build()
    handle = text.apply(model, batch=ROWS)
    optimizer = handle.optimizer(side.optimizers.SGD, lr=0.1)
    assert not warned(lambda: take_step(side, model, optimizer))
    other = side.build()
    text.apply(other, batch=ROWS)
    assert not warned(lambda: take_step(side, other, plain_optimizer(side, other)))
    verified = handle.verify()
    assert verified.told
    assert "told" not in str(verified)
    assert "told" not in str(handle.report())
    assert handle.state_dict()["told"] is False  # a fact, and no complaint


def test_accumulated_gradients_and_an_evaluation_first_are_fine(side):
    model = side.build()
    handle = plan().apply(model, batch=ROWS)

    def loop():
        model.eval()
        with quiet_no_grad(side):
            forward(side, model)
        optimizer = handle.optimizer(side.optimizers.SGD)
        for epoch in range(2):
            handle.step(epoch=epoch)
            model.train()
            for _ in range(3):
                (forward(side, model) / 3).backward()
            optimizer.step()
            optimizer.clear_grad() if side is Paddle else optimizer.zero_grad()

    assert not warned(loop)
    assert handle.phase.name == "all"
    assert handle.verify().told


def test_a_loss_scaler_takes_its_step_only_once_the_run_is_told():
    model = Torch.build()
    handle = plan().apply(model, batch=ROWS)
    optimizer = handle.optimizer(torch.optim.SGD)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def take(factor=1.0):
        scaler.scale(forward(Torch, model) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    before = values(model)
    take(float("inf"))  # it skips the step, so nothing is refused yet
    with pytest.raises(ScheduleError, match=NEVER):
        take()
    assert all(np.array_equal(before[name], value) for name, value in values(model).items())
    handle.step(epoch=0)
    scaler.update()
    optimizer.zero_grad()
    take()
    assert any(not np.array_equal(before[name], value) for name, value in values(model).items())


def test_paddle_s_loss_scaler_too():
    model = Paddle.build()
    handle = plan().apply(model, batch=ROWS)
    optimizer = handle.optimizer(paddle.optimizer.SGD)
    scaler = paddle.amp.GradScaler(init_loss_scaling=4.0)
    for way in ("step", "minimize"):
        loss = scaler.scale(forward(Paddle, model))
        loss.backward()
        with pytest.raises(ScheduleError, match=NEVER):
            scaler.step(optimizer) if way == "step" else scaler.minimize(optimizer, loss)


# States.


def test_a_state_says_whether_the_run_was_told_and_brings_it_back(side):
    text = plan()
    handle = text.apply(side.build(), batch=ROWS)
    untold = json.loads(json.dumps(handle.state_dict()))
    assert untold["told"] is False
    handle.step(epoch=0)
    told = json.loads(json.dumps(handle.state_dict()))
    assert told["told"] is True

    for state, is_told in [(told, True), (untold, False), (told, True)]:
        model = side.build()
        again = text.apply(model, batch=ROWS)
        again.load_state_dict(state)
        assert again.verify().told is is_told
        assert again.state_dict() == state
        optimizer = again.optimizer(side.optimizers.SGD)
        if is_told:
            assert not warned(lambda m=model, o=optimizer: take_step(side, m, o))
        else:
            with pytest.raises(ScheduleError, match=NEVER):
                take_step(side, model, optimizer)
    again.load_state_dict(untold)  # the run that is gone on with is the state's
    with pytest.raises(ScheduleError, match=NEVER):
        take_step(side, model, optimizer)


def test_a_step_that_is_refused_tells_nothing(side):
    handle = plan().apply(side.build(), batch=ROWS)
    for wrong in ({"epoch": -1}, {}, {"epoch": 0, "metrics": {"loss": "low"}}):
        with pytest.raises(UnifreezeError):
            handle.step(**wrong)
    assert handle.state_dict()["told"] is False
    assert not handle.would_stop(epoch=0)
    assert handle.state_dict()["told"] is False


def test_verify_and_the_report_say_it(side):
    model = side.build()
    handle = plan().apply(model, batch=ROWS)
    verified, report = handle.verify(), handle.report()
    assert not verified.told
    assert NEVER in str(verified)
    assert str(verified).startswith(f"unchanged: {len(handle.resolution.frozen_paths)} frozen")
    assert not report.told
    assert NEVER in str(report)
    assert report.to_json()["told"] is False
    handle.step(epoch=0)
    assert handle.verify().told
    assert NEVER not in f"{handle.verify()} {handle.report()}"
    assert handle.report().to_json()["told"] is True


# The warning.


def train(side, model, count=2):
    optimizer = plain_optimizer(side, model)
    model.train()
    for _ in range(count):
        take_step(side, model, optimizer)


@pytest.mark.parametrize("kept", [True, False], ids=["handle kept", "handle dropped"])
def test_training_without_the_plan_s_optimizer_warns_once(side, kept):
    model = side.build()
    before = hooks(model)
    handle = plan("when: {metric: loss, stalled_for: 2}").apply(model, batch=ROWS)
    under_plan = hooks(model)
    if not kept:
        del handle
        gc.collect()
    (message,) = warned(lambda: train(side, model, 3))
    assert NEVER in message
    assert 'handle.step(epoch=epoch, metrics={"loss": …})' in message
    assert "FreezeCallback" in message
    assert hooks(model) != under_plan  # it is off
    if kept:
        handle.remove()
        assert hooks(model) == before


@pytest.mark.parametrize("loop", ["eval", "no_grad", "told", "attached", "told by a state"])
def test_it_does_not_warn_where_nothing_is_wrong(side, loop):
    model = side.build()
    handle = plan().apply(model, batch=ROWS)
    told = plan().apply(side.build(), batch=ROWS)
    told.step(epoch=0)

    def work():
        if loop == "told":
            handle.step(epoch=0)
        elif loop == "told by a state":
            handle.load_state_dict(told.state_dict())
        elif loop == "attached":
            handle.optimizer(side.optimizers.SGD)
        model.eval() if loop == "eval" else model.train()
        if loop == "no_grad":
            with quiet_no_grad(side):
                forward(side, model)
        else:
            forward(side, model)

    assert not warned(work)


def test_after_an_evaluation_it_still_warns(side):
    model = side.build()
    plan().apply(model, batch=ROWS)

    def work():
        model.eval()
        forward(side, model)
        model.train()
        with quiet_no_grad(side):
            forward(side, model)

    assert not warned(work)
    assert len(warned(lambda: train(side, model))) == 1


def test_a_loop_that_calls_only_the_parts_is_seen(side):
    """A trainer's module often has a method of its own for a step of training."""

    class Module(torch.nn.Module if side is Torch else paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.parts = listed([side.build()])

        def step(self):
            return forward(side, self.parts[0])

    listed = torch.nn.ModuleList if side is Torch else paddle.nn.LayerList
    model = Module()
    before = hooks(model)
    handle = plan().apply(model)

    def work():
        for _ in range(2):
            model.step().backward()

    assert len(warned(work)) == 1
    handle.remove()
    assert hooks(model) == before


def test_each_of_several_models_is_seen(side):
    for name in ("student", "teacher"):
        models = {"student": side.build(), "teacher": side.build()}
        handle = plan().apply(models)
        assert len(warned(lambda n=name, m=models: train(side, m[n]))) == 1
        handle.remove()


def test_a_new_layer_or_accepted_values_bring_no_second_warning(side):
    model = side.build()
    handle = plan().apply(model, batch=ROWS)
    handle.rebase()
    handle.reapply()
    assert len(warned(lambda: train(side, model))) == 1

    def more():
        handle.rebase()
        train(side, model)
        handle.reapply()
        train(side, model)

    assert not warned(more)


def test_another_plan_or_none_ends_the_watch(side):
    model = side.build()
    before = hooks(model)
    plan().apply(model, batch=ROWS)
    handle = NONE.apply(model, batch=ROWS)
    assert not warned(lambda: train(side, model))
    handle.remove()
    assert hooks(model) == before
    handle = plan().apply(model, batch=ROWS)
    handle.remove()
    assert hooks(model) == before
    assert not warned(lambda: train(side, model))


def of_forward(model):
    """The hooks around the forward passes of every module."""
    rows = [one for one in hooks(model) if isinstance(one, dict)]
    return [{name: kept for name, kept in row.items() if "forward" in name} for row in rows]


def test_a_copy_is_deaf_and_clean_once_it_has_run(side):
    model = side.build()
    handle = NONE.apply(model, batch=ROWS)  # freezes what the first phase does, and does not wait
    calm = of_forward(copy.deepcopy(model))
    handle.remove()
    plan().apply(model, batch=ROWS)
    copied = copy.deepcopy(model)
    assert of_forward(copied) != calm
    assert not warned(lambda: train(side, copied))
    assert of_forward(copied) == calm
    assert len(warned(lambda: train(side, model))) == 1


def test_a_watch_keeps_no_model_alive(side):
    model = side.build()
    gone = weakref.ref(model)
    plan().apply(model, batch=ROWS)
    del model
    gc.collect()
    assert gone() is None


def test_as_an_error_it_stops_that_pass_and_no_other(side):
    model = side.build()
    handle = plan().apply(model, batch=ROWS)
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnifreezeWarning)
        with pytest.raises(UnifreezeWarning, match=NEVER):
            forward(side, model)
        forward(side, model).backward()
    handle.remove()


def test_a_pass_that_fails_is_no_reason_to_be_silent(side):
    model = side.build()
    before = hooks(model)
    handle = plan().apply(model, batch=ROWS)
    model.train()

    def fails():
        with pytest.raises(Exception, match=r"."):
            model(rows(side)[:, :1])
        with pytest.raises(Exception, match=r"."):
            model(rows(side)[:, :1])

    assert len(warned(fails)) == 1
    assert not warned(lambda: train(side, model))
    handle.remove()
    assert hooks(model) == before


def test_comparing_plans_does_not_take_the_first_phase_for_the_plan(side):
    def loop(model, handle):
        optimizer = handle.optimizer(side.optimizers.SGD, lr=0.1)
        take_step(side, model, optimizer)

    def told(model, handle):
        handle.step(epoch=0)
        loop(model, handle)

    def own(model, handle):
        warned(lambda: train(side, model))

    def judge(model):
        return {"loss": 1.0}

    for work, fails in ((loop, True), (told, False), (own, True)):
        found = uf.compare_plans({"a": plan()}, side.build, work, judge)
        assert (NEVER in str(found)) is fails, work
