"""The fixture that ships with the library: it passes and fails, and reads batches."""

import numpy as np

from unifreeze._protocol import Batch

pytest_plugins = ["pytester"]

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


def test_batches_are_read_from_what_users_pass():
    row = np.zeros(2)
    assert Batch.of(row).args == (row,)
    assert Batch.of([row, row]).args == (row, row)
    named = Batch.of({"x": [1, 2]})
    assert named.args == ()
    assert named.kwargs["x"].tolist() == [1, 2]
    assert Batch.of(named) is named
