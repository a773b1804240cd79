"""A small Paddle network, saved as a program and loaded again."""

from __future__ import annotations

import paddle
from paddle import nn

from tests.support.kits.paddle_layers import floats


class Net(nn.Layer):
    """Two norms that have seen something; saved, its tensors are numbered."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1D(6)
        self.conv, self.last = nn.Conv1D(1, 2, 3), nn.BatchNorm1D(2)

    def forward(self, x):
        x = nn.functional.relu(self.norm(self.first(x)))
        return self.last(self.conv(x.unsqueeze(1))).mean(-1)


def loaded(folder, net=None):
    """Save a network as a program and load it again."""
    net = net or Net()
    net.train()
    net(rows())
    spec = paddle.static.InputSpec([None, 4], "float32")
    paddle.jit.save(net, str(folder / "net"), input_spec=[spec])
    return net, paddle.jit.load(str(folder / "net"))


def rows():
    return paddle.to_tensor(floats(5, 4))
