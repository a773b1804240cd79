"""A gradient that is all zeros trains nothing, and is found as one that is missing is."""

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf

ROWS = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")


@pytest.fixture(params=[torch, paddle], ids=["torch", "paddle"])
def side(request):
    return request.param


def rows(side):
    return side.tensor(ROWS) if side is torch else side.to_tensor(ROWS)


@pytest.mark.parametrize("held", [False, True])
def test_gradients_that_were_only_set_to_zero_are_found(side, held):
    """Paddle's `clear_gradients()` sets to zero, as PyTorch's `set_to_none=False` does."""
    model = side.nn.Sequential(side.nn.Linear(4, 4), side.nn.Linear(4, 2))
    handle = uf.FreezePlan().only('path:"1"').apply(model)
    (model(rows(side)) ** 2).mean().backward()
    assert handle.check_gradients() == ()
    if side is torch:
        model.zero_grad(set_to_none=False)
    else:
        model.clear_gradients()
    if held:
        (model[1](model[0](rows(side))) ** 2).mean().backward()
        assert handle.check_gradients() == ()
    else:
        found = {f.subject: f.message for f in handle.check_gradients()}
        assert found.keys() == {"1.weight", "1.bias"}
        assert "all zeros" in found["1.bias"]
