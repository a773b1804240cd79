"""What trains and gets no gradient is told at the first steps of each phase, in both frameworks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import paddle
import pytest
import torch
from paddle.distributed.fleet.utils import recompute
from torch.utils.checkpoint import checkpoint

import unifreeze as uf
from unifreeze.errors import UnsupportedPlanError

PHASES = """
unifreeze: 1
order: as_described
phases:
  - {name: head, rules: [{only: 'path:"head"'}]}
  - {name: blocks, at: {step: 3}, add: [{train: 'path:"blocks"'}]}
"""


def torch_run(*, reentrant: bool) -> tuple[Any, type, Callable[[], Any]]:
    """Return a model, an optimizer's class, and what runs a batch backward."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Linear(4, 8)
            self.blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(2))
            self.head = torch.nn.Linear(8, 2)
            self.idle = torch.nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=reentrant)
            return self.head(x)

    model = Net()
    return model, torch.optim.AdamW, lambda: model(torch.ones(3, 4)).square().mean().backward()


def paddle_run(*, reentrant: bool) -> tuple[Any, type, Callable[[], Any]]:
    """Return the same in Paddle, where reentrant is the default."""

    class Net(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.stem = paddle.nn.Linear(4, 8)
            self.blocks = paddle.nn.LayerList([paddle.nn.Linear(8, 8) for _ in range(2)])
            self.head = paddle.nn.Linear(8, 2)
            self.idle = paddle.nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            for block in self.blocks:
                x = recompute(block, x) if reentrant else recompute(block, x, use_reentrant=False)
            return self.head(x)

    model = Net()
    backward = lambda: model(paddle.ones([3, 4])).square().mean().backward()  # noqa: E731
    return model, paddle.optimizer.AdamW, backward


RUNS = pytest.mark.parametrize("run", [torch_run, paddle_run])


def take_steps(handle: Any, optimizer: Any, backward: Callable[[], Any], steps: range) -> None:
    clear = getattr(optimizer, "zero_grad", None) or optimizer.clear_grad
    for step in steps:
        handle.step(step=step)
        backward()
        optimizer.step()
        clear()


@RUNS
def test_modules_that_run_only_without_gradient_are_told_with_the_cure(run: Any) -> None:
    model, cls, backward = run(reentrant=True)
    handle = uf.freeze(model, 'path:"stem"')
    optimizer = handle.optimizer(cls, lr=0.01)
    with pytest.raises(UnsupportedPlanError, match=r"4 parameters .*\n.*blocks.0.weight") as told:
        take_steps(handle, optimizer, backward, range(2))
    assert "use_reentrant=False" in str(told.value)
    assert "idle" not in str(told.value)


@RUNS
def test_each_phase_is_looked_at(run: Any) -> None:
    model, cls, backward = run(reentrant=True)
    handle = uf.FreezePlan.from_yaml(PHASES).apply(model)
    optimizer = handle.optimizer(cls, lr=0.01)
    take_steps(handle, optimizer, backward, range(3))
    with pytest.raises(UnsupportedPlanError, match="gradients switched off"):
        take_steps(handle, optimizer, backward, range(3, 5))


@RUNS
def test_what_did_not_run_is_only_logged_once(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    model, cls, backward = run(reentrant=False)
    handle = uf.freeze(model, 'path:"stem"')
    optimizer = handle.optimizer(cls, lr=0.01)
    with caplog.at_level(logging.INFO, "unifreeze"):
        take_steps(handle, optimizer, backward, range(4))
    told = [record.getMessage() for record in caplog.records if "no gradient" in record.msg]
    assert len(told) == 1
    assert "did not run" in told[0]
    assert "idle.weight" in told[0]
    handle.verify()


@RUNS
def test_evaluations_and_other_optimizers_do_not_count(run: Any) -> None:
    """A part that another optimizer trains may run without gradient meanwhile."""
    model, cls, backward = run(reentrant=False)
    handle = uf.freeze(model, 'path:"stem"')
    optimizer = handle.optimizer(cls, lr=0.01)
    off = torch.no_grad if run is torch_run else paddle.no_grad
    ones = torch.ones(3, 8) if run is torch_run else paddle.ones([3, 8])
    for step in range(3):
        take_steps(handle, optimizer, backward, range(step, step + 1))
        model.eval()
        with off():
            model.idle(ones)
        model.train()
    handle.verify()
