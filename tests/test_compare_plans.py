"""Several plans from one start: what each trains, reaches, takes; and what goes wrong in one."""

import io
import json
import sys

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.pairs import small
from unifreeze._authoring.compare import Comparison, PlanRow, PlanRun, compare_plans
from unifreeze.errors import ArgumentError, PlanError, TargetError, UnifreezeError

ROWS = np.random.default_rng(0).standard_normal((4, 3, 7, 7)).astype("float32")
LABELS = np.arange(4)
HEAD, TOP = uf.FreezePlan().only("head"), uf.FreezePlan().only("head | blocks[-1]")
ALL = uf.FreezePlan().train("all")
PHASES = uf.FreezePlan.from_yaml("""
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: top, at: {epoch: 1}, add: [{train: "blocks[-1]"}]}
  - {name: again, at: {epoch: 2}, like: head}
  - {name: never, at: {epoch: 9}, add: [{train: all}]}
""")


class Torch:
    """What users write in PyTorch."""

    name, build = "torch", staticmethod(small.torch_image)
    head, last = "fc", torch.nn.Linear

    @staticmethod
    def train(model, handle, epochs=3, lr=0.05):
        optimizer = handle.optimizer(torch.optim.SGD, lr=lr, momentum=0.9)
        for epoch in range(epochs):
            handle.step(epoch=epoch)
            model.train()
            outputs = model(torch.tensor(ROWS))
            torch.nn.functional.cross_entropy(outputs, torch.tensor(LABELS)).backward()
            optimizer.step()
            optimizer.zero_grad()

    @staticmethod
    def evaluate(model):
        model.eval()
        with torch.no_grad():
            outputs = model(torch.tensor(ROWS))
            loss = torch.nn.functional.cross_entropy(outputs, torch.tensor(LABELS))
        return {"loss": loss, "accuracy": float((outputs.argmax(1).numpy() == LABELS).mean())}

    @staticmethod
    def write(tensor):
        with torch.no_grad():
            tensor.add_(1.0)


class Paddle:
    """What users write in Paddle."""

    name, build = "paddle", staticmethod(small.paddle_image)
    head, last = "out", paddle.nn.Linear

    @staticmethod
    def train(model, handle, epochs=3, lr=0.05):
        optimizer = handle.optimizer(paddle.optimizer.Momentum, lr=lr, momentum=0.9)
        for epoch in range(epochs):
            handle.step(epoch=epoch)
            model.train()
            outputs = model(paddle.to_tensor(ROWS))
            paddle.nn.functional.cross_entropy(outputs, paddle.to_tensor(LABELS)).backward()
            optimizer.step()
            optimizer.clear_grad()

    @staticmethod
    def evaluate(model):
        model.eval()
        with paddle.no_grad():
            outputs = model(paddle.to_tensor(ROWS))
            loss = paddle.nn.functional.cross_entropy(outputs, paddle.to_tensor(LABELS))
        return {"loss": loss, "accuracy": float((outputs.argmax(1).numpy() == LABELS).mean())}

    @staticmethod
    def write(tensor):
        tensor.set_value(tensor + 1.0)


@pytest.fixture(params=[Torch, Paddle], ids=["torch", "paddle"])
def side(request):
    return request.param


def compare(side, plans, **changes):
    given = {"make_model": side.build, "train": side.train, "evaluate": side.evaluate, **changes}
    return compare_plans(plans, **given, batch=ROWS)


def weights(side, model):
    return dict(model.named_parameters())


def test_each_plan_has_a_row_as_given(side):
    found = compare(side, {"head": HEAD, "top": TOP, "all": ALL})
    assert (found.framework, found.device) == (side.name, "cpu")
    assert [row.name for row in found.rows] == ["head", "top", "all"]
    # a head of 4 x 5 + 5; a block of 4 x 4 x (9 + 1) and two norms; the other and a stem of 112
    assert [row.trainable for row in found.rows] == [25, 25 + 176, 25 + 176 + 176 + 112]
    assert [row.total for row in found.rows] == [489] * 3
    assert [row.gradient_bytes for row in found.rows] == [4 * 25, 4 * 201, 4 * 489]
    assert [row.error for row in found.rows] == ["", "", ""]
    assert all(row.seconds > 0 for row in found.rows)
    assert found.metrics == ("loss", "accuracy")
    losses = [row.metrics["loss"] for row in found.rows]
    assert found.best("loss", mode="min").name == ["head", "top", "all"][np.argmin(losses)]
    assert found.best("loss", mode="max").name == ["head", "top", "all"][np.argmax(losses)]
    assert len(set(losses)) == 3


def test_both_frameworks_count_the_same():
    one, other = (compare(side, [HEAD, TOP, PHASES], train=lambda m, h: None) for side in SIDES)
    what = [
        [(r.trainable, r.total, r.gradient_bytes) for r in found.rows] for found in (one, other)
    ]
    assert what[0] == what[1]
    assert [row.name for row in one.rows] == ["plan 1", "plan 2", "plan 3"]


SIDES = (Torch, Paddle)


def test_each_plan_begins_with_the_same_weights_and_the_same_chance(side):
    seen = []

    def train(model, handle):
        drawn = torch.rand(1) if side is Torch else paddle.rand([1])
        values = [np.array(p.detach().numpy()) for p in model.parameters()]
        seen.append((float(drawn.sum()), float(np.random.random()), values))
        side.train(model, handle)

    def make_model():
        model = side.build()
        np.random.random(len(seen))  # and draws another number of times for each plan
        return model

    found = compare(side, [HEAD, ALL], make_model=make_model, train=train, repeats=2)
    assert [run.seed for run in found.rows[0].runs] == [0, 1]
    first, second, third, fourth = seen  # one seed for both plans, then the next
    assert first[:2] == second[:2]
    assert third[:2] == fourth[:2]
    assert first[0] != third[0]
    for one, other in zip(first[2], second[2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not all(np.array_equal(a, b) for a, b in zip(first[2], third[2], strict=True))


def test_a_plan_with_phases_counts_the_most_that_trained(side):
    (row,) = compare(side, {"run": PHASES}).rows
    assert (row.trainable, row.gradient_bytes) == (201, 804)
    (row,) = compare(side, {"run": PHASES}, train=lambda m, h: side.train(m, h, epochs=1)).rows
    assert row.trainable == 25


def test_a_plan_whose_frozen_bits_moved_has_failed_and_the_others_run(side):
    def train(model, handle):
        side.train(model, handle)
        if handle.plan == HEAD:
            name, tensor = next(iter(weights(side, model).items()))
            moved.append(name)
            side.write(tensor)

    moved = []
    found = compare(side, {"head": HEAD, "top": TOP}, train=train)
    head, top = found.rows
    assert head.error.startswith("FrozenDriftError: ")
    assert moved[0] in head.error
    assert head.metrics == {}
    assert (head.trainable, top.error) == (25, "")
    assert found.best("loss", mode="max").name == "top"
    assert "\nhead failed: FrozenDriftError: " in str(found)


def test_what_a_plan_cannot_do_is_told_in_its_row(side):
    wrong = uf.FreezePlan().only("blocks[7]")
    found = compare(side, {"wrong": wrong, "head": HEAD})
    assert found.rows[0].error.startswith("SelectorRangeError: ")
    assert found.rows[0].trainable is None
    assert found.rows[0].seconds is None
    assert found.rows[1].error == ""


def test_an_error_of_the_user_s_own_says_where(side):
    def train(model, handle):
        raise ValueError("no data")

    (row,) = compare(side, [HEAD], train=train).rows
    assert row.error.startswith("ValueError: no data (test_compare_plans.py:")


def test_a_plan_that_fails_in_one_of_its_runs_has_failed(side):
    calls = []

    def evaluate(model):
        calls.append(1)
        return float("nan") if len(calls) == 1 else len(calls)

    found = compare(side, {"head": HEAD}, evaluate=evaluate, repeats=3)
    (row,) = found.rows
    assert row.values("metric") == [2.0, 3.0]
    assert row.metrics == {"metric": 2.5}
    assert (
        str(found).splitlines()[-3].startswith("head failed in 1 of 3 runs: TargetError: evaluate")
    )
    with pytest.raises(UnifreezeError, match="no plan that held was measured by 'metric'"):
        found.best("metric", mode="max")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "evaluate returned nan for 'metric'\n  a training that diverges gives that"),
        ({"loss": float("inf")}, "evaluate returned inf for 'loss'"),
        (None, "evaluate returned None for 'metric', and that is not a number"),
        (
            {"loss": [1.0, 2.0]},
            r"evaluate returned [1.0, 2.0] for 'loss', and that is not a number",
        ),
        ("0.5", "evaluate returned '0.5' for 'metric', and that is not a number"),
        (True, "evaluate returned True for 'metric', and that is not a number"),
        ({}, "evaluate returned no metric"),
    ],
)
def test_evaluate_returns_numbers(value, words):
    (row,) = compare(Torch, [HEAD], evaluate=lambda model: value).rows
    assert words in row.error
    assert "\n  hint: " in row.error
    assert row.seconds is None
    assert row.runs[0].seconds > 0


def test_training_is_in_place(side):
    def returns_another(model, handle):
        return side.build()

    def replaces_the_head(model, handle):
        setattr(model, side.head, side.last(4, 5))

    def returns_what_it_likes(model, handle):
        optimizer = handle.optimizer(
            {"torch": torch.optim.SGD, "paddle": paddle.optimizer.SGD}[side.name], lr=0.1
        )
        return results[handle.plan](model, optimizer)

    (row,) = compare(side, [ALL], train=returns_another).rows
    assert "train returned another model" in row.error
    (row,) = compare(side, [ALL], train=replaces_the_head).rows
    assert "train replaced 2 parameters: " in row.error
    assert f"{side.head}.weight" in row.error
    results = {
        HEAD: lambda model, optimizer: model,
        TOP: lambda model, optimizer: optimizer,
        ALL: lambda model, optimizer: next(iter(model.parameters())),
    }
    found = compare(side, list(results), train=returns_what_it_likes)
    assert [row.error for row in found.rows] == [""] * 3


def test_a_plan_that_is_taken_off_has_failed(side):
    (row,) = compare(side, [HEAD], train=lambda model, handle: handle.remove()).rows
    assert "this handle's plan is no longer in force" in row.error


def test_models_that_begin_differently_are_refused_before_any_training(side):
    calls, trained = [], []

    def make_model():
        model = side.build()
        calls.append(1)
        if len(calls) > 2:
            side.write(weights(side, model)[f"{side.head}.bias"])
        return model

    with pytest.raises(
        TargetError, match=rf"begin differently: {side.head}\.bias has other"
    ) as one:
        compare(side, [HEAD], make_model=make_model, train=lambda m, h: trained.append(1))
    assert "1 of " in str(one.value)
    assert "load weights in make_model" in one.value.hint
    assert not trained


def test_models_of_other_structure_are_refused():
    calls = []

    def make_model():
        calls.append(1)
        return small.torch_text(idle=len(calls) > 2)

    with pytest.raises(
        TargetError, match=r"begin differently: pooler\.weight is not in all of them"
    ):
        compare_plans([HEAD], make_model, Torch.train, Torch.evaluate)


def test_one_model_for_all_plans_is_refused(side):
    model = side.build()
    with pytest.raises(TargetError, match="make_model returned the same model twice"):
        compare(side, [HEAD], make_model=lambda: model)


def test_models_around_one_base_are_refused():
    base = torch.nn.Linear(2, 2)

    def make_model():
        return torch.nn.Sequential(base, torch.nn.Linear(2, 2))

    with pytest.raises(
        TargetError, match=r"models that share tensors\n  shared: 0\.weight, 0\.bias"
    ):
        compare_plans([HEAD], make_model, Torch.train, Torch.evaluate)


def test_frameworks_are_never_mixed():
    made = iter([Torch.build, Paddle.build])
    with pytest.raises(TargetError, match="make_model returned a model of paddle\n"):
        compare(Torch, [HEAD], make_model=lambda: next(made)())


def test_several_models_go_together(side):
    plan = uf.FreezePlan().freeze("all in teacher").train("all in student")
    found = compare_plans(
        {"student": plan},
        lambda: {"student": side.build(), "teacher": side.build()},
        lambda models, handle: side.train(models["student"], handle),
        lambda models: side.evaluate(models["student"]),
    )
    assert found.rows[0].error == ""
    assert (found.rows[0].trainable, found.rows[0].total) == (489, 2 * 489)


@pytest.mark.parametrize(
    ("plans", "words"),
    [
        ({}, "there is no plan to compare"),
        ([], "there is no plan to compare"),
        (HEAD, "should be a mapping or a list"),
        ("plan.yaml", "should be a mapping or a list"),
        ({"a": 3}, r"plans\['a'\] is 3, and should be a FreezePlan or a path"),
        ([None], r"plans\[0\] is None, and should be a FreezePlan or a path"),
        ({1: HEAD}, "plans's key 1 should be text"),
        ({"": HEAD}, "'' cannot name a plan"),
    ],
)
def test_what_are_no_plans_is_refused(plans, words):
    with pytest.raises((PlanError, ArgumentError), match=words):
        compare(Torch, plans)


def test_plan_files_are_named_by_their_stem_and_not_twice(tmp_path):
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        HEAD.save(tmp_path / folder / "head.yaml")
    found = compare(Torch, [tmp_path / "one" / "head.yaml", TOP], train=lambda m, h: None)
    assert [row.name for row in found.rows] == ["head", "plan 2"]
    with pytest.raises(PlanError, match="two plans are called 'head'") as caught:
        compare(Torch, [str(tmp_path / n / "head.yaml") for n in ("one", "other")])
    assert "one/head.yaml" in str(caught.value)


@pytest.mark.parametrize("repeats", [0, -1, 1.5, True])
def test_repeats_are_counted_from_1(repeats):
    with pytest.raises((TargetError, ArgumentError), match="repeats is"):
        compare(Torch, [HEAD], repeats=repeats)


@pytest.mark.parametrize("seed", [-1, "0", 1.0])
def test_seeds_are_whole_numbers_from_0_on(seed):
    with pytest.raises((TargetError, ArgumentError), match="seed is"):
        compare(Torch, [HEAD], seed=seed)


FIXED = Comparison(
    (
        PlanRow(
            "head",
            tuple(PlanRun(n, {"accuracy": v}, 1.0 + n) for n, v in enumerate([0.5, 0.75, 0.25])),
            25,
            489,
            100,
        ),
        PlanRow("all", (PlanRun(0, {}, None, "ValueError: no data"),), 489, 489, 1956),
    ),
    "torch",
    "cpu",
)


def test_a_comparison_is_a_table_of_medians_and_spread():
    assert str(FIXED).splitlines() == [
        "torch on cpu, 3 runs (median, lowest and highest) of each plan from the same weights",
        "plan  trainable   share          accuracy            seconds  gradients",
        "head         25    5.1%  0.5 [0.25, 0.75]  2.00 [1.00, 3.00]      100 B",
        "all         489  100.0%                                         1.9 KiB",
        "all failed: ValueError: no data",
    ]
    data = json.loads(json.dumps(FIXED.to_json(), allow_nan=False))
    assert data["rows"][0]["metrics"] == {"accuracy": 0.5}
    assert data["rows"][1]["error"] == "ValueError: no data"
    assert len(data["rows"][0]["runs"]) == 3


def test_the_best_is_asked_for_by_name_and_direction():
    with pytest.raises(UnifreezeError, match="measured by 'acuracy'") as caught:
        FIXED.best("acuracy", mode="max")
    assert caught.value.hint == "did you mean 'accuracy'?"
    with pytest.raises(UnifreezeError, match="mode is 'best'"):
        FIXED.best("accuracy", mode="best")


@pytest.mark.parametrize(("terminal", "shown"), [(True, True), (True, False), (False, True)])
def test_a_bar_is_shown_on_a_terminal_alone(terminal, shown, monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return terminal

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    compare(Torch, [HEAD], train=lambda m, h: None, progress=shown)
    assert ("comparing plans" in screen.getvalue()) == (terminal and shown)
