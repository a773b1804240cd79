"""One step on one set of weights is the same on both ports; what is wrong breaks its own clause."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import paddle
import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.pairs import small
from unifreeze._cli import main
from unifreeze._evidence import StepSide, check_step, compare_sides, make_side
from unifreeze._evidence import step as check
from unifreeze._evidence.moments import Moments, corrected
from unifreeze._protocol import Batch, StepConfig, load_backend, registry
from unifreeze.errors import PairingError, ParityError, RecordError

IDS = np.random.default_rng(0).integers(0, 11, (3, 6))
PIXELS = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype("float32")
PLANS = {
    "text": uf.FreezePlan().freeze("blocks[0] | position_embeddings"),
    "image": uf.FreezePlan().freeze("blocks[0]"),
}
BATCHES = {"text": IDS, "image": PIXELS}
WEIGHTS = ["outputs", "step gradients", "updates (sgd)", "updates (adamw)"]


def build(name):
    torch.manual_seed(0)
    paddle.seed(0)
    return getattr(small, f"torch_{name}")(), getattr(small, f"paddle_{name}")()


@pytest.fixture(scope="module")
def pairings():
    return {name: uf.pair(*build(name), batch=BATCHES[name]) for name in PLANS}


@pytest.fixture
def step(pairings):
    def run(name, one, other, **settings):
        given = {"batch": BATCHES[name], "pairing": pairings[name], **settings}
        return check_step(PLANS[name], one, other, **given)

    return run


@pytest.fixture
def wrong(monkeypatch):
    """Put a wrong backend in the place of a framework's own."""
    monkeypatch.setattr(registry, "_overrides", {})

    def use(framework, fault):
        right = type(load_backend(framework))
        made = type(fault.__name__, (fault, right), {})()
        registry.override_backend(framework, lambda: made)

    return use


def clause(report, name):
    return next(clause for clause in report.clauses if clause.name == name)


@pytest.mark.parametrize("dtype", ["float64", "as is"])
@pytest.mark.parametrize("name", PLANS)
def test_two_ports_take_the_same_step(step, name, dtype):
    report = step(name, *build(name), dtype=dtype)
    assert report.holds, report
    assert report.decided
    assert report.precision == ("float64" if dtype == "float64" else "float32")
    assert clause(report, "step gradients").measured
    assert {d.setting for d in report.differences} == {
        "text": set(),
        "image": {"running variance"},
    }[name]


def test_it_holds_the_other_way_round_and_over_several_steps():
    torch_model, paddle_model = build("image")
    report = check_step(PLANS["image"], paddle_model, torch_model, batch=PIXELS, steps=3)
    assert report.holds, report
    assert report.sides[0].startswith("Picture in paddle")


def everything(model, backend):
    """Every bit of a model that a check might leave changed."""
    walk = backend.walk(model)
    gradients = [backend.kept_gradient(tensor) for tensor in walk.tensors]
    return (
        [one.bits for one in backend.fingerprint(model, backend.objects(model)).values()],
        backend.read(model),
        backend.modes(walk),
        backend.get_guards(walk),
        [None if g is None else backend.to_array(g).tobytes() for g in gradients],
        [id(tensor) for tensor in walk.tensors],
    )


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "as is"])
def test_both_models_come_back_bit_for_bit(step, monkeypatch, dtype, fails):
    one, other = build("image")
    one.units[0].norm.eval()
    other.cells[1].side_bn.eval()
    one.fc.bias.requires_grad_(False)
    one.stem.bias.grad = torch.ones(4)
    other.out.bias.stop_gradient = True
    other(paddle.to_tensor(PIXELS)).sum().backward()
    backends = load_backend("torch"), load_backend("paddle")
    before = [everything(*side) for side in zip((one, other), backends, strict=True)]
    if fails:

        def stop(*_):
            raise RuntimeError("stop")

        monkeypatch.setattr(type(backends[1]), "backward", stop)
        with pytest.raises(RuntimeError, match="stop"):
            step("image", one, other, dtype=dtype)
    else:
        assert step("image", one, other, dtype=dtype).holds
    assert [everything(*side) for side in zip((one, other), backends, strict=True)] == before
    assert torch.get_default_dtype() is torch.float32
    assert paddle.get_default_dtype() == "float32"


@pytest.mark.parametrize("dtype", ["float64", "as is"])
def test_one_value_carried_over_wrongly_breaks_it(step, monkeypatch, dtype):
    straight = check.carried_values

    def spoil(*arguments):
        values = straight(*arguments)
        values["stack.0.linear1.weight"][2, 3] += 1e-2
        return values

    monkeypatch.setattr(check, "carried_values", spoil)
    report = step("text", *build("text"), dtype=dtype)
    assert {"outputs", "step gradients"} <= set(report.broken)
    with pytest.raises(ParityError, match="the step is not the same: outputs"):
        report.raise_if_broken()


def test_weights_are_carried_over(step, monkeypatch):
    monkeypatch.setattr(check, "carried_values", lambda *_: {})
    assert step("text", *build("text")).broken[:2] == ("outputs", "step gradients")


@pytest.mark.parametrize("dtype", ["float64", "as is"])
def test_another_epsilon_breaks_the_outputs_and_is_listed(step, dtype):
    one, other = build("text")
    other.stack[1].norm2._epsilon = 1e-3
    report = step("text", one, other, dtype=dtype)
    assert {"outputs", "step gradients"} <= set(report.broken)
    (difference,) = report.differences
    assert (difference.setting, difference.one, difference.other) == ("epsilon", 1e-5, 1e-3)
    assert difference.layers == (("layers.1.out_norm", "stack.1.norm2"),)
    assert "changes every normalised value" in str(report)


@pytest.mark.parametrize("dtype", ["float64", "as is"])
def test_another_momentum_breaks_the_statistics_alone_and_is_listed(step, dtype):
    one, other = build("image")
    one.units[1].norm.momentum = 0.11
    report = step("image", one, other, dtype=dtype)
    assert report.broken == ("statistics",)
    subjects = {finding.subject for finding in clause(report, "statistics").findings}
    assert subjects == {"units.1.norm.running_mean", "units.1.norm.running_var"}
    assert ("statistics momentum", 0.11, 0.1) in {d[:3] for d in report.differences}


class SaysBiased:
    """Takes its framework's running variances for what they are not."""

    def settings(self, module):
        return {k: v for k, v in super().settings(module).items() if k != "running variance"}


def test_running_variances_agree_only_once_corrected(step, wrong):
    wrong("torch", SaysBiased)
    report = step("image", *build("image"))
    assert report.broken == ("statistics",)
    subjects = {finding.subject for finding in clause(report, "statistics").findings}
    assert subjects == {"units.1.norm.running_var", "units.1.short_norm.running_var"}


def test_the_correction_takes_out_the_new_part_alone():
    torch.manual_seed(0)
    norm, plan = nn.BatchNorm1d(3, momentum=0.25), uf.FreezePlan().train("all")
    norm.running_var[:] = torch.tensor([1.0, 2.0, 3.0])
    model, rows = nn.Sequential(norm, nn.Linear(3, 2)), np.random.default_rng(0).random((5, 3))
    config = StepConfig(Batch.of(rows))
    side = make_side(plan, model, load_backend("torch"), config, name="one")
    new = corrected(Moments(side, side.run), "0.running_var")
    assert np.allclose(new, 0.75 * np.array([1.0, 2.0, 3.0]) + 0.25 * rows.var(axis=0), rtol=1e-12)


class LosesDecay:
    """Builds its optimizers without weight decay."""

    def plain_optimizer(self, model, spec):
        return super().plain_optimizer(model, replace(spec, weight_decay=0.0))


class LosesMomentum:
    """Builds its optimizers without momentum."""

    def plain_optimizer(self, model, spec):
        return super().plain_optimizer(model, replace(spec, momentum=0.0))


class Slower:
    """Takes AdamW's steps a thousandth shorter."""

    def plain_optimizer(self, model, spec):
        lr = spec.lr * (0.999 if spec.name == "adamw" else 1)
        return super().plain_optimizer(model, replace(spec, lr=lr))


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(
    ("fault", "steps", "broken"),
    [
        (LosesDecay, 1, ("updates (sgd)", "updates (adamw)")),
        (Slower, 1, ("updates (adamw)",)),
        (LosesMomentum, 1, ()),
        (LosesMomentum, 2, ("updates (sgd)",)),
    ],
)
def test_other_hyper_parameters_break_the_updates_alone(
    step, wrong, framework, fault, steps, broken
):
    wrong(framework, fault)
    assert step("text", *build("text"), steps=steps).broken == broken


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(
    ("fault", "name", "broken"),
    [
        ("Deaf", "text", {"frozen", *WEIGHTS[1:]}),
        ("LetsDecayThrough", "text", {"frozen"}),
        ("StatisticsDrift", "image", {"frozen", "statistics", *WEIGHTS}),
    ],
)
def test_what_is_frozen_and_moves_breaks_its_clause(step, wrong, framework, fault, name, broken):
    wrong(framework, getattr(import_module("tests.support.mutants.faults"), fault))
    report = step(name, *build(name))
    assert set(report.broken) == broken, report
    assert all(framework in str(finding) for finding in clause(report, "frozen").findings)


class DecidesOtherwise:
    """Describes its last parameter as frozen, and leaves it so."""

    def describe(self, model, batch=None):
        spec = super().describe(model, batch)
        return spec.with_found(np.arange(len(spec)) < len(spec) - 1)


def test_other_decisions_are_named(step, wrong):
    wrong("torch", DecidesOtherwise)
    report = step("text", *build("text"))
    assert "decisions" in report.broken
    (finding,) = clause(report, "decisions").findings
    assert str(finding) == "answer.bias: is frozen, and trainable in paddle"


def test_swapped_partners_break_it(step, pairings):
    rows = list(pairings["image"].pairs)
    places = {row.one: number for number, row in enumerate(rows)}
    a, b = places["units.1.norm.weight"], places["units.1.norm.bias"]
    rows[a], rows[b] = (
        rows[a].model_copy(update={"other": rows[b].other}),
        rows[b].model_copy(update={"other": rows[a].other}),
    )
    swapped = pairings["image"].model_copy(update={"pairs": tuple(rows)})
    assert set(WEIGHTS) <= set(step("image", *build("image"), pairing=swapped).broken)


def test_a_pairing_of_other_models_is_refused(step, pairings):
    with pytest.raises(PairingError, match="the pairing is of other models"):
        step("text", *build("text"), pairing=pairings["image"])


def test_what_is_practically_zero_is_left_out_and_said(step):
    findings = clause(step("text", *build("text")), "step gradients").findings
    assert [finding.severity for finding in findings] == ["note"]
    assert "left out: gradient below 1e-06 of the largest (layers.1.att.k.bias)" in str(findings[0])


class Chaos(nn.Module):
    """Multiplies rounding by a thousand million: whatever comes in, nothing is left of it."""

    def forward(self, x):
        return torch.sin(1e9 * x)


class PaddleChaos(paddle.nn.Layer):
    def forward(self, x):
        return paddle.sin(1e9 * x)


def test_what_rounding_alone_changes_is_left_open():
    last = nn.Linear(3, 2, bias=False), paddle.nn.Linear(3, 2, bias_attr=False)
    one = nn.Sequential(nn.Linear(3, 3), Chaos(), last[0])
    other = paddle.nn.Sequential(paddle.nn.Linear(3, 3), PaddleChaos(), last[1])
    rows = np.random.default_rng(0).random((4, 3)).astype("float32")
    report = check_step(uf.FreezePlan().train("all"), one, other, batch=rows, dtype="as is")
    assert report.holds
    assert not report.decided
    assert clause(report, "outputs").verdict == "open"
    assert "not decidable in this precision" in str(report)


def sides(pairings, name, **settings):
    one, other = build(name)
    backends = load_backend("torch"), load_backend("paddle")
    values = check.carried_values(pairings[name], backends, one, other)
    config = StepConfig(Batch.of(BATCHES[name]), **settings)
    return (
        make_side(PLANS[name], one, backends[0], config, name="one"),
        make_side(PLANS[name], other, backends[1], replace(config, values=values), name="other"),
    )


def test_sides_travel_as_files_and_are_compared_with_neither_framework_loaded(pairings, tmp_path):
    files = [tmp_path / "one.json", tmp_path / "other.json", tmp_path / "pairing.json"]
    for thing, file in zip((*sides(pairings, "image"), pairings["image"]), files, strict=True):
        thing.save(file)
    assert max(file.stat().st_size for file in files) < 100_000
    code = (
        "import sys; from unifreeze._ports.pairing import Pairing;"
        "from unifreeze._evidence import StepSide, compare_sides;"
        "sides = map(StepSide.load, sys.argv[1:3]);"
        "report = compare_sides(*sides, Pairing.load(sys.argv[3]));"
        "assert not {'torch', 'paddle'} & set(sys.modules);"
        "print(report.holds, len(report.clauses))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "7"], done.stderr


def shifted(rows, path, share):
    """Rows with one sketch's projections moved by a share of its norm."""
    sketch = rows[path]
    along, across = (tuple(n + share * sketch.norm for n in side) for side in sketch[1:])
    return {**rows, path: sketch._replace(along=along, across=across)}


def test_adamw_in_single_precision_may_turn_what_rounding_of_the_gradient_turns(pairings):
    one, other = sides(pairings, "text", double=False)
    path, broken = "head.weight", []
    for share in (0, 8e-6):
        shift = {}
        for name in ("run", "moved"):
            run = getattr(other, name)
            updates = {**run.updates, "adamw": shifted(run.updates["adamw"], path, 3e-3)}
            changed = {"updates": updates, "gradients": shifted(run.gradients, path, share)}
            shift[name] = run.model_copy(update=changed)
        report = compare_sides(one, other.model_copy(update=shift), pairings["text"])
        broken.append(report.broken)
    assert broken == [("updates (adamw)",), ()]


@pytest.mark.parametrize(
    ("share", "broken"),
    [
        (0, ["updates (adamw)"]),
        (1e-12, ["updates (adamw)"]),
        (1e-7, []),
        (1e-5, ["step gradients"]),
    ],
)
def test_adamw_in_double_precision_turns_only_behind_a_part_in_single(pairings, share, broken):
    one, other = sides(pairings, "text")
    path, run = "head.weight", other.run
    updates = {**run.updates, "adamw": shifted(run.updates["adamw"], path, 1e-5)}
    changed = {"updates": updates, "gradients": shifted(run.gradients, path, share)}
    other = other.model_copy(update={"run": run.model_copy(update=changed)})
    report = compare_sides(one, other, pairings["text"])
    assert set(broken) <= set(report.broken)
    assert bool(report.broken) == bool(broken)


def test_a_setting_that_is_a_whole_number_stays_one(pairings, tmp_path):
    side, _ = sides(pairings, "text")
    row = side.layers[0]._replace(settings={"padding_idx": 0, "epsilon": 0.0})
    side.model_copy(update={"layers": (row,)}).save(tmp_path / "side.json")
    settings = StepSide.load(tmp_path / "side.json").layers[0].settings
    assert {name: type(value) for name, value in settings.items()} == {
        "padding_idx": int,
        "epsilon": float,
    }


def test_a_side_that_is_not_finite_does_not_hold(pairings):
    one, other = sides(pairings, "text")
    nan = float("nan")
    run = other.run
    outputs = {
        key: seen._replace(sketch=seen.sketch._replace(norm=nan, along=(nan,) * 8))
        for key, seen in run.outputs.items()
    }
    broken = other.model_copy(update={"run": run.model_copy(update={"outputs": outputs})})
    report = compare_sides(one, broken, pairings["text"])
    assert report.broken == ("outputs",)
    assert "is not finite" in str(report)


class TorchScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.scale = nn.Linear(3, 2), nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.linear(x) * self.scale


class PaddleScale(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.linear = paddle.nn.Linear(3, 2)
        self.scale = paddle.create_parameter([], "float32")

    def forward(self, x):
        return self.linear(x) * self.scale


def test_a_parameter_of_no_dimension_is_carried_and_compared():
    rows = np.random.default_rng(0).random((4, 3)).astype("float32")
    one, other = TorchScale(), PaddleScale()
    plan = uf.FreezePlan().train("all")
    assert check_step(plan, one, other, batch=rows).holds
    assert check_step(plan, other, one, batch=rows).holds
    uf.port_weights(one, other, batch=rows)
    assert float(other.scale) == 0.5


def test_sides_of_different_steps_are_refused(pairings):
    one, other = sides(pairings, "text")
    with pytest.raises(RecordError, match="not of the same step: seed differs"):
        compare_sides(one, other.model_copy(update={"seed": 7}), pairings["text"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"unifreeze_step": 2, "fra', "not a complete side"),
        ("[]", "is not a side"),
        ('{"unifreeze_step": 7}', "of step format 7"),
        ('{"unifreeze_step": 2}', "not a valid side"),
    ],
)
def test_a_file_that_is_no_side_is_refused(content, words, tmp_path):
    file = tmp_path / "side.json"
    file.write_text(content)
    with pytest.raises(RecordError, match=words):
        StepSide.load(file)


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    def run(*arguments):
        PLANS["text"].save(tmp_path / "plan.yaml")
        models = "tests.support.pairs.small:torch_text", "tests.support.pairs.small:paddle_text"
        words = ["step", str(tmp_path / "plan.yaml"), *models, "--batch", "int64[3,6]<0:11>"]
        monkeypatch.setattr(sys, "argv", ["unifreeze", *words, *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return run


def test_the_command_prints_the_clauses(cli):
    code, out, _ = cli()
    assert code == 0, out
    assert "holds   step gradients: gradients agree" in out
    assert out.endswith("the step is the same\n")


def test_the_command_takes_a_pairing_and_writes_json(cli, pairings, tmp_path):
    pairings["text"].save(tmp_path / "pairing.json")
    code, out, _ = cli("--as-is", "-p", str(tmp_path / "pairing.json"), "--json", "-")
    assert code == 0
    assert [row["verdict"] for row in json.loads(out)["clauses"]] == ["holds"] * 7


def test_the_command_says_by_its_exit_code_that_it_does_not_hold(cli, wrong):
    wrong("paddle", LosesDecay)
    code, out, _ = cli()
    assert code == 1
    assert "BROKEN  updates (sgd)" in out
    assert out.endswith("the step is not the same\n")


class TorchKept(nn.Module):
    """A buffer that outputs depend on, and integers."""

    def __init__(self, *, moves=False):
        super().__init__()
        self.fc, self.moves = nn.Linear(6, 3), moves
        self.register_buffer("scale", torch.full((6,), 2.0))
        self.register_buffer("order", torch.arange(6))

    def forward(self, x):
        result = self.fc((x * self.scale)[:, self.order])
        if self.moves:
            self.scale.mul_(0.5)
        return result


class PaddleKept(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc = paddle.nn.Linear(6, 3)
        self.register_buffer("scale", paddle.full([6], 2.0))
        self.register_buffer("order", paddle.arange(6))

    def forward(self, x):
        return self.fc(paddle.index_select(x * self.scale, self.order, axis=1))


@pytest.mark.parametrize("turned", [False, True])
def test_state_that_is_not_a_statistic_is_compared_too(turned):
    rows = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    models = [TorchKept(), PaddleKept()][:: -1 if turned else 1]
    pairing = uf.pair(*models, batch=rows)
    report = uf.check_step(uf.FreezePlan().train("all"), *models, batch=rows, pairing=pairing)
    assert report.holds, str(report)
    assert "2 compared" in next(c.measured for c in report.clauses if c.name == "statistics")
    models[int(turned)] = TorchKept(moves=True)
    report = uf.check_step(uf.FreezePlan().train("all"), *models, batch=rows, pairing=pairing)
    assert [clause.name for clause in report.clauses if not clause.holds] == ["statistics"]
    broken = next(clause for clause in report.clauses if clause.name == "statistics")
    assert [finding.subject for finding in broken.findings] == ["scale"]


@pytest.mark.parametrize("turned", [False, True])
def test_the_vectors_of_a_spectral_norm_are_compared_too(turned):
    one = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)), nn.Linear(5, 2))
    layer = paddle.nn.utils.spectral_norm(paddle.nn.Linear(6, 5))
    other = paddle.nn.Sequential(layer, paddle.nn.Linear(5, 2))
    rows = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    models = [one, other][:: -1 if turned else 1]
    assert uf.check_step(uf.FreezePlan().train("all"), *models, batch=rows).holds


def test_the_line_of_a_clause_names_the_limit_that_was_used(pairings):
    one, other = sides(pairings, "text")
    run = other.run
    other = other.model_copy(
        update={
            "run": run.model_copy(update={"gradients": shifted(run.gradients, "head.weight", 4e-9)})
        }
    )
    report = compare_sides(one, other, pairings["text"])
    found = next(row for row in report.clauses if row.name == "step gradients")
    assert found.holds
    assert "of 1.0e-06 allowed" in found.measured
