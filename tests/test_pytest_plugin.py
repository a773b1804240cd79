"""The fixture that ships with the library: it passes and fails, and reads batches."""

from pathlib import Path

import numpy as np

from unifreeze._protocol import Batch

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent

USE = """
import numpy as np
import torch
import unifreeze as uf

def net(**how):
    return torch.nn.Sequential(torch.nn.Linear(4, 4, **how), torch.nn.Linear(4, 2))

PLAN = uf.FreezePlan().only('path:"1"')
BATCH = np.ones((3, 4), np.float32)

def test_it_holds(assert_parity):
    assert assert_parity(PLAN, net(), net(), batch=BATCH).holds

def test_it_does_not(assert_parity):
    assert_parity(PLAN, net(), net(bias=False), batch=BATCH, steps=1)
"""


def test_the_fixture_passes_and_fails(pytester):
    pytester.makepyfile(USE)
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*ParityError: parity does not hold: parameters*"])


FLAGS = """
import pytest
import torch
import unifreeze as uf
from tests.support.kits.paddle_kit import kit as paddle_kit
from tests.support.kits.torch_kit import kit as torch_kit

PLAN = uf.FreezePlan().only("head")

@pytest.fixture
def model():
    model = torch_kit.plain.make()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("head")
    return model

def test_a_loop_freezes_as_the_plan_says(assert_frozen, model):
    assert_frozen(model, PLAN)
    assert not model.get_parameter(next(iter(dict(model.named_parameters())))).requires_grad

def test_a_loop_freezes_less(assert_frozen, model):
    next(model.parameters()).requires_grad = True
    assert_frozen(model, PLAN)

def test_both_ports_train_the_same(assert_same_trainability, model):
    other = paddle_kit.plain.make()
    PLAN.apply(other)
    assert_same_trainability(model, other)

def test_one_port_trains_more(assert_same_trainability, model):
    assert_same_trainability(model, paddle_kit.plain.make())

def test_one_port_has_more(assert_same_trainability, model):
    assert_same_trainability(model, torch.nn.Sequential(model, torch.nn.Linear(3, 3)))
"""


def test_flags_are_asserted_in_either_framework(pytester):
    pytester.syspathinsert(ROOT)
    pytester.makepyfile(FLAGS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*ParityError: Plain is not frozen as the plan says: 1 parameter*",
            "*: trains, the plan says: frozen*",
            "*ParityError: the two models do not train the same: 12 parameters*",
            "*ParityError: the two models are not one network*",
        ]
    )


def test_batches_are_read_from_what_users_pass():
    row = np.zeros(2)
    assert Batch.of(row).args == (row,)
    assert Batch.of([row, row]).args == (row, row)
    named = Batch.of({"x": [1, 2]})
    assert named.args == ()
    assert named.kwargs["x"].tolist() == [1, 2]
    assert Batch.of(named) is named
