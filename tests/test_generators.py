"""Generators: what they expand to, and what they do on live models of both frameworks."""

import hashlib
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import unifreeze as uf
from tests.support.pairs import small
from tests.support.sides import ROWS, SIDES, Paddle, Torch, named, values
from unifreeze._cli import app
from unifreeze._plan import After, Phase, Smallest, When
from unifreeze._plan.generators import Adaptive, ByGradient, GradualUnfreezing, Lisa, StopOnRise
from unifreeze.errors import (
    PlanError,
    PlanFileError,
    ScheduleError,
    SelectorRangeError,
    SelectorScopeError,
)

EPOCHS = After("epoch", 2)


class Shape:
    """A network of so many blocks."""

    def __init__(self, count, *has):
        self.blocks, self.selectors = count, has

    def count(self, units, within):
        return self.blocks

    def has(self, selector):
        return selector in self.selectors


def rules(phases):
    return [[str(rule) for rule in (phase.rules or phase.add)] for phase in phases]


def plan(*phases):
    rows = "".join(f"\n  - {phase}" for phase in phases)
    return uf.FreezePlan.from_yaml(f"unifreeze: 1\nphases:{rows}\n")


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


# What they expand to.


def test_gradual_unfreezing_goes_from_the_head_down():
    phases = list(GradualUnfreezing(EPOCHS).phases(Shape(3, "neck", "head"), first=True))
    assert rules(phases) == [
        ["only: head"],
        ["train: neck | blocks[-1]"],
        ["train: blocks[-2]"],
        ["train: blocks[-3]"],
        ["train: all"],
    ]
    assert [phase.entry for phase in phases] == [None, *[EPOCHS] * 4]


def test_gradual_unfreezing_goes_on_from_what_trains_and_may_end_early():
    generator = GradualUnfreezing(EPOCHS, by="stages", within="vision", upto=2)
    phases = list(generator.phases(Shape(4), first=False))
    assert rules(phases) == [["train: stages[-1] in vision"], ["train: stages[-2] in vision"]]
    assert all(phase.entry == EPOCHS for phase in phases)


def test_without_a_head_the_first_unit_is_the_first_to_train():
    """One tower of several has no head of its own, nor has a bare backbone."""
    generator = GradualUnfreezing(EPOCHS, within="vision")
    phases = list(generator.phases(Shape(2, "neck in vision"), first=True))
    assert rules(phases) == [
        ["only: neck in vision | blocks[-1] in vision"],
        ["train: blocks[-2] in vision"],
        ["train: all in vision"],
    ]
    stalled = When("loss", "stalled", 2)
    shares = rules(Adaptive(60, stalled).phases(Shape(0, "params[:40%]"), first=True))
    assert shares == [["only: params[40%:]"], ["train: all"]]


def test_adaptive_trains_a_share_more_each_time_up_to_all():
    stalled = When("loss", "stalled", 2)
    shares = [f"params[:{share}%]" for share in (70, 50, 40, 10)]
    phases = list(Adaptive(30, stalled).phases(Shape(0, "head", *shares), first=True))
    assert rules(phases) == [
        ["only: head"],
        ["train: params[70%:]"],
        ["train: params[40%:]"],
        ["train: params[10%:]"],
        ["train: all"],
    ]
    assert [phase.entry for phase in phases[1:]] == [stalled] * 4
    assert rules(Adaptive(50, stalled).phases(Shape(0, *shares), first=False)) == [
        ["train: params[50%:]"],
        ["train: all"],
    ]


@pytest.mark.parametrize(("share", "count"), [(1, 95), (10, 11), (99, 2), (100, 2)])
def test_adaptive_ends_with_all_however_few_parameters_there_are(side, share, count):
    handle = plan(f"{{adaptive: {{share: {share}, metric: loss, stalled_for: 1}}}}").apply(
        side.build(), batch=ROWS
    )
    assert len(handle.plan.phases) == count
    trained = [resolution.trainable.sum() for resolution in handle._in_force.phases.resolutions]
    assert trained == sorted(trained)
    assert trained[-2] < trained[-1] == 16


def test_by_gradient_freezes_a_share_more_each_time():
    phases = list(ByGradient(EPOCHS, 20, 2).phases(Shape(0), first=True))
    assert [phase.freeze_smallest for phase in phases] == [None, Smallest(20), Smallest(40)]
    assert rules(phases[:1]) == [["train: all"]]


def test_stop_on_rise_ends_the_training():
    (phase,) = StopOnRise(When("loss", "risen", 2)).phases(Shape(0), first=False)
    assert phase == Phase("", When("loss", "risen", 2), stop=True)


def test_lisa_draws_every_block_about_as_often_and_never_twice():
    generator = Lisa(2, After("step", 5), periods=600, seed=7)
    drawn = [generator.order(period, 6)[:2] for period in range(600)]
    assert all(len(set(two)) == 2 for two in drawn)
    counts = np.bincount(np.ravel(drawn), minlength=6)
    assert counts.min() > 150
    assert counts.max() < 250
    assert drawn != [Lisa(2, After("step", 5), 600, 8).order(p, 6)[:2] for p in range(600)]


def test_lisa_s_blocks_are_fixed_for_ever():
    keys = [hashlib.sha256(f"0:0:{block}".encode()).hexdigest() for block in range(4)]
    wanted = sorted(range(4), key=lambda block: keys[block])
    assert Lisa(1, EPOCHS, 1).order(0, 4) == wanted


def test_a_generator_survives_its_plan_file():
    written = plan(
        "{name: a, gradual_unfreezing: {every: {epochs: 1}, by: stages, within: x, upto: 2}}",
        "{adaptive: {share: 10, metric: loss, stalled_for: 2, min_delta: 0.1, mode: max}}",
        "{by_gradient: {every: {steps: 9}, share: 20, times: 3, of: blocks}}",
        "{lisa: {blocks: 2, every: {steps: 20}, periods: 3, seed: 4, by: encoder}}",
        "{stop_on_rise: {metric: loss, reports: 2, mode: max}}",
    )
    assert [phase.name for phase in written.phases] == [
        "a", "adaptive", "by gradient", "lisa", "stop on rise"
    ]  # fmt: skip
    assert uf.FreezePlan.from_yaml(written.to_yaml()) == written


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("{lisa: {blocks: 0, every: {steps: 2}, periods: 1}}", "blocks: should be greater than"),
        ("{lisa: {blocks: 1, periods: 1}}", "every: is missing"),
        ("{lisa: {blok: 1, every: {steps: 2}, periods: 1}}", "did you mean 'blocks'"),
        ("{adaptive: {share: 10, metric: loss}}", "exactly one of stalled_for or risen_for"),
        ("{by_gradient: {every: {epochs: 1}, share: 40, times: 3}}", "3 times 40 % is more"),
        ("{gradual_unfreezing: {every: {epochs: 1}}, rules: [{only: head}]}", "its own phases"),
        ("{gradual_unfreezing: {every: {epochs: 1}}, restore_best: true}", "adaptive has one"),
        (
            "{lisa: {blocks: 1, every: {steps: 2}, periods: 1}, "
            "adaptive: {share: 5, metric: loss, stalled_for: 1}}",
            "has adaptive and lisa; one of them",
        ),
        ("{stop_on_rise: {metric: loss}}", "the first phase"),
        (
            "{stop_on_rise: {metric: loss}, at: {epoch: 3}}",
            "stop_on_rise begins when the metric rises",
        ),
        ("{name: x, warmup: {steps: 3}}", "the first phase unfreezes nothing"),
        ("{name: x, restore_best: true}", "the first phase"),
        (
            "{by_gradient: {every: {epochs: 1}, share: 20}}\n"
            "  - {name: all, at: {epoch: 9}, rules: [{train: all}], warmup: {steps: 2}}",
            "is not known when the optimizer is built",
        ),
    ],
)
def test_a_mistake_in_a_generator_is_told(phase, message):
    with pytest.raises((PlanFileError, PlanError), match=message):
        plan(phase).expand(Torch.build())


def test_a_model_that_has_not_what_a_generator_asks_for_is_told():
    import torch

    every = "every: {epochs: 1}"
    plain = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    with pytest.raises(SelectorScopeError, match="phase 'gradual unfreezing': 'blocks'"):
        plan(f"{{gradual_unfreezing: {{{every}}}}}").expand(plain)
    with pytest.raises(SelectorRangeError, match="3 blocks are wanted, and the model has 2"):
        plan(f"{{lisa: {{blocks: 3, {every}, periods: 1}}}}").expand(Torch.build())
    with pytest.raises(PlanError, match="generators, whose phases depend on the model: lisa"):
        plan(f"{{lisa: {{blocks: 1, {every}, periods: 1}}}}").in_phase(0)


def test_a_plan_of_phases_alone_expands_to_itself():
    written = plan("{name: a, rules: [{only: head}]}", "{name: b, at: {epoch: 1}, lr: 0.1}")
    assert written.expand(Torch.build()) is written


def test_expand_writes_a_plan_to_edit(tmp_path):
    file, made = tmp_path / "down.yaml", tmp_path / "made.yaml"
    file.write_text(plan("{gradual_unfreezing: {every: {epochs: 2}}, lr: 0.1}").to_yaml())
    run = CliRunner().invoke(
        app, ["expand", str(file), "tests.support.pairs.small:torch_text", "-o", str(made)]
    )
    assert run.exit_code == 0, run.output
    written = uf.FreezePlan.load(made)
    assert written == uf.FreezePlan.load(file).expand(small.torch_text())
    assert len(written.phases) == 4
    assert made.read_text().startswith(
        "# down.yaml, as it is on tests.support.pairs.small:torch_text"
    )


def test_expand_says_where_it_cannot_write(tmp_path):
    file = tmp_path / "down.yaml"
    file.write_text(plan("{gradual_unfreezing: {every: {epochs: 2}}}").to_yaml())
    made = tmp_path / "no" / "where.yaml"
    run = CliRunner().invoke(
        app, ["expand", str(file), "tests.support.pairs.small:torch_text", "-o", str(made)]
    )
    assert isinstance(run.exception, PlanFileError)
    assert "cannot be written: No such file" in str(run.exception)


# What they do on live models.


def live(side, text):
    model = side.build()
    handle = text.apply(model, batch=ROWS)
    return model, handle, side.sgd(handle)


def test_lisa_trains_the_same_blocks_at_the_same_steps_everywhere():
    written = plan("{lisa: {blocks: 1, every: {steps: 3}, periods: 6, seed: 5}, lr: 0.1}")
    timelines = []
    for side in SIDES:
        _, handle, _ = live(side, written)
        timeline = []
        for step in range(18):
            handle.step(step=step)
            timeline.append(handle.resolution.trainable_names)
        timelines.append(timeline)
    assert timelines[0] == timelines[1]
    drawn = [Lisa(1, After("step", 3), 6, 5).order(step // 3, 2)[0] for step in range(18)]
    assert len(set(drawn)) == 2
    for names, block in zip(timelines[0], drawn, strict=True):
        units = {name.partition("/")[0] for name in names}
        assert f"blocks.{block}" in units
        assert f"blocks.{1 - block}" not in units
        assert "head" in units


def test_lisa_goes_on_to_the_step_after_a_resume(side):
    written = plan("{lisa: {blocks: 1, every: {steps: 3}, periods: 6, seed: 5}, lr: 0.1}")

    def timeline(stop_at):
        _, handle, _ = live(side, written)
        rows = []
        for step in range(18):
            if step == stop_at:
                state = json.loads(json.dumps(handle.state_dict()))
                _, handle, _ = live(side, written)
                handle.load_state_dict(state)
            handle.step(step=step)
            rows.append(handle.resolution.trainable_names)
        return rows

    whole = timeline(None)
    assert all(timeline(stop_at) == whole for stop_at in range(0, 18, 4))


BY_GRADIENT = "{by_gradient: {every: {epochs: 1}, share: 30, times: 2}, lr: 0.01}"


def ported():
    """The same network with the same values in both frameworks."""
    one, other = Torch.build(), Paddle.build()
    uf.port_weights(one, other, pairing=uf.pair(one, other, batch=ROWS))
    return {Torch: one, Paddle: other}


def test_by_gradient_freezes_the_smallest_ratios_and_never_the_head(side):
    model, handle, optimizer = live(side, plan(BY_GRADIENT))
    handle.step(epoch=0)
    gradients = [side.train(model, optimizer) for _ in range(3)]
    weights = values(model)
    names = {row.path: row.name for row in handle.resolution.spec.parameters}
    ratio = {
        names[path]: np.mean([np.linalg.norm(one[path]) for one in gradients])
        / np.linalg.norm(weights[path])
        for path in weights
    }
    backbone = [name for name in ratio if not name.startswith("head")]
    handle.step(epoch=1)
    wanted = sorted(backbone, key=ratio.get)[: len(backbone) * 30 // 100]
    assert set(handle.resolution.frozen_names) == set(wanted)
    side.train(model, optimizer)
    handle.step(epoch=2)
    assert set(handle.resolution.frozen_names) > set(wanted)
    assert len(handle.resolution.frozen_names) == len(backbone) * 60 // 100
    assert not any(name.startswith("head") for name in handle.resolution.frozen_names)
    handle.verify()


def test_by_gradient_freezes_the_same_in_both_frameworks():
    frozen = []
    for side, model in ported().items():
        handle = plan(BY_GRADIENT).apply(model, batch=ROWS)
        optimizer = side.sgd(handle)
        for epoch in range(3):
            handle.step(epoch=epoch)
            side.train(model, optimizer)
            side.train(model, optimizer)
        frozen.append(handle.resolution.frozen_names)
    assert frozen[0] == frozen[1]
    assert frozen[0]


def test_what_was_measured_is_resumed_and_saved(side, tmp_path):
    model, handle, optimizer = live(side, plan(BY_GRADIENT))
    states = []
    for epoch in range(3):
        handle.step(epoch=epoch)
        side.train(model, optimizer)
        states.append(json.loads(json.dumps(handle.state_dict())))
        side.train(model, optimizer)
    frozen = handle.resolution.frozen_names
    _, again, _ = live(side, plan(BY_GRADIENT))
    again.load_state_dict(states[-1])
    assert again.resolution.frozen_names == frozen
    _, half, _ = live(side, plan(BY_GRADIENT))
    half.load_state_dict(states[0])
    assert half.state_dict()["sums"] == states[0]["sums"]
    assert states[0]["sums"]
    handle.plan.save(tmp_path / "plan.yaml")
    saved = uf.FreezePlan.load(tmp_path / "plan.yaml")
    last = saved.in_phase(2).resolve(side.build(), batch=ROWS)
    assert last.frozen_names == frozen


def test_a_step_that_a_loss_scaler_skips_is_not_measured(side):
    model, handle, optimizer = live(side, plan(BY_GRADIENT))
    handle.step(epoch=0)
    side.train(model, optimizer)
    before = handle.state_dict()["sums"]
    stem = dict(named(model))["stem.bias" if side is Torch else "first.bias"]
    side.assign(stem, np.full(4, np.nan))
    side.train(model, optimizer)
    assert handle.state_dict()["sums"] == before


def test_nothing_measured_is_told(side):
    _, handle, _ = live(side, plan(BY_GRADIENT))
    handle.step(epoch=0)
    with pytest.raises(ScheduleError, match="no step was measured"):
        handle.step(epoch=1)
    assert handle.phase.name == "by gradient 1"


def test_a_measured_phase_that_freezes_nothing_more_stays_a_plan(side, tmp_path):
    text = plan(
        "{name: head, rules: [{only: head}], lr: 0.1}",
        "{name: small, at: {epoch: 1}, freeze_smallest: {share: 10}}",
    )
    model, handle, optimizer = live(side, text)
    handle.step(epoch=0)
    side.train(model, optimizer)
    handle.step(epoch=1)
    handle.plan.save(tmp_path / "plan.yaml")
    again = uf.FreezePlan.load(tmp_path / "plan.yaml")
    assert again.in_phase(1).rules == again.in_phase(0).rules


def run(side, text, steps):
    model, handle, optimizer = live(side, text)
    for step in range(steps):
        handle.step(step=step)
        side.train(model, optimizer)
    return handle


def test_what_a_phase_unfreezes_counts_for_its_share_and_is_frozen_last(side):
    text = plan(
        "{name: all, rules: [{train: all}], lr: 0.01}",
        '{name: top, at: {step: 1}, rules: [{only: "head | blocks[-1]"}]}',
        "{name: half, at: {step: 3}, like: all, freeze_smallest: {share: 50}}",
    )
    handle = run(side, text, 4)
    assert len(handle.resolution.frozen_names) == 7  # of the 14 that are not the head
    # Six were trained in the phase before.
    frozen = [name for name in handle.resolution.frozen_names if name.startswith("blocks.1")]
    assert len(frozen) == 6


@pytest.mark.parametrize(
    "phase",
    [
        "rules: [{only: head}], freeze_smallest: {share: 1}",
        'rules: [{only: "blocks[-1] | head"}], freeze_smallest: {share: 100}',
        'like: head, add: [{train: "blocks[-1]"}], freeze_smallest: {share: 100}',
        'add: [{freeze: "stem & bias"}], freeze_smallest: {share: 50}',
    ],
)
def test_what_is_measured_in_a_phase_with_rules_of_its_own_stays_a_plan(side, phase):
    text = plan(
        "{name: head, rules: [{only: head}], lr: 0.01}",
        "{name: all, at: {step: 1}, rules: [{train: all}]}",
        f"{{name: few, at: {{step: 2}}, {phase}}}",
    )
    handle = run(side, text, 3)
    again = uf.FreezePlan.from_yaml(handle.plan.to_yaml())
    assert again == handle.plan
    now = again.in_phase(2).resolve(side.build(), batch=ROWS)
    assert now.frozen_names == handle.resolution.frozen_names
    frozen = sum(not name.startswith("head") for name in now.frozen_names)
    assert frozen == (7 if "50" in phase else 14)


def test_a_measured_run_goes_on_under_the_plan_saved_beside_it(side):
    model, handle, optimizer = live(side, plan(BY_GRADIENT))
    for epoch in range(2):
        handle.step(epoch=epoch)
        side.train(model, optimizer)
    saved = uf.FreezePlan.from_yaml(handle.plan.to_yaml())
    state, frozen = json.loads(json.dumps(handle.state_dict())), handle.resolution.frozen_names
    again = saved.apply(model, batch=ROWS)
    again.load_state_dict(state)
    assert again.resolution.frozen_names == frozen
    assert (again.phase.name, again.plan) == (handle.phase.name, handle.plan)
    again.attach(optimizer)
    again.step(epoch=2)
    assert set(again.resolution.frozen_names) > set(frozen)
    other = plan(BY_GRADIENT.replace("times: 2", "times: 3"))
    with pytest.raises(ScheduleError, match="of another plan"):
        other.apply(model, batch=ROWS).load_state_dict(state)


def test_thousands_of_periods_are_resolved_once_for_each_choice():
    written = plan("{lisa: {blocks: 1, every: {steps: 1}, periods: 4000}, lr: 0.1}")
    handle = written.apply(Torch.build())
    resolutions = handle._in_force.phases.resolutions
    assert (len(resolutions), len(set(resolutions))) == (4000, 2)
