"""Weight norm put on after the plan, and layers that get their values later, in both frameworks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import pytest
import torch

import unifreeze as uf
from unifreeze.errors import FrozenDriftError, UnifreezeError

PHASES = """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: all, at: {step: 1}, rules: [{train: all}]}
"""


def torch_net() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))


def paddle_net() -> Any:
    return paddle.nn.Sequential(paddle.nn.Linear(4, 8), paddle.nn.ReLU(), paddle.nn.Linear(8, 2))


NORMS = [
    (torch_net, torch.nn.utils.weight_norm, torch.optim.SGD),
    (torch_net, torch.nn.utils.parametrizations.weight_norm, torch.optim.SGD),
    (paddle_net, paddle.nn.utils.weight_norm, paddle.optimizer.SGD),
    (paddle_net, paddle.nn.utils.spectral_norm, paddle.optimizer.SGD),
]
CALLS: dict[str, Callable[[Any, type], Any]] = {
    "optimizer": lambda handle, cls: handle.optimizer(cls, lr=0.1),
    "param_groups": lambda handle, cls: handle.param_groups(0.1),
    "rates": lambda handle, cls: handle.rates(),
    "trainable_state_dict": lambda handle, cls: handle.trainable_state_dict(),
    "save_trained": lambda handle, cls: handle.save_trained("never.safetensors"),
    "attach": lambda handle, cls: handle.attach(object()),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("net", "norm", "cls"), NORMS)
@pytest.mark.parametrize("layer", [0, 2], ids=["frozen", "trained"])
@pytest.mark.parametrize("call", CALLS)
def test_each_call_says_that_a_parameter_was_replaced(
    net: Any, norm: Any, cls: type, layer: int, call: str
) -> None:
    model = net()
    handle = uf.FreezePlan.from_yaml(PHASES).apply(model)
    norm(model[layer])
    if norm is paddle.nn.utils.spectral_norm and f"{layer}.weight" in dict(
        model.named_parameters()
    ):
        return  # it keeps the parameter
    with pytest.raises(UnifreezeError, match=rf"no longer in the model\n  {layer}\.weight") as told:
        CALLS[call](handle, cls)
    assert "handle.reapply()" in str(told.value)
    handle.reapply()
    handle.optimizer(cls, lr=0.1)
    handle.trainable_state_dict()
    handle.verify()


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_layers_that_get_their_values_later_are_named_with_the_cure(framework: str) -> None:
    if framework == "torch":
        model: Any = torch.nn.Sequential(torch.nn.LazyLinear(8), torch.nn.Linear(8, 2))
        uf.FreezePlan().only("head").apply(model).remove()
        handle = uf.FreezePlan().only("head").apply(model)
        model(torch.ones(3, 4))
    else:
        with paddle.LazyGuard():
            model = paddle_net()
        handle = uf.FreezePlan().only("head").apply(model)
        for parameter in model.parameters():
            parameter.initialize()
    with pytest.raises(FrozenDriftError, match=r"0\.weight: filled \(it had no values") as told:
        handle.verify()
    assert "before the plan is applied" in str(told.value)
    handle.rebase()
    handle.verify()
