"""A framework without a tape joins from outside: no `.grad`, one dictionary in each module."""

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
from tests.support.tapeless_framework.tapeless_models import kit
from unifreeze.testing import CONTRACT

for check in CONTRACT:
    check(kit)
print(len(CONTRACT), {"torch", "paddle"} & set(sys.modules))
"""

TRAINING = """
import numpy as np
import slopenet
import unifreeze as uf
from tests.support.tapeless_framework.tapeless_models import Plain

model = Plain()
before = model.state()
handle = uf.FreezePlan().only("head").with_group("head", lr_scale=10.0).apply(model)
optimizer = handle.optimizer(slopenet.AdamW, lr=0.01, weight_decay=0.1)
x = slopenet.Array(np.ones((4, 6), np.float32))
for _ in range(3):
    model.set_training(True)
    value, gradients = slopenet.value_and_gradients(lambda: (model(x) ** 2.0).sum(), model)
    assert gradients.keys() == {"head.weight", "head.bias"}
    optimizer.update(gradients)
print(handle.verify())
assert not any(hasattr(array, "grad") for _, array in model.arrays(slopenet.Array))
moved = {name for name, array in model.state().items() if not np.array_equal(array, before[name])}
assert moved == {"head.weight", "head.bias"}, moved
assert [group["rate"] for group in optimizer.groups] == [0.1]
handle.remove()
model.load_state(before)
assert not any(weight.frozen for _, weight in model.arrays(slopenet.Weight))
assert all(module.training for module in model.modules())
"""

CHANGES = """
import slopenet
import unifreeze as uf
from tests.support.tapeless_framework.tapeless_models import Plain
from unifreeze.backend import load_backend
from unifreeze.errors import FrozenDriftError

backend, model = load_backend("slopenet"), Plain()
tree = backend.describe(model).tree
model.momentum = 0.5
model.blocks.held(slopenet.Module)["0"].norm.mean = slopenet.State([1.0] * 6)
assert backend.describe(model).tree is tree, "settings and statistics are not structure"
model.head = slopenet.Linear(6, 2)
assert backend.describe(model).tree is not tree, "a new child was not seen"
handle = uf.FreezePlan().freeze("blocks").apply(model)
block = model.blocks.held(slopenet.Module)["0"]
block.first.weight = slopenet.Weight(block.first.weight.data + 1)
try:
    handle.verify()
except FrozenDriftError as error:
    print(error)
"""

READS = """
from tests.support.tapeless_framework.tapeless_models import kit

model = kit.loose.make()
attributes = model.attributes
norms, used = kit.backend.first_gradients(model, kit.loose.batch)
assert {"scale", "body", "head"} <= used and "training" not in used, used
assert norms["scale"] > 0
assert model.__dict__["attributes"] is attributes
"""

FREEZING_ALONE = """
import numpy as np
import unifreeze as uf
from tests.support.tapeless_framework.tapeless_models import Plain
from unifreeze.backend import FreezingBackend, load_backend, override_backend
from unifreeze.errors import BackendError

whole = load_backend("slopenet")


class FreezingAlone:
    name = "slopenet"

    def __getattr__(self, method):
        if method in dir(FreezingBackend):
            return getattr(whole, method)
        raise AttributeError(method)


override_backend("slopenet", FreezingAlone)
model = Plain()
handle = uf.FreezePlan().only("head").apply(model)
model.set_training(True)
print(handle.verify())
for job in (
    lambda: handle.optimizer(object, lr=0.1),
    lambda: uf.check_parity(handle.plan, model, Plain(), batch=np.ones((4, 6), np.float32)),
):
    try:
        job()
    except BackendError as error:
        print(error)
handle.remove()
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Run Python where the tapeless distribution is installed, and nothing else is changed."""
    folder = tmp_path_factory.mktemp("site")
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    source = HERE / "support" / "tapeless_framework"
    subprocess.run([sys.executable, *install, "--target", folder, source], check=True)
    folders = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_it_is_listed(python):
    run = python("-m", "unifreeze", "backends", "--json", "-")
    rows = {row["name"]: row for row in json.loads(run.stdout)}
    assert rows["slopenet"]["version"] == "0.1.0"


def test_it_passes_the_contract_without_the_other_frameworks(python):
    run = python("-c", CONTRACT)
    assert run.returncode == 0, run.stderr
    count, others = run.stdout.split(maxsplit=1)
    assert int(count) >= 21
    assert others.strip() == "set()"


def test_its_models_train_under_a_plan(python):
    run = python("-c", TRAINING)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("unchanged: 12 frozen parameters, 4 held state tensors")


def test_a_change_in_its_one_dictionary_is_seen(python):
    run = python("-c", CHANGES)
    assert run.returncode == 0, run.stderr
    assert "blocks.0.first.weight" in run.stdout


def test_reads_from_its_one_dictionary_are_traced(python):
    run = python("-c", READS)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("half", ["bias", "weight"])
def test_it_is_at_parity_with_another_framework(python, tmp_path, half):
    plan = tmp_path / "plan.yaml"
    rules = f'  - only: "head | blocks[-1]"\n  - freeze: "norm & {half}"\n'
    plan.write_text(f"unifreeze: 1\nrules:\n{rules}")
    sides = (
        "tests.support.tapeless_framework.tapeless_models:Plain",
        "tests.support.kits.torch_kit:Plain",
    )
    run = python("-m", "unifreeze", "parity", plan, *sides, "--batch", "float32[8,6]")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "slopenet on cpu: 14 parameters, 213 values, 7 frozen, 7 trainable" in run.stdout


def test_a_backend_may_offer_freezing_alone(python):
    run = python("-c", FREEZING_ALONE)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("unchanged: 12 frozen parameters")
    assert "the backend of slopenet has no optimizers: it cannot do `optimizer`" in run.stdout
    assert "the backend of slopenet has no experiments: it cannot do" in run.stdout
    assert "of OptimizerBackend it lacks base_rate, clear_moments" in run.stdout


def test_nobody_else_knows_it():
    files = [file for folder in ("unifreeze", "backends") for file in (ROOT / folder).rglob("*.py")]
    assert files
    assert [file for file in files if "slopenet" in file.read_text(encoding="utf-8")] == []
