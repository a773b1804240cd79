"""Programs that `to_static(full_graph=True)` has traced around a model are not missed."""

from __future__ import annotations

from typing import Any

import paddle
import pytest
from paddle import nn

import unifreeze as uf
from unifreeze.errors import UnsupportedPlanError

PHASES = """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: all, at: {step: 1}, rules: [{train: all}]}
"""


def inner() -> nn.Layer:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


class Around(nn.Layer):
    """A layer that holds the model and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.model = inner()

    def forward(self, x: Any) -> Any:
        """Return the loss."""
        return self.model(x).sum()


FUNCTIONS_MODEL = inner()


def loss_of(x: Any) -> Any:
    """Return the loss of the model above."""
    return FUNCTIONS_MODEL(x).sum()


def test_a_phase_does_not_change_flags_inside_a_layer_traced_around_the_model() -> None:
    around = Around()
    handle = uf.FreezePlan.from_yaml(PHASES).apply(around.model)
    traced = paddle.jit.to_static(around, full_graph=True)
    optimizer = handle.optimizer(paddle.optimizer.SGD, lr=0.1)
    handle.step(step=0)
    traced(paddle.ones([3, 4])).backward()
    assert handle.check_gradients() == ()
    optimizer.step()
    optimizer.clear_grad()
    with pytest.raises(UnsupportedPlanError, match=r"Around\.forward: .* already traced it"):
        handle.step(step=1)
    assert handle.phase.name == "head"
    with pytest.raises(UnsupportedPlanError, match="cannot remove the plan: Around"):
        handle.remove()


def test_a_function_traced_around_the_model_is_named() -> None:
    traced = paddle.jit.to_static(loss_of, full_graph=True)
    traced(paddle.ones([3, 4]))
    with pytest.raises(UnsupportedPlanError, match="the function loss_of: "):
        uf.freeze(FUNCTIONS_MODEL, "backbone")
    uf.freeze(inner(), "backbone")
