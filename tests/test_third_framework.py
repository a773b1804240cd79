"""A third framework joins from a distribution of its own, with no edit anywhere else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent

CONTRACT = """
import sys
from tests.support.toy_framework.toy_models import kit
from unifreeze.testing import CONTRACT

for check in CONTRACT:
    check(kit)
print(len(CONTRACT), {"torch", "paddle"} & set(sys.modules))
"""

TRAINING = """
import numpy as np
import toynet
import unifreeze as uf
from tests.support.toy_framework.toy_models import Plain

model = Plain()
before = model.state()
handle = uf.FreezePlan().only("head").with_group("head", lr_scale=10.0).apply(model)
optimizer = handle.optimizer(toynet.AdamW, lr=0.01, weight_decay=0.1)
for _ in range(3):
    model.set_training(True)
    loss = model(toynet.Tensor(np.ones((4, 6), np.float32))) ** 2.0
    loss.sum().backward()
    optimizer.step()
    optimizer.clear()
print(handle.verify())
moved = {name for name, array in model.state().items() if not np.array_equal(array, before[name])}
assert moved == {"head.weight", "head.bias"}, moved
assert [group["rate"] for group in optimizer.groups] == [0.1]
handle.remove()
model.load_state(before)
assert all(weight.learns for weight in model.all_weights())
assert all(module.training for module in model.modules())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Run Python where the toy distribution is installed, and nothing else is changed."""
    folder = tmp_path_factory.mktemp("site")
    install = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
    ]
    subprocess.run(
        [sys.executable, *install, folder, HERE / "support" / "toy_framework"], check=True
    )
    folders = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=HERE.parent,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_it_is_listed(python):
    run = python("-m", "unifreeze", "backends", "--json", "-")
    rows = {row["name"]: row for row in json.loads(run.stdout)}
    assert rows.keys() == {"torch", "paddle", "toynet"}
    assert rows["toynet"] == {
        "name": "toynet",
        "installed": True,
        "version": "0.1.0",
        "devices": ["cpu"],
    }


def test_it_passes_the_contract_without_the_other_frameworks(python):
    run = python("-c", CONTRACT)
    assert run.returncode == 0, run.stderr
    count, others = run.stdout.split(maxsplit=1)
    assert int(count) >= 15
    assert others.strip() == "set()"


def test_its_models_train_under_a_plan(python):
    run = python("-c", TRAINING)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("unchanged: 12 frozen parameters, 4 held state tensors")


@pytest.mark.parametrize("half", ["bias", "weight"])
def test_it_is_at_parity_with_another_framework(python, tmp_path, half):
    plan = tmp_path / "plan.yaml"
    rules = f'  - only: "head | blocks[-1]"\n  - freeze: "norm & {half}"\n'
    plan.write_text(f"unifreeze: 1\nrules:\n{rules}")
    sides = ("tests.support.toy_framework.toy_models:Plain", "tests.support.kits.torch_kit:Plain")
    run = python("-m", "unifreeze", "parity", plan, *sides, "--batch", "float32[8,6]")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "toynet on cpu: 14 parameters, 213 values, 7 frozen, 7 trainable" in run.stdout


def test_a_mistake_in_it_is_found(python, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text('unifreeze: 1\nrules:\n  - only: "head"\n')
    sides = (
        "tests.support.toy_framework.toy_models:Plain",
        "tests.support.toy_framework.toy_models:Forgetful",
    )
    run = python("-m", "unifreeze", "parity", plan, *sides, "--batch", "float32[8,6]")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "head.weight: is trainable and did not move" in run.stdout


def test_nobody_else_knows_it():
    files = [file for folder in ("unifreeze", "backends") for file in (ROOT / folder).rglob("*.py")]
    assert files
    assert [file for file in files if "toynet" in file.read_text(encoding="utf-8")] == []
