"""Optimizers of PyTorch that wrap another one: the one inside is steered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributed.optim import PostLocalSGDOptimizer

import unifreeze as uf
from unifreeze.errors import OptimizerError

PHASES = """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 0.001}
  - {name: all, at: {step: 1}, rules: [{train: all}], lr: 0.0001}
"""


class NoAverage:
    """Averages nothing: here is one process."""

    step = 0

    def average_parameters(self, params: Any) -> None:
        """Do nothing."""


def test_post_local_sgd_is_refused_with_the_cure_and_its_optimizer_is_steered() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    handle = uf.FreezePlan.from_yaml(PHASES).apply(model)
    inner = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    outer = PostLocalSGDOptimizer(inner, NoAverage())
    with pytest.raises(OptimizerError, match=r"wraps another optimizer.*\n.*its \.optim"):
        handle.attach(outer)
    handle.attach(outer.optim)
    for step, rate in enumerate((0.001, 0.0001)):
        handle.step(step=step)
        before = model[2].weight.detach().clone()
        model(torch.ones(3, 4)).square().mean().backward()
        outer.step()
        outer.zero_grad()
        assert float((model[2].weight - before).abs().max()) == pytest.approx(rate, rel=0.2)
