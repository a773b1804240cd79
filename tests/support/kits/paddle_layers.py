"""Every layer of paddle.nn that has parameters, as a small model with something trainable below."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

from tests.support.rounding import check_same, nudged
from unifreeze import FreezePlan

BELOW = "below.0"
# Of layers that lend a kernel their parameters: what is frozen in the tests.
LENDING = {
    "BatchNorm2D": "layer.weight",
    "InstanceNorm2D": "layer.bias",
    "LayerNorm": "layer.weight",
    "LSTM": "layer.weight_ih_l0",
    "HSigmoidLoss": "layer.weight",
}


class Recipe(NamedTuple):
    make: Callable[[], Any]
    inputs: tuple[Any, ...]


class Above(nn.Layer):
    """A layer above a scale that may train or not, so that its input is live or not."""

    def __init__(self, layer):
        super().__init__()
        scale = self.create_parameter([1], dtype=paddle.get_default_dtype())
        self.below = nn.ParameterList([scale])
        self.layer = layer

    def forward(self, first, *rest):
        if "float" in str(first.dtype):
            first = first * self.below[0]
        return self.layer(first, *rest)


def floats(*shape):
    drawn = np.random.default_rng(sum(shape)).standard_normal(shape)
    return drawn.astype(paddle.get_default_dtype())


def integers(high, *shape):
    return np.random.default_rng(sum(shape)).integers(0, high, shape)


RECIPES = {
    "Linear": Recipe(lambda: nn.Linear(4, 3), (floats(5, 4),)),
    "Bilinear": Recipe(lambda: nn.Bilinear(4, 3, 2), (floats(5, 4), floats(5, 3))),
    "Embedding": Recipe(lambda: nn.Embedding(7, 3), (integers(7, 2, 5),)),
    "Conv1D": Recipe(lambda: nn.Conv1D(2, 3, 3), (floats(2, 2, 6),)),
    "Conv2D": Recipe(lambda: nn.Conv2D(2, 3, 3), (floats(2, 2, 5, 5),)),
    "Conv3D": Recipe(lambda: nn.Conv3D(2, 3, 2), (floats(2, 2, 3, 3, 3),)),
    "Conv1DTranspose": Recipe(lambda: nn.Conv1DTranspose(2, 3, 3), (floats(2, 2, 6),)),
    "Conv2DTranspose": Recipe(lambda: nn.Conv2DTranspose(2, 3, 3), (floats(2, 2, 5, 5),)),
    "Conv3DTranspose": Recipe(lambda: nn.Conv3DTranspose(2, 3, 2), (floats(2, 2, 3, 3, 3),)),
    "BatchNorm": Recipe(
        lambda: nn.BatchNorm(3, dtype=paddle.get_default_dtype()), (floats(4, 3, 2, 2),)
    ),
    "BatchNorm1D": Recipe(lambda: nn.BatchNorm1D(3), (floats(6, 3),)),
    "BatchNorm2D": Recipe(lambda: nn.BatchNorm2D(3), (floats(4, 3, 2, 2),)),
    "BatchNorm3D": Recipe(lambda: nn.BatchNorm3D(3), (floats(4, 3, 2, 2, 2),)),
    "InstanceNorm1D": Recipe(lambda: nn.InstanceNorm1D(3), (floats(4, 3, 5),)),
    "InstanceNorm2D": Recipe(lambda: nn.InstanceNorm2D(3), (floats(4, 3, 3, 3),)),
    "InstanceNorm3D": Recipe(lambda: nn.InstanceNorm3D(3), (floats(4, 3, 2, 2, 2),)),
    "GroupNorm": Recipe(lambda: nn.GroupNorm(2, 4), (floats(3, 4, 2, 2),)),
    "LayerNorm": Recipe(lambda: nn.LayerNorm(4), (floats(5, 4),)),
    "PReLU": Recipe(lambda: nn.PReLU(3), (floats(4, 3, 2),)),
    "HSigmoidLoss": Recipe(lambda: nn.HSigmoidLoss(4, 6), (floats(5, 4), integers(6, 5, 1))),
    "LSTM": Recipe(lambda: nn.LSTM(3, 4, num_layers=2), (floats(2, 5, 3),)),
    "GRU": Recipe(lambda: nn.GRU(3, 4, direction="bidirect"), (floats(2, 5, 3),)),
    "SimpleRNN": Recipe(lambda: nn.SimpleRNN(3, 4), (floats(2, 5, 3),)),
    "LSTMCell": Recipe(lambda: nn.LSTMCell(3, 4), (floats(2, 3),)),
    "GRUCell": Recipe(lambda: nn.GRUCell(3, 4), (floats(2, 3),)),
    "SimpleRNNCell": Recipe(lambda: nn.SimpleRNNCell(3, 4), (floats(2, 3),)),
    "RNN": Recipe(lambda: nn.RNN(nn.LSTMCell(3, 4)), (floats(2, 5, 3),)),
    "BiRNN": Recipe(lambda: nn.BiRNN(nn.GRUCell(3, 4), nn.GRUCell(3, 4)), (floats(2, 5, 3),)),
    "AdaptiveLogSoftmaxWithLoss": Recipe(
        lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 6, cutoffs=[2, 4]),
        (floats(5, 4), integers(6, 5)),
    ),
    "MultiHeadAttention": Recipe(lambda: nn.MultiHeadAttention(4, 2), (floats(2, 3, 4),)),
    "TransformerEncoderLayer": Recipe(
        lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0), (floats(2, 3, 4),)
    ),
    "TransformerDecoderLayer": Recipe(
        lambda: nn.TransformerDecoderLayer(4, 2, 6, dropout=0.0),
        (floats(2, 3, 4), floats(2, 2, 4)),
    ),
}
"""By class name: how to make one, and what it takes."""


def build(name):
    """Make a recipe's layer, every value random, above a scale."""
    paddle.seed(7)
    model = Above(RECIPES[name].make())
    rng = np.random.default_rng(11)
    for parameter in model.parameters():
        if not parameter.stop_gradient:
            values = 0.5 * rng.standard_normal(parameter.shape) + 0.25
            parameter.set_value(values.astype(str(parameter.numpy().dtype)))
    return model


def inputs_of(name):
    kind = paddle.get_default_dtype()
    arrays = RECIPES[name].inputs
    return [paddle.to_tensor(a.astype(kind) if a.dtype.kind == "f" else a) for a in arrays]


def tensors_in(value) -> Iterator[Any]:
    if isinstance(value, paddle.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def weighted(outputs):
    """A loss to which every output value contributes differently."""
    total = paddle.zeros([])
    for output in tensors_in(outputs):
        if output.is_floating_point():
            weights = paddle.cos(paddle.arange(output.size, dtype=output.dtype))
            total = total + (output * weights.reshape(output.shape)).sum()
    return total


def gradients(model, *inputs):
    """The gradient of every parameter by name, None where there is none."""
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    weighted(model(*inputs)).backward()
    return {
        name: None if parameter.grad is None else parameter.grad.numpy()
        for name, parameter in model.named_parameters()
    }


def own_parameters(name):
    """Paths of a recipe's own parameters, statistics left out."""
    return [
        path
        for path, parameter in build(name).named_parameters()
        if path.startswith("layer.") and not parameter.stop_gradient
    ]


def freeze_paths(paths):
    """A plan that freezes these parameters and leaves every statistic to itself."""
    selector = " | ".join(f'path:"{path}"' for path in paths)
    return FreezePlan().freeze(selector).with_norm_stats("update")


def bits(model):
    """The exact bytes of every parameter and buffer, statistics included, by name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.numpy().tobytes() for name, tensor in named}


def check_same_gradients(model, frozen, inputs):
    """What trains gets the gradient it gets when nothing is frozen; the rest gets none."""
    expected = gradients(copy.deepcopy(model), *inputs)
    near = None
    if paddle.get_default_dtype() == "float32":
        moved = [paddle.to_tensor(nudged(tensor.numpy())) for tensor in inputs]
        near = gradients(copy.deepcopy(model), *moved)
    handle = freeze_paths(frozen).apply(model)
    wanted = {path: None if path in frozen else each for path, each in expected.items()}
    check_same(gradients(model, *inputs), wanted, near=near)
    return handle
