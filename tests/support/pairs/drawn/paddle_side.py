"""How Paddle makes the layers of a description, and its functions without tensors."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F  # noqa: N812 - as everywhere

from tests.support.pairs.drawn.either_side import RunsProgram

NORMS = {"vector": nn.BatchNorm1D, "image": nn.BatchNorm2D}


class Net(RunsProgram, nn.Layer):
    """A network that runs a program."""


class Holder(nn.Layer):
    """Holds layers and loose parameters; what they compute stands in the program."""


def linear(i, o, bias=1):
    return nn.Linear(i, o, bias_attr=None if bias else False)


def conv(i, o, k, bias=1, groups=1):
    return nn.Conv2D(i, o, k, padding=k // 2, bias_attr=None if bias else False, groups=groups)


def table(n, c):
    return nn.Embedding(n, c)


def _affine(affine):
    return {} if affine else {"weight_attr": False, "bias_attr": False}


def layer_norm(c, affine):
    return nn.LayerNorm(c, **_affine(affine))


def group_norm(c, affine):
    return nn.GroupNorm(2, c, **_affine(affine))


def batch_norm(c, affine, domain):
    return NORMS[domain](c, **_affine(affine))


def attention(c, heads, m=None):
    return nn.MultiHeadAttention(c, heads, kdim=m, vdim=m)


def attend(layer, x, memory):
    return layer(x, memory, memory)


def spectral(layer, form):
    return nn.utils.spectral_norm(layer)


def weighted(layer, form):
    return nn.utils.weight_norm(layer, dim=1 if isinstance(layer, nn.Linear) else 0)


def parameter(shape):
    made = paddle.create_parameter(list(shape), "float32")
    made.set_value(np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32"))
    return made


def dropout(share):
    return nn.Dropout(share)


def act(name):
    return {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.Silu}[name]()


FUNCTIONS = {"relu": F.relu, "gelu": F.gelu, "tanh": paddle.tanh, "silu": F.silu}


def softmax(x):
    return F.softmax(x, -1)


def permute(x, order):
    return x.transpose(list(order))


def cat_free_mean(x, axes):
    return x.mean(list(axes))


def arange(n):
    return paddle.arange(n)


def split(x, places):
    return [x.index_select(paddle.to_tensor(rows), axis=-1) for rows in places]


def add_module(parent, name, child):
    parent.add_sublayer(name, child)


def add_parameter(parent, name, tensor):
    parent.add_parameter(name, tensor)


def tensor(array):
    return paddle.to_tensor(array)


def write(tensor, array):
    tensor.set_value(array)


def double(model):
    model.to(dtype="float64")
    model.eval()
    return model


def backward(terms):
    paddle.add_n(
        [(t * paddle.to_tensor(w)).sum() for t, w in terms if not t.stop_gradient]
    ).backward()


def seed(number):
    paddle.seed(number)
