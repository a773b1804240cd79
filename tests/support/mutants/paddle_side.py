"""The mutants' network in PaddlePaddle, and its wrong backends."""

from __future__ import annotations

import paddle
from paddle import nn

from tests.support.mutants import faults
from unifreeze_paddle import PaddleBackend
from unifreeze_paddle._layers import PaddleReader


class Block(nn.Layer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, 2 * width)
        self.norm = nn.BatchNorm1D(2 * width)
        self.second = nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.drop(self.second(paddle.tanh(self.norm(self.first(x)))))


class TiedLinear(nn.Layer):
    def __init__(self, weight: paddle.Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.bias = self.create_parameter([weight.shape[0]], is_bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle.matmul(x, self.weight, transpose_y=True) + self.bias


class Network(nn.Layer):
    def __init__(self, words: int = 11, width: int = 6) -> None:
        super().__init__()
        self.scale = self.create_parameter(
            [width], default_initializer=nn.initializer.Constant(1.0)
        )
        self.shift = self.create_parameter([width], is_bias=True)
        self.shift.stop_gradient = True
        self.table = nn.Embedding(words, width)
        self.blocks = nn.LayerList([Block(width), Block(width)])
        self.words = TiedLinear(self.table.weight)
        self.label = nn.Linear(width, 3)

    def forward(self, ids: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        x = self.table(ids) * self.scale + self.shift
        for block in self.blocks:
            x = block(x)
        return self.words(x), self.label(x)


class StatisticsAreParameters(PaddleBackend):
    """Believes what Paddle says: a norm's statistics are among its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = _BelievesPaddle()


class _BelievesPaddle(PaddleReader):
    def state_role(self, module, leaf, tensor):
        return ""


class ForgetsToTranspose(PaddleBackend):
    """Gives linear weights' shapes as Paddle stores them."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = _AsStored()


class _AsStored(PaddleReader):
    def tensor(self, module, leaf, tensor):
        row = super().tensor(module, leaf, tensor)
        return row._replace(neutral=row.shape)


class LendsNothing(PaddleBackend):
    """Leaves half-frozen norms to Paddle's kernel, which then gives no gradient at all."""

    def wanted_guards(self, walk, resolution):
        guards = super().wanted_guards(walk, resolution)
        return {index: guard._replace(lend=()) for index, guard in guards.items()}


class ClearsToZero(PaddleBackend):
    """Clears gradients as Paddle does by default: to zeros, not to none."""

    def set_gradient(self, tensor, gradient):
        if gradient is None and tensor.grad is not None:
            tensor.clear_gradient(True)
        else:
            super().set_gradient(tensor, gradient)


class CutsActivations(faults.CutsActivations, PaddleBackend):
    def cut(self, layer):
        return layer.register_forward_post_hook(lambda _layer, _inputs, output: output.detach())


def __getattr__(name: str) -> type:
    return faults.on(PaddleBackend, name)
