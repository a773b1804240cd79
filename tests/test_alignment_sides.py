"""The acceptance report of two sides that never meet: each run alone, then compared as files."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import unifreeze as uf
from unifreeze._cli import align_sides, app
from unifreeze._cli.find_model import load_model
from unifreeze._evidence.alignment import AlignmentReport, AlignmentSide
from unifreeze._evidence.alignment.alignment_side import Losses
from unifreeze._evidence.alignment.loss_curves import loss_lines
from unifreeze._experiments import loss_curve
from unifreeze._experiments.model_outputs import floating_outputs
from unifreeze._experiments.nudging import nudge
from unifreeze._protocol import Batch, CurveConfig
from unifreeze.errors import PairingError, PortError, RecordError, TargetError, WeightFileError

SMALL = "tests.support.pairs.small"
IMAGE = f"{SMALL}:torch_image", f"{SMALL}:paddle_image", "float32[4,3,9,9]"
FUSED = (
    "tests.support.pairs.fused:torch_apart()",
    "tests.support.pairs.fused:paddle_fused('v q k', 2)",
    "int64[3,6]<0:11>",
)
STEPS = ("--steps", 2)


def call(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def made(folder, one, other, batch):
    """Pair two models, and write both sides of a report by the command line."""
    known, first, second = (folder / f"{name}.json" for name in ("pairing", "one", "two"))
    call("pair", one, other, "-o", known, "--batch", batch)
    call("align", one, "-p", known, "-o", first, "--batch", batch, *STEPS)
    call("align", other, "-p", known, "--like", first, "-o", second, "--batch", batch, *STEPS)
    return known, first, second


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return made(tmp_path_factory.mktemp("image"), *IMAGE)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(IMAGE, id="image"),
        pytest.param(FUSED, id="fused decoder", marks=pytest.mark.slow),
    ],
)
def test_the_report_of_two_files_is_the_report_of_two_models(network, tmp_path, image):
    one, other, batch = network
    known, first, second = image if network is IMAGE else made(tmp_path, *network)
    apart, here = tmp_path / "apart.json", tmp_path / "here.json"
    done = call("align", first, second, "-p", known, "--json", apart)
    assert done.exit_code == 0, done.output
    call("align", one, other, "--batch", batch, "-p", known, "--json", here, *STEPS)
    reports = [AlignmentReport.load(file) for file in (apart, here)]
    rows = [[(line.section, line.key, line.verdict) for line in r.lines] for r in reports]
    assert rows[0] == rows[1]
    assert reports[0].models == reports[1].models
    losses = [report.curves.other for report in reports]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_report_needs_neither_framework(image, tmp_path):
    known, first, second = image
    script = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['paddle'] = None\n"
        f"sys.argv = ['unifreeze', 'align', {str(first)!r}, {str(second)!r}, '-p', {str(known)!r},"
        f" '-o', {str(tmp_path / 'report.md')!r}, '--language', 'zh']\n"
        "from unifreeze._cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# 复现对齐报告")


def test_each_model_is_run_by_its_own_python_and_the_report_is_of_both(
    image, tmp_path, monkeypatch
):
    known, *sides = image
    ran = []

    def run_sides(commands):
        ran.extend(commands)
        for command in commands:
            target = command.arguments[command.arguments.index("-o") + 1]
            shutil.copy(sides["--like" in command.arguments], target)

    monkeypatch.setattr(align_sides, "run_sides", run_sides)
    options = "--batch", IMAGE[2], "-p", known, "--weights", "w.bin", *STEPS
    done = call("align", *IMAGE[:2], *options, "--other-python", "another")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "the port is aligned"
    assert [command.python for command in ran] == [sys.executable, "another"]
    assert ["--weights" in command.arguments for command in ran] == [True, False]
    for command in ran:
        assert {f"--batch={IMAGE[2]}", "--steps", "2"} <= set(command.arguments)


@pytest.mark.slow
def test_two_processes_are_one_command(tmp_path):
    broken = f"{SMALL}:torch_text(relu=True)"
    words = "--batch", "int64[3,6]<0:11>", "--other-python", sys.executable, *STEPS
    done = call("align", f"{SMALL}:torch_text", f"{SMALL}:paddle_text", *words)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "the port is aligned"
    done = call("align", broken, f"{SMALL}:paddle_text", *words)
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("the port is not aligned: pairing, layers")


def changed(file, copy, **parts):
    copy.write_text(json.dumps(json.loads(file.read_text()) | parts))
    return copy


def test_sides_that_are_not_of_one_report_are_refused(image, tmp_path):
    known, first, second = image
    with pytest.raises(RecordError, match="not those of a model and of its port, in this order"):
        call("align", second, first, "-p", known)
    other = changed(first, tmp_path / "other.json", seed=1)
    with pytest.raises(RecordError, match="Picture was not measured like this side of Image"):
        call("align", other, second, "-p", known)
    digest = AlignmentSide.load(other).digest
    bent = changed(second, tmp_path / "bent.json", like=digest)
    with pytest.raises(RecordError, match="not of one report: seed differs"):
        call("align", other, bent, "-p", known)
    bent = changed(second, tmp_path / "bent.json", inputs_digest="0")
    with pytest.raises(RecordError, match="they saw other inputs"):
        call("align", first, bent, "-p", known)
    names = json.loads(known.read_text())
    names["pairs"][0]["one"] = "nowhere"
    (tmp_path / "pairing.json").write_text(json.dumps(names))
    with pytest.raises(RecordError, match="the pairing is of other models: Image has no nowhere"):
        call("align", first, second, "-p", tmp_path / "pairing.json")


PARTS = ("plain", "moved", "large", "own", "double", "losses", "record")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("number", [0, 1])
def test_a_check_without_figures_is_not_left_out(part, number, image, tmp_path):
    """A file without a part must not be aligned for want of a comparison."""
    known, *sides = image
    sides[number] = changed(sides[number], tmp_path / "side.json", **{part: None})
    part = "layers" if part in ("plain", "moved") else part
    with pytest.raises(RecordError, match=f"it does not say what was measured: {part}"):
        call("align", *sides, "-p", known)


def test_a_side_whose_parts_contradict_each_other_is_refused(image, tmp_path):
    known, first, second = image
    bent = changed(second, tmp_path / "bent.json", held=[])
    with pytest.raises(RecordError, match="it does not say what was measured: held"):
        call("align", first, bent, "-p", known)
    bent = changed(second, tmp_path / "bent.json", steps=3)
    with pytest.raises(RecordError, match="it has losses of other than 3 steps"):
        call("align", first, bent, "-p", known)
    bent = changed(second, tmp_path / "bent.json", values_digest="0")
    with pytest.raises(RecordError, match="Picture was not measured like this side of Image"):
        call("align", first, bent, "-p", known)


def test_the_first_model_s_weights_must_be_beside_its_side(image, tmp_path):
    known, first, _ = image
    port = ("align", IMAGE[1], "-p", known, "--batch", IMAGE[2], *STEPS)
    port = (*port, "-o", tmp_path / "two.json")
    alone = tmp_path / "one.json"
    shutil.copy(first, alone)
    with pytest.raises(WeightFileError, match=r"one\.safetensors was written beside one\.json"):
        call(*port, "--like", alone)
    shutil.copy(first.with_suffix(".safetensors"), alone.with_suffix(".safetensors"))
    changed(alone, alone, values_digest="0")
    with pytest.raises(RecordError, match="does not hold the weights that Image was measured on"):
        call(*port, "--like", alone)


@pytest.mark.parametrize("option", [("--seed", 1), ("--steps", 3), ("--plan", "{plan}")])
def test_a_port_measured_with_other_options_is_refused_at_once(option, image, tmp_path):
    known, first, _ = image
    plan = tmp_path / "plan.yaml"
    plan.write_text("unifreeze: 1\nrules: [{train: head}]\n")
    words = [str(word).format(plan=plan) for word in (*STEPS, *option)]
    port = "align", IMAGE[1], "-p", known, "--like", first, "--batch", IMAGE[2]
    with pytest.raises(RecordError, match=f"measured with another value of {option[0][2:]}"):
        call(*port, "-o", tmp_path / "two.json", *words)


def test_the_port_without_the_first_side_is_refused_with_the_cure(image, tmp_path):
    known, *_ = image
    port = "align", IMAGE[1], "-p", known, "-o", tmp_path / "two.json", "--batch", IMAGE[2]
    with pytest.raises(PairingError, match=r"Picture has no [\s\S]*--like FIRST\.json"):
        call(*port, *STEPS)


def test_a_side_overwrites_nothing_that_is_read_nor_weights_of_others(image, tmp_path):
    known, *_ = image
    for name in ("model.safetensors", "pairing.json", "one.json", "one.safetensors"):
        (tmp_path / name).write_bytes(b"mine")
    one = "align", IMAGE[0], "--batch", IMAGE[2], "-o"
    port = "align", IMAGE[1], "--batch", IMAGE[2], "-o"
    pairing, weights, side = (
        tmp_path / name for name in ("pairing.json", "one.safetensors", "one.json")
    )
    for words in (
        (*one, tmp_path / "model.json", "-p", known),
        (*one, pairing, "-p", pairing),
        (*one, side, "-p", known, "--weights", weights),
        (*port, side, "-p", known, "--like", side),
    ):
        with pytest.raises(TargetError, match="would overwrite"):
            call(*words)
    assert {file.read_bytes() for file in tmp_path.iterdir()} == {b"mine"}


WRONG = {
    "a batch is needed": ("{one}", "-p", "{known}", "-o", "{out}"),
    "need the pairing of both models": ("{one}", "-o", "{out}", "--batch", "float32[4,3,9,9]"),
    "of one model it writes the side": ("{one}", "-p", "{known}", "-o", "report.md"),
    "given a file and a model": ("{first}", "{other}"),
    "--like does nothing here": ("{one}", "{other}", "--like", "{first}"),
    "--weights does nothing here": ("{first}", "{second}", "-p", "{known}", "--weights", "w.bin"),
    "--other-python does nothing here": ("{one}", "-o", "{out}", "--other-python", "python"),
    "--batch does nothing here": ("{first}", "{second}", "-p", "{known}", "--batch", "float32[1]"),
    "--steps does nothing here": ("{first}", "{second}", "-p", "{known}", "--steps", "3"),
    "--seed does nothing here": ("{first}", "{second}", "-p", "{known}", "--seed", "1"),
    "--backend does nothing here": ("{first}", "{second}", "-p", "{known}", "--backend", "torch"),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_use_is_refused(message, image, tmp_path):
    known, first, second = image
    names = dict(zip(("one", "other"), IMAGE[:2], strict=True))
    names |= {"known": known, "first": first, "second": second, "out": tmp_path / "out.json"}
    with pytest.raises(TargetError, match=message):
        call("align", *(word.format(**names) for word in WRONG[message]))


def test_a_side_is_not_a_report_and_a_report_is_not_a_side(image, tmp_path):
    known, first, second = image
    with pytest.raises(RecordError, match="is not a unifreeze acceptance report"):
        call("align", first)
    report = tmp_path / "report.json"
    call("align", first, second, "-p", known, "--json", report)
    with pytest.raises(RecordError, match="is not a unifreeze side of an acceptance report"):
        call("align", first, report, "-p", known)


@pytest.fixture
def weights(tmp_path):
    """A weight file of the first model, with other values than its factory makes."""
    from tests.support.pairs import small

    torch.manual_seed(7)
    model = small.torch_text()
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    return tmp_path / "trained.pt"


def test_weights_are_loaded_into_the_first_model(weights, tmp_path):
    words = f"{SMALL}:torch_text", f"{SMALL}:paddle_text", "--batch", "int64[3,6]<0:11>", *STEPS
    plain, loaded = tmp_path / "plain.json", tmp_path / "loaded.json"
    call("align", *words, "--json", plain)
    call("align", *words, "--json", loaded, "--weights", weights)
    reports = [AlignmentReport.load(file) for file in (plain, loaded)]
    assert reports[0].weights == ""
    assert reports[1].weights.startswith("trained.pt (sha256 ")
    assert reports[0].curves.one[0] != reports[1].curves.one[0]
    assert all(report.holds for report in reports)
    assert np.allclose(reports[1].curves.one[0], reports[1].curves.other[0], rtol=1e-4)


def test_weights_that_do_not_fit_are_refused(weights, tmp_path):
    words = f"{SMALL}:torch_text", f"{SMALL}:paddle_text", "--batch", "int64[3,6]<0:11>", *STEPS
    state = torch.load(weights)
    name = next(iter(state))
    torch.save({k: v for k, v in state.items() if k != name}, tmp_path / "part.pt")
    with pytest.raises(PortError, match=f"{name}: not in the file"):
        call("align", *words, "--weights", tmp_path / "part.pt")
    torch.save(state | {name: state[name][:1]}, tmp_path / "cut.pt")
    with pytest.raises(PortError, match=f"{name}: .* in the file, .* in the model"):
        call("align", *words, "--weights", tmp_path / "cut.pt")
    with pytest.raises(WeightFileError, match="cannot read"):
        call("align", *words, "--weights", tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    ("times", "in_double", "verdict"),
    [(0.5, 1.0, "holds"), (3.0, 1.0, "open"), (3.0, 1.01, "BROKEN")],
)
def test_losses_that_float64_shows_to_agree_are_open(times, in_double, verdict):
    """A chaotic training magnifies rounding, and its noise is measured once."""

    def side(own, double, moved=None):
        losses = Losses(output="logits", own=(1.0, own), own_moved=moved, double=(1.0, double))
        return SimpleNamespace(losses=losses, steps=1)

    noise = 2e-4
    first, second = side(0.5 + times * 5 * noise, in_double / 2), side(0.5, 0.5, (1.0, 0.5 + noise))
    assert loss_lines(first, second)[0].verdict == verdict


@pytest.mark.parametrize(("double", "moves"), [(False, 4), (True, 1)])
def test_the_noise_of_a_training_is_made_at_each_step(framework, monkeypatch, double, moves):
    """In float64 once: there nothing rounds but what a framework keeps in single precision."""
    model, backend = load_model(f"{SMALL}:{framework}_image")
    batch, plan = Batch.of(IMAGE[2]), uf.FreezePlan().train("all")
    directions = []

    def moved(*args, step, **kwargs):
        directions.append(step)
        return nudge(*args, step=step, **kwargs)

    monkeypatch.setattr(loss_curve, "nudge", moved)
    with backend.with_gradient(enabled=False):
        output = next(iter(floating_outputs(backend, backend.run(model, batch))))
    config = CurveConfig(batch, output, output, double=double, nudge=True, steps=3)
    backend.loss_curve(model, plan.resolve(model), config)
    assert directions == list(range(moves))
