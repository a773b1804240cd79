"""How PyTorch makes the layers of a description, and its functions without tensors."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everywhere

from tests.support.pairs.drawn.either_side import RunsProgram

NORMS = {"vector": nn.BatchNorm1d, "image": nn.BatchNorm2d}


class Net(RunsProgram, nn.Module):
    """A network that runs a program."""


class Holder(nn.Module):
    """Holds layers and loose parameters; what they compute stands in the program."""


def linear(i, o, bias=1):
    return nn.Linear(i, o, bias=bool(bias))


def conv(i, o, k, bias=1, groups=1):
    return nn.Conv2d(i, o, k, padding=k // 2, bias=bool(bias), groups=groups)


def table(n, c):
    return nn.Embedding(n, c)


def layer_norm(c, affine):
    return nn.LayerNorm(c, elementwise_affine=bool(affine))


def group_norm(c, affine):
    return nn.GroupNorm(2, c, affine=bool(affine))


def batch_norm(c, affine, domain):
    return NORMS[domain](c, affine=bool(affine))


def attention(c, heads, m=None):
    return nn.MultiheadAttention(c, heads, batch_first=True, kdim=m, vdim=m)


def attend(layer, x, memory):
    return layer(x, memory, memory, need_weights=False)[0]


def spectral(layer, form):
    if form == "new":
        return nn.utils.parametrizations.spectral_norm(layer)
    return nn.utils.spectral_norm(layer)


def weighted(layer, form):
    if form == "new":
        return nn.utils.parametrizations.weight_norm(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


def parameter(shape):
    return nn.Parameter(torch.randn(shape) * 0.4 if shape else torch.tensor(0.7))


def dropout(share):
    return nn.Dropout(share)


def act(name):
    return {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}[name]()


FUNCTIONS = {"relu": torch.relu, "gelu": F.gelu, "tanh": torch.tanh, "silu": F.silu}


def softmax(x):
    return torch.softmax(x, -1)


def permute(x, order):
    return x.permute(*order)


def cat_free_mean(x, axes):
    return x.mean(axes)


def arange(n):
    return torch.arange(n)


def split(x, places):
    return [x[..., torch.as_tensor(rows)] for rows in places]


def add_module(parent, name, child):
    parent.add_module(name, child)


def add_parameter(parent, name, tensor):
    parent.register_parameter(name, tensor)


def tensor(array):
    return torch.as_tensor(array)


def write(tensor, array):
    with torch.no_grad():
        tensor.copy_(torch.as_tensor(array))


def double(model):
    return model.double().eval()


def backward(terms):
    sum((t * torch.as_tensor(w)).sum() for t, w in terms if t.requires_grad).backward()


def seed(number):
    torch.manual_seed(number)
