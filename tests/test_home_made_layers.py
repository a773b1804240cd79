"""Networks of home-made layers have blocks, and the same names in both frameworks.

The layers are like those of libraries for molecules: a matrix that is stored in x out under a name
of its own, residual scales in a list, and no layer of the framework inside a block.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from unifreeze._protocol import Batch, backend_for

DEPTH = 4


def torch_net(*, crossed: bool = False) -> torch.nn.Module:
    class Mixing(torch.nn.Module):
        def __init__(self, fan_in: int, fan_out: int) -> None:
            super().__init__()
            self.matrix = torch.nn.Parameter(torch.ones(fan_in, fan_out))
            self.shift = torch.nn.Parameter(torch.zeros(fan_out))

        def forward(self, x):
            return x @ self.matrix + self.shift

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # In the crossed network the second layer of each block is registered first.
            for name in ("edges", "nodes") if crossed else ("nodes", "edges"):
                setattr(self, name, Mixing(6, 6))
            self.scales = torch.nn.ParameterList([torch.ones(6) for _ in range(2)])

        def forward(self, x):
            nodes, edges = self.nodes(x), self.edges(x)
            return x + self.scales[0] * nodes + self.scales[1] * edges

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.entry = Mixing(3, 6)
            self.layers = torch.nn.ModuleList([Layer() for _ in range(DEPTH)])
            self.energy = torch.nn.Linear(6, 1)

        def forward(self, x):
            x = self.entry(x)
            for layer in self.layers:
                x = layer(x)
            return self.energy(x)

    return Net()


def paddle_net() -> paddle.nn.Layer:
    class Mixing(paddle.nn.Layer):
        def __init__(self, fan_in: int, fan_out: int) -> None:
            super().__init__()
            self.matrix = self.create_parameter([fan_in, fan_out])
            self.shift = self.create_parameter([fan_out], is_bias=True)

        def forward(self, x):
            return x @ self.matrix + self.shift

    class Layer(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.nodes = Mixing(6, 6)
            self.edges = Mixing(6, 6)
            scales = [self.create_parameter([6], is_bias=True) for _ in range(2)]
            self.scales = paddle.nn.ParameterList(scales)

        def forward(self, x):
            nodes, edges = self.nodes(x), self.edges(x)
            return x + self.scales[0] * nodes + self.scales[1] * edges

    class Net(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.entry = Mixing(3, 6)
            self.layers = paddle.nn.LayerList([Layer() for _ in range(DEPTH)])
            self.energy = paddle.nn.Linear(6, 1)

        def forward(self, x):
            x = self.entry(x)
            for layer in self.layers:
                x = layer(x)
            return self.energy(x)

    return Net()


def described(net, batch=None):
    return backend_for(net).describe(net, batch)


def rows() -> Batch:
    return Batch((np.ones((2, 3), np.float32),))


@pytest.mark.parametrize("batch", [None, rows()], ids=["registered", "along a batch"])
def test_both_frameworks_give_the_same_names(batch):
    sides = [described(net, batch) for net in (torch_net(), paddle_net())]
    named = [{p.path: p.name for p in spec.parameters} for spec in sides]
    assert named[0] == named[1]
    assert {path: name for path, name in named[0].items() if path.startswith("layers.2.")} == {
        "layers.2.nodes.matrix": "blocks.2/param.0/matrix",
        "layers.2.nodes.shift": "blocks.2/param.0/shift",
        "layers.2.edges.matrix": "blocks.2/param.1/matrix",
        "layers.2.edges.shift": "blocks.2/param.1/shift",
        "layers.2.scales.0": "blocks.2/param.2/0",
        "layers.2.scales.1": "blocks.2/param.2/1",
    }


@pytest.mark.parametrize("net", [torch_net, paddle_net])
def test_words_select_blocks_head_and_stem(net):
    for selector, begins in (("blocks[-2:]", ("layers.2.", "layers.3.")), ("head", ("energy.",))):
        trained = uf.FreezePlan().only(selector).resolve(net()).trainable_paths
        assert trained == tuple(
            p.path for p in described(net()).parameters if p.path.startswith(begins)
        )
    assert set(uf.FreezePlan().freeze("stem").resolve(net()).frozen_paths) == {
        "entry.matrix",
        "entry.shift",
    }


def test_a_plan_by_blocks_holds_in_parity():
    plan = uf.FreezePlan().only("head | blocks[-1]")
    uf.check_parity(plan, torch_net(), paddle_net(), batch=rows()).raise_if_broken()


def test_blocks_do_not_depend_on_which_layer_is_registered_first():
    crossed, plain = (described(torch_net(crossed=flag)) for flag in (True, False))
    assert len(crossed.runs[0].blocks) == len(plain.runs[0].blocks) == DEPTH
