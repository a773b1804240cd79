"""PaddlePaddle: layers of a user's own that call a kernel, or leave it to their parent, are cured.

Rules B and D are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import paddle
import pytest
from paddle import nn
from paddle.nn import functional

from tests.support.kits.paddle_layers import (
    BELOW,
    Above,
    check_same_gradients,
    floats,
    inputs_of,
    own_parameters,
)

pytestmark = pytest.mark.usefixtures("double")


class OwnNorm(nn.Layer):
    """A layer that calls a kernel itself, as many models' own norms do."""

    def __init__(self):
        super().__init__()
        self.scale = self.create_parameter([3])
        self.shift = self.create_parameter([3], is_bias=True)


class OwnLayerNorm(OwnNorm):
    def forward(self, x):
        return functional.layer_norm(x, 3, self.scale, self.shift)


class OwnInstanceNorm(OwnNorm):
    def forward(self, x):
        return functional.instance_norm(x, weight=self.scale, bias=self.shift)


class OwnBatchNorm(OwnNorm):
    def forward(self, x):
        zeros, ones = paddle.zeros([3]), paddle.ones([3])
        return functional.batch_norm(x, zeros, ones, self.scale, self.shift, training=True)


class InAMethod(OwnNorm):
    """A layer whose forward leaves the kernel to a method of its own."""

    def forward(self, x):
        return self.run(x)

    def run(self, x):
        return functional.instance_norm(x, weight=self.scale, bias=self.shift)


def run_instance_norm(x, scale, shift):
    return functional.instance_norm(x, weight=scale, bias=shift)


class InAFunction(OwnNorm):
    """A layer whose forward leaves the kernel to a function beside it, inside of another."""

    def forward(self, x):
        return (lambda: run_instance_norm(x, self.scale, self.shift))()


@pytest.mark.parametrize(
    ("cls", "shape"),
    [
        (OwnLayerNorm, (5, 3)),
        (OwnInstanceNorm, (4, 3, 5)),
        (OwnBatchNorm, (4, 3, 5)),
        (InAMethod, (4, 3, 5)),
        (InAFunction, (4, 3, 5)),
    ],
)
def test_a_layer_that_calls_the_kernel_itself_is_cured(cls, shape):
    """B, D"""
    own = ["layer.scale", "layer.shift"]
    for frozen in ({own[0]}, {own[1]}, set(own), {BELOW}, {BELOW, own[0]}):
        paddle.seed(3)
        model = Above(cls())
        model.layer.scale.set_value(floats(3))
        check_same_gradients(model, frozen, [paddle.to_tensor(floats(*shape))])


def derived(name):
    """A class whose forward leaves the kernel to its parent."""

    def forward(self, *inputs):
        return super(cls, self).forward(*inputs)

    cls = type(f"Derived{name}", (getattr(nn, name),), {"forward": forward})
    return cls


@pytest.mark.parametrize("name", ["BatchNorm1D", "InstanceNorm1D", "LayerNorm"])
def test_a_layer_that_leaves_the_kernel_to_its_parent_is_cured(name):
    """B, D"""
    size = 4 if name == "LayerNorm" else 3
    own = own_parameters(name)
    for frozen in ({own[0]}, {own[1]}, set(own), {BELOW, own[0]}):
        paddle.seed(3)
        model = Above(derived(name)(size))
        next(iter(model.layer.parameters())).set_value(floats(size))
        check_same_gradients(model, frozen, inputs_of(name))
