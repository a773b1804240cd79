"""The GPU run, as far as it goes without a GPU: no Paddle needed, records at hand, faults seen."""

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch

from ci import gpu, gpu_wheels
from examples.parity import CHECKS
from tests.support.pairs import small
from unifreeze._cli.find_model import load_model
from unifreeze._evidence import Record
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Batch, load_backend
from unifreeze.errors import RecordError

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "tests.support.kits.torch_kit:Plain",
    "tests.support.kits.paddle_kit:Plain",
    ["float32[8,6]"],
)


def test_the_gpu_tests_of_pytorch_run_where_there_is_no_paddle():
    code = "import pytest, sys; sys.modules['paddle'] = None; sys.exit(pytest.main(sys.argv[1:]))"
    words = ["tests/test_gpu.py", "-q", "--framework=torch", "--device=cpu"]
    command = [sys.executable, "-W", "ignore", "-c", code, *words, "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    assert "deselected" in done.stdout


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: gpu.name_of(check[1]))
def test_a_record_that_is_kept_is_what_the_plan_decides_today(check):
    """If this fails, `make gpu-records` writes it anew."""
    _, plan, _, model, _ = check
    kept = Record.load(gpu.KEPT / f"{gpu.name_of(plan)}-paddle.json")
    assert (kept.framework, kept.device, kept.model) == ("paddle", "cpu", model)
    assert kept.plan_digest == FreezePlan.load(ROOT / plan).digest
    resolution = FreezePlan.load(ROOT / plan).resolve(load_model(model)[0])
    decided = zip(resolution.spec.parameters, resolution.trainable.tolist(), strict=True)
    assert {(row.name, row.path): row.trainable for row in kept.parameters} == {
        (parameter.name, parameter.path): trainable for parameter, trainable in decided
    }


@pytest.fixture
def small_run(monkeypatch, tmp_path):
    """The run with one small network, whose record of Paddle is made and kept."""
    plan = tmp_path / "small" / "plan.yaml"
    plan.parent.mkdir()
    plan.write_text('{unifreeze: 1, rules: [{freeze: "blocks[0]"}]}')
    one, other, batch = SMALL
    monkeypatch.setattr(gpu, "CHECKS", [("small", str(plan), one, other, batch)])
    monkeypatch.setattr(gpu, "KEPT", tmp_path / "records")
    gpu.keep()
    return tmp_path


def test_both_precisions_are_recorded_and_compared_with_what_is_kept(small_run):
    rows = gpu.networks(small_run, {"torch": "cpu"})
    assert [(row["network"], row["precision"]) for row in rows] == [
        ("small", "float32"),
        ("small", "bfloat16"),
    ]
    assert [len(row["clauses"]) for row in rows] == [9, len(gpu.BITS)]
    assert all(all(row["clauses"].values()) for row in rows)
    page = gpu.page({"machine": {"GPU": "none"}, "tests": "passed", "rows": rows, "seconds": 9})
    assert "| small | bfloat16 | torch on cpu and paddle on cpu | 14 | 6 | all 5 clauses" in page


def test_a_record_with_another_decision_is_seen_in_both_precisions(small_run):
    file = small_run / "records" / "small-paddle.json"
    data = json.loads(file.read_text())
    data["parameters"][-1]["trainable"] = not data["parameters"][-1]["trainable"]
    file.write_text(json.dumps(data))
    rows = gpu.networks(small_run, {"torch": "cpu"})
    assert all(not row["clauses"]["decisions"] for row in rows)
    page = gpu.page({"machine": {}, "tests": "", "rows": rows, "seconds": 9})
    assert page.count("| not decisions, ") == 2


def test_a_record_of_another_plan_is_refused(small_run):
    Path(gpu.CHECKS[0][1]).write_text("{unifreeze: 1, rules: [{freeze: head}]}")
    with pytest.raises(RecordError, match="different plans"):
        gpu.networks(small_run, {"torch": "cpu"})


def test_in_bfloat16_the_forward_pass_alone_is_in_bfloat16():
    from examples.in_bfloat16 import InBfloat16

    model, batch = small.torch_text(), torch.zeros((2, 3), dtype=torch.int64).numpy()
    assert InBfloat16().run(model, Batch.of(batch)).dtype is torch.bfloat16
    assert load_backend("torch").run(model, Batch.of(batch)).dtype is torch.float32
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_the_page_shows_the_last_run_or_says_that_there_was_none():
    result = json.loads(gpu.DATA.read_text("utf-8")) if gpu.DATA.exists() else None
    assert gpu.PAGE.read_text("utf-8") == gpu.page(result)
    assert ("Not run yet." in gpu.page(result)) == (result is None)


# What such a machine lacks.


def test_only_what_is_not_installed_is_put_on_the_path(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_wheels, "WHEELS", tmp_path / "wheels")
    for name in ("lark", "rich"):
        (gpu_wheels.folder_for(gpu_wheels.here()) / name).mkdir(parents=True)
    (gpu_wheels.folder_for("2.7") / "typer").mkdir(parents=True)
    monkeypatch.setattr(gpu_wheels, "installed", lambda name: name not in {"lark", "typer"})
    found = gpu_wheels.path(tmp_path / "metadata")
    assert [folder.name for folder in found[2:]] == ["lark"]
    assert found[:2] == [ROOT, ROOT / "backends"]
    assert gpu_wheels.lacking(found) == ["typer"]


def test_backends_are_found_though_nothing_is_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_wheels, "installed", lambda name: name != "unifreeze")
    assert gpu_wheels.path(tmp_path)[2:] == [tmp_path]
    (found,) = distributions(path=[str(tmp_path)])
    assert (found.metadata["Name"], found.version) == ("unifreeze", gpu_wheels.project()["version"])
    entries = found.entry_points.select(group="unifreeze.backends")
    assert {entry.name: entry.value for entry in entries} == {
        "torch": "unifreeze_torch:backend",
        "paddle": "unifreeze_paddle:backend",
    }
