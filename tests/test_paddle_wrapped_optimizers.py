"""Paddle: optimizers that wrap others, states of shards, and what is called after updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
import pytest
from paddle.distributed.fleet.utils import recompute

import unifreeze as uf
from tests.support.paddle_ranks.nets import Net, digests, loss_of
from unifreeze.errors import OptimizerError, UnsupportedPlanError

PHASES = uf.FreezePlan.from_yaml("""
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 0.01}
  - {name: all, at: {step: 5}, rules: [{train: all}], lr: 0.005}
""")


class Reentrant(Net):
    """A net whose own forward recomputes its blocks as Paddle does by default."""

    def forward(self, x: Any) -> Any:
        """Return two numbers for each row."""
        x = self.stem(x)
        for block in self.blocks:
            x = recompute(block, x)
        return self.head(x)


def test_lost_gradients_are_told_where_the_order_of_layers_is_watched_too() -> None:
    """Both wait for the first steps of one optimizer."""
    paddle.seed(0)
    model = Reentrant()
    handle = uf.FreezePlan().only("blocks | head").apply(model)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=0.01)
    loss_of(model, 0, 0).backward()
    optimizer.step()
    loss_of(model, 1, 0).backward()
    with pytest.raises(UnsupportedPlanError, match="18 parameters that train have no gradient"):
        optimizer.step()


def looking_ahead(model: Any, state: Any = None) -> tuple[Any, Any]:
    handle = PHASES.apply(model)
    if state:
        handle.load_state_dict(state["handle"])
    inner = handle.optimizer(paddle.optimizer.AdamW)
    optimizer = paddle.incubate.LookAhead(inner, alpha=0.5, k=3)
    if state:
        optimizer.set_state_dict(state["optimizer"])
    return handle, optimizer


def go_on(model: Any, handle: Any, optimizer: Any, steps: range) -> None:
    for step in steps:
        handle.step(step=step)
        loss_of(model, step, 0).backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)


@pytest.mark.parametrize("stop", [4, 7], ids=["before a parameter is thawed", "after"])
def test_look_ahead_goes_on_from_its_state_to_the_bit(stop: int, tmp_path: Path) -> None:
    paddle.seed(0)
    model = Net()
    handle, optimizer = looking_ahead(model)
    go_on(model, handle, optimizer, range(stop))
    values = {name: tensor.numpy() for name, tensor in model.named_parameters()}
    file = tmp_path / "state"
    paddle.save({"handle": handle.state_dict(), "optimizer": optimizer.state_dict()}, str(file))
    go_on(model, handle, optimizer, range(stop, 10))

    resumed = Net()
    for name, tensor in resumed.named_parameters():
        tensor.set_value(values[name])
    go_on(resumed, *looking_ahead(resumed, paddle.load(str(file))), range(stop, 10))
    assert digests(resumed) == digests(model)


def test_a_state_that_lacks_the_parts_of_other_processes_is_refused() -> None:
    paddle.seed(0)
    model = Net()
    handle = uf.FreezePlan().only("head").apply(model)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=0.01)
    loss_of(model, 0, 0).backward()
    optimizer.step()
    state = dict(optimizer.state_dict())
    names = state.pop("unifreeze_names")
    parts = [
        {"unifreeze_names/0": {**names, "owned": ["head.weight"]}},
        {"unifreeze_names/1": {**names, "owned": ["head.bias"]}},
    ]
    with pytest.raises(OptimizerError, match=r"lacks 1 parameter .*\n  head.bias") as told:
        optimizer.set_state_dict({**state, **parts[0]})
    assert "{**state_of_rank_0" in str(told.value)
    optimizer.set_state_dict({**state, **parts[0], **parts[1]})
