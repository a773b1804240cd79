"""`suggest`: by rules of thumb and by measuring, written to a file or printed."""

import json
import subprocess
import sys

import numpy as np
import pytest

import unifreeze as uf
from tests.support.command_line import ROOT
from tests.support.suggested_units import stack, trainable


def command_line(*words, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "unifreeze", "suggest", *words],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_line_writes_a_plan(framework, tmp_path):
    file = tmp_path / "plan.yaml"
    words = ["--examples", "2000", "--similarity", "different", "--compute", "low", "--new-head"]
    run = command_line(
        f"tests.support.kits.{framework}_nets:Stack(blocks=8)", *words, "-o", str(file)
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"written to {file}\n"
    model = stack(framework, blocks=8)
    assert trainable(uf.FreezePlan.load(file), model) == ["blocks.6", "blocks.7", "head"]


def test_the_command_line_measures_examples_in_a_file(framework, tmp_path):
    drawn = np.random.default_rng(0)
    rows = drawn.standard_normal((32, 6)).astype("float32")
    np.savez(tmp_path / "examples.npz", arr_0=rows, y=drawn.integers(0, 3, 32))
    words = ["--measure", "--batch", str(tmp_path / "examples.npz"), "--labels", "y"]
    found = tmp_path / "found.json"
    run = command_line(
        f"tests.support.kits.{framework}_nets:Stack(blocks=3)",
        *words,
        "--batch-size",
        "8",
        "--json",
        str(found),
    )
    assert run.returncode == 0, run.stderr
    # Paddle says something when it is imported with more than one thread.
    said = [line for line in run.stderr.splitlines() if "OMP_NUM_THREADS" not in line]
    assert not said, "progress is for terminals"
    assert "measured on 4 batches" in run.stdout
    assert "made-up" not in run.stdout
    report = json.loads(found.read_text())
    units = [one["unit"] for one in report["measures"]]
    assert units == ["stem", "blocks.0", "blocks.1", "blocks.2", "head"]
    assert sorted(report["ranking"]) == sorted(units)
    assert uf.FreezePlan.from_yaml(report["text"]).document() == report["plan"]


def test_the_command_line_says_when_numbers_are_made_up():
    words = ["--measure", "--batch", "float32[8,6]", "--batch", "y=int64[8]<0:3>", "--labels", "y"]
    run = command_line("tests.support.kits.torch_nets:Stack", *words)
    assert run.returncode == 0, run.stderr
    assert "# Measured on made-up numbers" in run.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to go by"),
        (["--measure"], "--measure needs a batch"),
        (["--examples", "9", "--labels", "y"], "add --measure"),
        (["--measure", "--batch", "float32[8,6]"], "the model returns no loss"),
        (["--measure", "--batch", "float32[8,6]", "--batch", "y=int64[4]<0:3>", "--labels", "y",
          "--batch-size", "2"], "not equally long"),
    ],
)  # fmt: skip
def test_the_command_line_refuses_what_it_cannot_use(words, message):
    run = command_line("tests.support.kits.torch_nets:Stack", *words)
    assert run.returncode == 2, run.stdout + run.stderr
    assert message in run.stderr
