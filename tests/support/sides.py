"""What tests of running plans do alike in both frameworks: build, train a step, look at values.

All in double precision; Paddle keeps rates and momentums in single precision all the same.
"""

import copy

import numpy as np
import paddle
import torch

from tests.support.pairs import small
from tests.support.rounding import SINGLE_PART, check_same

ROWS = np.random.default_rng(0).standard_normal((4, 3, 7, 7))


class Torch:
    """What a test does in PyTorch."""

    optimizers = torch.optim

    @staticmethod
    def build():
        return small.torch_image().double()

    @staticmethod
    def sgd(handle, **settings):
        return handle.optimizer(torch.optim.SGD, **settings)

    @staticmethod
    def train(model, optimizer):
        model.train()
        (model(torch.tensor(ROWS)) ** 2).mean().backward()
        gradients = {n: p.grad.numpy().copy() for n, p in named(model) if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        return gradients

    @staticmethod
    def scheduler(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    @staticmethod
    def write(tensor):
        with torch.no_grad():
            tensor.add_(1.0)

    @staticmethod
    def assign(tensor, array):
        with torch.no_grad():
            tensor.copy_(torch.tensor(array))


class Paddle:
    """What a test does in Paddle."""

    optimizers = paddle.optimizer

    @staticmethod
    def build():
        return small.paddle_image().to(dtype="float64")

    @staticmethod
    def sgd(handle, **settings):
        return handle.optimizer(paddle.optimizer.SGD, **settings)

    @staticmethod
    def train(model, optimizer):
        model.train()
        (model(paddle.to_tensor(ROWS)) ** 2).mean().backward()
        gradients = {n: p.grad.numpy().copy() for n, p in named(model) if p.grad is not None}
        optimizer.step()
        optimizer.clear_grad()
        return gradients

    @staticmethod
    def scheduler(optimizer):
        inner = paddle.optimizer.lr.ExponentialDecay(0.1, 0.5)
        optimizer.set_lr_scheduler(inner)
        return inner

    @staticmethod
    def write(tensor):
        tensor.set_value(tensor + 1.0)

    @staticmethod
    def assign(tensor, array):
        tensor.set_value(array)


def named(model):
    """Return a model's parameters; Paddle counts running statistics among them."""
    found = model.named_parameters()
    return [(name, p) for name, p in found if not name.endswith(("._mean", "._variance"))]


def values(model):
    return {name: np.array(tensor.detach().numpy()) for name, tensor in named(model)}


def outputs(model, batch):
    """Return a model's output on an array, computed in double precision; the model stays."""
    twin = copy.deepcopy(model)
    batch = batch.astype("float64") if batch.dtype.kind == "f" else batch
    if isinstance(model, torch.nn.Module):
        return twin.double()(torch.tensor(batch)).detach().numpy()
    return twin.to(dtype="float64")(paddle.to_tensor(batch)).numpy()


def close(one, other):
    check_same(other, one, limit=SINGLE_PART)


def check_step(side, model, optimizer, rate, decay=0.0):
    """Train one step, and check it against the rate; return the names of what moved."""
    before = values(model)
    gradients = side.train(model, optimizer)
    after = values(model)
    assert gradients
    for name, gradient in gradients.items():
        close(before[name] - rate * (gradient + decay * before[name]), after[name])
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == gradients.keys() or not rate
    return moved


SIDES = [Torch, Paddle]
