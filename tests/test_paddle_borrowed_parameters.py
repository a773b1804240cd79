"""Layers that give a kernel the parameters of a layer in them, which itself is never called."""

import paddle
import pytest
from paddle import nn
from paddle.nn import functional

from tests.support.kits.paddle_layers import BELOW, Above, check_same_gradients, floats


class LayerNormOfAChild(nn.Layer):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(3)

    def forward(self, x):
        return functional.layer_norm(x, 3, self.norm.weight, self.norm.bias)


class BatchNormOfAChild(nn.Layer):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1D(3)

    def forward(self, x):
        zeros, ones = paddle.zeros([3]), paddle.ones([3])
        return functional.batch_norm(
            x, zeros, ones, self.norm.weight, self.norm.bias, training=True
        )


class Listed(nn.Layer):
    def __init__(self):
        super().__init__()
        shift = self.create_parameter([3], is_bias=True)
        self.norm = nn.ParameterList([self.create_parameter([3]), shift])

    def forward(self, x):
        return functional.layer_norm(x, 3, self.norm[0], self.norm[1])


class Both(LayerNormOfAChild):
    """It also calls the layer."""

    def forward(self, x):
        return super().forward(x) + self.norm(x)


@pytest.mark.parametrize(
    ("cls", "leaves"),
    [
        (LayerNormOfAChild, ("weight", "bias")),
        (BatchNormOfAChild, ("weight", "bias")),
        (Listed, ("0", "1")),
        (Both, ("weight", "bias")),
    ],
)
def test_gradients_are_right_whatever_is_frozen(cls, leaves):
    own = [f"layer.norm.{leaf}" for leaf in leaves]
    for frozen in ({own[0]}, {own[1]}, set(own), {BELOW}, {BELOW, own[0]}):
        paddle.seed(3)
        model = Above(cls())
        next(iter(model.layer.parameters())).set_value(floats(3))
        check_same_gradients(model, frozen, [paddle.to_tensor(floats(4, 3))])


class PReLUOfAChild(nn.Layer):
    def __init__(self):
        super().__init__()
        self.act = nn.PReLU(3)

    def forward(self, x):
        return functional.prelu(x, self.act._weight)


def test_a_prelu_of_a_child_right_above_what_is_frozen_trains():
    """By hand its backward pass crashes the process."""
    paddle.seed(3)
    model = Above(PReLUOfAChild())
    check_same_gradients(model, {BELOW}, [paddle.to_tensor(floats(4, 3))])
