"""A plan with phases on live models: what trains, at which rate, and what is refused."""

import gc
import json
import weakref

import numpy as np
import paddle
import pytest
import torch
from typer.testing import CliRunner

import unifreeze as uf
from tests.support.sides import ROWS, Paddle, Torch, check_step, close, named, values
from unifreeze._cli import app
from unifreeze.errors import (
    FrozenDriftError,
    OptimizerError,
    PlanError,
    ResolveError,
    ScheduleError,
    UndecidedRuleError,
)

PLAN = """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 0.1}
  - {name: top, at: {epoch: 2}, add: [{train: "blocks[-1]"}], lr: 0.01}
  - {name: full, at: {epoch: 4}, add: [{train: all}]}
  - {name: again, after: {epochs: 1}, like: head, lr: 0.1}
"""


@pytest.fixture(params=[Torch, Paddle])
def side(request):
    return request.param


def started(side, text=PLAN, **settings):
    model = side.build()
    handle = uf.FreezePlan.from_yaml(text).apply(model, batch=ROWS)
    return model, handle, side.sgd(handle, **settings)


def test_each_phase_trains_what_it_says_at_its_rate(side):
    model, handle, optimizer = started(side)
    counts = []
    for epoch, rate in enumerate([0.1, 0.1, 0.01, 0.01, 0.01, 0.1]):
        assert handle.step(epoch=epoch) == (epoch in (2, 4, 5))
        moved = check_step(side, model, optimizer, rate)
        counts.append((handle.phase.name, len(moved)))
    assert counts == [("head", 2)] * 2 + [("top", 8)] * 2 + [("full", 16), ("again", 2)]


def test_both_frameworks_train_the_same_at_every_step():
    timelines = []
    for side in (Torch, Paddle):
        _, handle, _ = started(side)
        names = [parameter.name for parameter in handle.resolution.spec.parameters]
        timeline = []
        for epoch in range(7):
            handle.step(epoch=epoch)
            flags = handle.resolution.trainable.tolist()
            timeline.append(sorted(name for name, flag in zip(names, flags, strict=True) if flag))
        timelines.append(timeline)
    assert timelines[0] == timelines[1]
    assert [len(names) for names in timelines[0]] == [2, 2, 8, 8, 16, 2, 2]


def test_a_scheduler_shapes_the_rate_of_the_phase(side):
    model = side.build()
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    optimizer = side.sgd(handle)
    if side is Paddle:
        optimizer = paddle.optimizer.SGD(
            paddle.optimizer.lr.ExponentialDecay(0.1, 0.5), parameters=model.parameters()
        )
        handle.attach(optimizer)
        scheduler = optimizer._learning_rate
    else:
        scheduler = side.scheduler(optimizer)
    for epoch, rate in enumerate([0.1, 0.05, 0.0025]):
        handle.step(epoch=epoch)
        check_step(side, model, optimizer, rate)
        scheduler.step()


def test_a_warm_up_from_zero_ends_at_the_rate_of_the_phase():
    model = Paddle.build()
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model, batch=ROWS)
    decay = paddle.optimizer.lr.StepDecay(0.2, 100)
    warm = paddle.optimizer.lr.LinearWarmup(decay, 2, 0.0, 0.2)
    optimizer = paddle.optimizer.SGD(warm, parameters=model.parameters())
    handle.attach(optimizer)
    handle.step(epoch=2)
    for rate in (0.0, 0.005, 0.01, 0.01):
        check_step(Paddle, model, optimizer, rate)
        warm.step()
    nothing = paddle.optimizer.SGD(0.0, parameters=model.parameters())
    with pytest.raises(OptimizerError, match="SGD has none of its own"):
        handle.attach(nothing)


@pytest.mark.parametrize(
    "made",
    [
        lambda lr: lr.PiecewiseDecay([2], [0.2, 0.1]),
        lambda lr: lr.OneCycleLR(0.2, 10),
        lambda lr: lr.CyclicLR(0.05, 0.2, 4),
        lambda lr: lr.CosineAnnealingWarmRestarts(0.2, 3),
        lambda lr: lr.LinearWarmup(lr.PiecewiseDecay([2], [0.2, 0.1]), 4, 0.05, 0.2),
    ],
)
def test_a_scheduler_of_paddle_shapes_the_rate_that_it_reaches(made):
    model = Paddle.build()
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model, batch=ROWS)
    scheduler = made(paddle.optimizer.lr)
    handle.attach(paddle.optimizer.SGD(scheduler, parameters=model.parameters()))
    for epoch, rate in enumerate([0.1, 0.1, 0.01]):
        handle.step(epoch=epoch)
        check_step(Paddle, model, handle._training.link.optimizer, scheduler() * rate / 0.2)
        scheduler.step()


def test_a_rate_goes_by_the_framework_s_name_for_it_too():
    model = Paddle.build()
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model, batch=ROWS)
    scheduler = paddle.optimizer.lr.ExponentialDecay(0.2, 0.5)
    optimizer = Paddle.sgd(handle, learning_rate=scheduler)
    scheduler.step()
    handle.step(epoch=0)
    check_step(Paddle, model, optimizer, 0.05)
    with pytest.raises(OptimizerError, match=r"lr=0\.5, and the plan's first phase sets 0\.1"):
        Paddle.sgd(handle, learning_rate=0.5)
    with pytest.raises(OptimizerError, match="the same setting"):
        Paddle.sgd(handle, learning_rate=0.1, lr=0.1)


def test_a_rate_that_is_a_tensor_may_have_a_scheduler_before_the_plan():
    model = Torch.build()
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model, batch=ROWS)
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.2), foreach=False)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
    handle.attach(optimizer)
    for epoch, rate in enumerate([0.05, 0.075, 0.01]):
        handle.step(epoch=epoch)
        check_step(Torch, model, optimizer, rate)
        scheduler.step()


def test_a_new_scheduler_or_rate_goes_through_the_phase_s():
    model, handle, optimizer = started(Paddle)
    scheduler = paddle.optimizer.lr.ExponentialDecay(0.4, 0.5)
    optimizer.set_lr_scheduler(scheduler)
    handle.step(epoch=2)
    check_step(Paddle, model, optimizer, 0.01)
    scheduler.step()
    check_step(Paddle, model, optimizer, 0.005)
    with pytest.raises(RuntimeError, match="can't be LRScheduler"):
        optimizer.set_lr(0.1)
    handle.remove()
    assert optimizer._learning_rate is scheduler
    check_step(Paddle, model, optimizer, 0.2)

    model, handle, optimizer = started(Paddle)
    optimizer.set_lr(0.05)
    handle.step(epoch=2)
    check_step(Paddle, model, optimizer, 0.005)
    with pytest.raises(TypeError):
        optimizer.set_lr("low")


def test_a_part_that_is_new_in_a_phase_is_told(side):
    model, handle, _ = started(side)
    handle.step(epoch=2)
    first = "stem" if side is Torch else "first"
    kinds = (torch.nn.Conv2d, paddle.nn.Conv2D)
    getattr(model, first).extra = kinds[side is Paddle](3, 4, 3)
    with pytest.raises(FrozenDriftError, match=rf"{first}\.extra\.weight"):
        handle.verify()


def test_weight_decay_is_the_phase_s(side):
    plan = PLAN.replace("lr: 0.01}", "lr: 0.01, weight_decay: 0.5}")
    model, handle, optimizer = started(side, plan, weight_decay=0.25)
    for epoch, (rate, decay) in {0: (0.1, 0.25), 2: (0.01, 0.5), 4: (0.01, 0.5)}.items():
        handle.step(epoch=epoch)
        check_step(side, model, optimizer, rate, decay)


@pytest.mark.parametrize("name", ["SGD", "Momentum", "Adam", "AdamW", "Lamb"])
@pytest.mark.parametrize(
    "groups",
    ["", "groups: [{match: all, lr_scale: 0.5}]", "groups: [{match: norm, weight_decay: 0}]"],
)
def test_a_phase_s_decay_is_as_if_the_optimizer_had_it(side, name, groups):
    name = {"Momentum": "SGD", "Lamb": "NAdam"}.get(name, name) if side is Torch else name
    cls = getattr(side.optimizers, name)
    more = {"momentum": 0.9} if name == "SGD" and side is Torch else {}
    decay = "lamb_weight_decay" if name == "Lamb" else "weight_decay"
    phases = (
        "{name: all, rules: [{train: all}], lr: 0.01WITH}\n  - {name: head, at: {epoch: 9}, lr: 1}"
    )
    text = f"unifreeze: 1\n{groups}\nphases:\n  - {phases}"
    ends, start = [], values(side.build())
    for said, own in ((", weight_decay: 0.5", 0.125), ("", 0.5)):
        model = side.build()
        for path, tensor in named(model):
            side.assign(tensor, start[path])
        handle = uf.FreezePlan.from_yaml(text.replace("WITH", said)).apply(model, batch=ROWS)
        optimizer = handle.optimizer(cls, **{decay: own}, **more)
        for epoch in range(3):
            handle.step(epoch=epoch)
            side.train(model, optimizer)
        ends.append(values(model))
    for path, end in ends[1].items():
        close(ends[0][path], end)
    moved = [not np.allclose(ends[0][path], start[path]) for path in start]
    assert all(moved)


def test_groups_without_decay_beside_others_keep_none(side):
    """What transformers' Trainer builds: no decay for biases and norms."""
    model = side.build()
    phases = "[{name: all, rules: [{train: all}], weight_decay: 0.5}, LATER]"
    phases = phases.replace("LATER", "{name: b, at: {epoch: 9}, lr: 1}")
    handle = uf.FreezePlan.from_yaml(f"{{unifreeze: 1, phases: {phases}}}").apply(model)
    rest = [tensor for name, tensor in named(model) if "bias" not in name]
    biases = [tensor for name, tensor in named(model) if "bias" in name]
    groups = [{"params": rest, "weight_decay": 0.125}, {"params": biases, "weight_decay": 0.0}]
    if side is Torch:
        optimizer = torch.optim.AdamW(groups, lr=0.01)
    else:
        optimizer = paddle.optimizer.AdamW(0.01, parameters=groups)
    handle.attach(optimizer)
    handle.step(epoch=0)
    for tensor in biases:
        side.write(tensor)
    before = values(model)
    gradients = side.train(model, optimizer)
    for name, after in values(model).items():
        decay = 0.0 if "bias" in name else 0.5
        clear = np.abs(gradients[name]) > 1e-4
        step = before[name] * (1 - 0.01 * decay) - 0.01 * np.sign(gradients[name])
        np.testing.assert_allclose(after[clear], step[clear], rtol=2e-3, atol=2e-5)


def test_removing_the_plan_leaves_the_optimizer_as_it_was(side):
    model, handle, optimizer = started(side)
    handle.step(epoch=2)
    check_step(side, model, optimizer, 0.01)
    handle.remove()
    check_step(side, model, optimizer, 0.1)


def test_another_plan_takes_an_optimizer_over(side):
    model, handle, optimizer = started(
        side, PLAN.replace("lr: 0.01}", "lr: 0.01, weight_decay: 0.5}")
    )
    handle.step(epoch=2)
    again = uf.FreezePlan.from_yaml(PLAN).apply(model, batch=ROWS)
    again.attach(optimizer)
    for epoch, rate in {1: 0.1, 2: 0.01}.items():
        again.step(epoch=epoch)
        check_step(side, model, optimizer, rate)


def test_two_plans_in_force_do_not_steer_one_optimizer(side):
    model = side.build()
    phases = "[{name: a, rules: [{train: all}]}, {name: b, at: {epoch: 1}, lr: 1}]"
    plan = uf.FreezePlan.from_yaml(f"{{unifreeze: 1, phases: {phases}}}")
    parts = (model.units, model.fc) if side is Torch else (model.cells, model.out)
    one, other = (plan.apply(part) for part in parts)
    if side is Torch:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    else:
        optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    one.attach(optimizer)
    with pytest.raises(OptimizerError, match="steered by the phases of another plan"):
        other.attach(optimizer)
    one.remove()
    other.attach(optimizer)
    other.step(epoch=1)
    check_step(side, model, optimizer, 1)


def test_a_run_keeps_no_model_alive(side):
    model, handle, optimizer = started(side)
    handle.step(epoch=2)
    side.train(model, optimizer)
    left = weakref.ref(model)
    del model, handle, optimizer
    gc.collect()
    assert left() is None


def test_what_came_after_the_optimizer_was_built_is_missed(side):
    model, handle, _ = started(side)
    last = "fc" if side is Torch else "out"
    setattr(model, last, getattr(side.build(), last))
    handle.reapply()
    with pytest.raises(OptimizerError, match=rf"lacks 2 parameters that the plan trains: {last}\."):
        handle.step(epoch=2)


def test_what_moved_while_frozen_is_found_at_the_boundary(side):
    model, handle, _ = started(side)
    side.write(dict(named(model))["stem.weight" if side is Torch else "first.weight"])
    handle.step(epoch=1)
    with pytest.raises(FrozenDriftError):
        handle.step(epoch=2)
    assert handle.phase.name == "head"
    assert handle.state_dict()["schedule"]["epoch"] == 1


def test_a_phase_needs_an_optimizer_that_holds_what_it_trains(side):
    model = side.build()
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    handle.step(epoch=1)
    with pytest.raises(OptimizerError, match="no optimizer is attached"):
        handle.step(epoch=2)
    assert handle.phase.name == "head"
    some = [tensor for name, tensor in named(model) if "fc" in name or "out." in name]
    made = (
        torch.optim.SGD(some, lr=0.1)
        if side is Torch
        else paddle.optimizer.SGD(0.1, parameters=some)
    )
    with pytest.raises(OptimizerError, match=r"lacks 14 parameters that the plan trains: \w+\."):
        handle.attach(made)


def test_optimizers_that_cannot_keep_the_promise_are_refused():
    torch_model, paddle_model = Torch.build(), Paddle.build()
    one = uf.FreezePlan.from_yaml(PLAN).apply(torch_model)
    other = uf.FreezePlan.from_yaml(PLAN).apply(paddle_model)
    with pytest.raises(OptimizerError, match="LBFGS keeps one direction"):
        one.attach(torch.optim.LBFGS(torch_model.parameters()))
    everything = paddle_model.parameters()
    with pytest.raises(OptimizerError, match="use_multi_tensor=True fails"):
        other.attach(paddle.optimizer.Adam(0.1, parameters=everything, use_multi_tensor=True))
    with pytest.raises(OptimizerError, match=r"lr=0\.5, and the plan's first phase sets 0\.1"):
        one.optimizer(torch.optim.SGD, lr=0.5)
    with pytest.raises(OptimizerError, match="nothing to steer"):
        uf.freeze(Torch.build(), "stem").attach(torch.optim.SGD(torch_model.parameters()))


def test_a_wrapper_around_an_optimizer_is_refused_with_the_cure():
    from accelerate import Accelerator

    model = Torch.build()
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model, batch=ROWS)
    inside = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = Accelerator(cpu=True).prepare(inside)
    with pytest.raises(OptimizerError, match="AcceleratedOptimizer only passes on to the SGD"):
        handle.attach(wrapper)
    handle.attach(wrapper.optimizer)


def test_an_optimizer_that_makes_up_gradients_is_stopped_at_its_first_step():
    class Synchronised(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for tensor in group["params"]:
                    if tensor.grad is None:
                        tensor.grad = torch.zeros_like(tensor)
            return super().step(closure)

    model = Torch.build()
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model, batch=ROWS)
    optimizer = handle.optimizer(Synchronised, weight_decay=0.1)
    handle.step(epoch=0)
    with pytest.raises(OptimizerError, match="Synchronised made up a gradient for what is frozen"):
        Torch.train(model, optimizer)
    with pytest.raises(FrozenDriftError):
        handle.verify()


def test_a_state_is_plain_and_of_its_plan(side):
    _, handle, _ = started(side)
    handle.step(epoch=3)
    state = json.loads(json.dumps(handle.state_dict()))
    _, again, _ = started(side)
    again.load_state_dict(state)
    assert again.phase.name == "top"
    assert again.resolution.trainable.sum() == 8
    assert again.state_dict() == handle.state_dict()
    _, other, _ = started(side, PLAN.replace("epoch: 4", "epoch: 5"))
    with pytest.raises(ScheduleError, match=r"of another plan .*in phase 'top'"):
        other.load_state_dict(state)
    with pytest.raises(ScheduleError, match="not a state of a plan"):
        again.load_state_dict({"a": 1})
    plain = uf.freeze(side.build(), "head")
    with pytest.raises(ScheduleError, match="this one has none"):
        plain.load_state_dict(state)


def test_listeners_hear_of_each_phase_and_training_stops(side):
    stop = "  - {name: end, when: {metric: loss, risen_for: 1}, stop: true}"
    _, handle, _ = started(side, PLAN + stop)
    heard = []
    handle.on_phase(lambda phase: heard.append(phase.name))
    for epoch, loss in enumerate([None, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.6]):
        handle.step(epoch=epoch, metrics=None if loss is None else {"loss": loss})
    assert heard == ["top", "full", "again", "end"]
    assert handle.stopped
    assert handle.resolution.trainable.sum() == 2


def test_a_rule_may_be_overruled_in_some_phases_but_not_in_all(side):
    model = side.build()
    dead = PLAN.replace("rules: [{only: head}]", "rules: [{freeze: stem}, {only: head}]", 1)
    with pytest.raises(UndecidedRuleError, match="phase 'head': the rule freeze: stem decides"):
        uf.FreezePlan.from_yaml(dead).apply(model, batch=ROWS)


def test_any_phase_is_resolved_as_apply_does_it(side):
    model, handle, _ = started(side)
    plan = uf.FreezePlan.from_yaml(PLAN)
    for number, phase in enumerate(plan.phases):
        handle.step(epoch=(0, 2, 4, 5)[number])
        for name in (number, phase.name):
            resolution = plan.resolve(model, batch=ROWS, phase=name)
            assert resolution.trainable_names == handle.resolution.trainable_names
            assert f"phase {phase.name!r}, number {number} of 4" in str(resolution)
    with pytest.raises(PlanError, match="no phase 4"):
        plan.resolve(model, phase=4)


def test_a_phase_that_does_not_fit_the_model_is_found_at_once(side):
    model = side.build()
    flags = uf.resolve(uf.FreezePlan().train("all"), model).trainable.tolist()
    for old, new, words in (
        ("blocks[-1]", "blocks[7]", r"phase 'top': rule 2"),
        ("{train: all}", "{train: haed}", r"phase 'full': .*'haed' matches none"),
    ):
        with pytest.raises(ResolveError, match=words):
            uf.FreezePlan.from_yaml(PLAN.replace(old, new)).apply(model)
    assert uf.resolve(uf.FreezePlan().train("all"), model).trainable.tolist() == flags


def test_a_dry_run_shows_the_first_phase_and_explain_all_of_them(side, tmp_path):
    plan = uf.FreezePlan.from_yaml(PLAN)
    model = side.build()
    assert plan.resolve(model, batch=ROWS).trainable.sum() == 2
    assert plan.in_phase(1).resolve(model, batch=ROWS).trainable.sum() == 8
    plan.save(tmp_path / "plan.yaml")
    name = f"tests.support.pairs.small:{side.__name__.lower()}_image()"
    words = ["explain", str(tmp_path / "plan.yaml"), name, "--batch", "float32[4,3,7,7]"]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "120"}).output
    assert [line.split()[0] for line in shown.splitlines()[1:5]] == ["head", "top", "full", "again"]
    assert "again  after 1 epoch" in shown
    assert "phase 'head':" in shown
    done = CliRunner().invoke(app, [*words, "--phase", "top", "--json", str(tmp_path / "a.json")])
    assert done.exit_code == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert [row["parameters"] for row in found["phases"]] == [2, 8, 16, 2]
    assert sum(row["trainable"] for row in found["parameters"]) == 8
    with pytest.raises(PlanError, match="no phase 'topp'"):
        CliRunner().invoke(app, [*words, "--phase", "topp"], catch_exceptions=False)


def test_a_rate_for_a_group_that_nothing_matches_is_told(side):
    plan = PLAN.replace("phases:", "groups:\n  - {match: haed, lr_scale: 2}\nphases:")
    with pytest.raises(ResolveError, match=r"groups\[0\].match: 'haed' matches none") as caught:
        uf.FreezePlan.from_yaml(plan).apply(side.build())
    assert 'did you mean "head"' in str(caught.value)


def test_between_steps_an_optimizer_has_the_rate_that_it_would_have_without_a_plan():
    model, handle, optimizer = started(Paddle)
    handle.step(epoch=2)
    check_step(Paddle, model, optimizer, 0.01)
    assert optimizer.get_lr() == optimizer._learning_rate == 0.1
    optimizer._learning_rate = 0.05  # as Paddle's own callback reduces it
    check_step(Paddle, model, optimizer, 0.005)
    assert "LR_Scheduler" not in optimizer.state_dict()


def test_a_state_that_was_saved_without_a_plan_can_be_loaded_under_one():
    model = Paddle.build()
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    check_step(Paddle, model, optimizer, 0.1)
    saved = optimizer.state_dict()
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model, batch=ROWS)
    handle.attach(optimizer)
    optimizer.set_state_dict(saved)
    handle.step(epoch=0)
    optimizer.step()
