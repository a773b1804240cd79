"""A small stack of Paddle layers, and steps of optimizers on it."""

from __future__ import annotations

import paddle
from paddle import nn

from tests.support.kits.paddle_layers import floats


def optimizer_class(name):
    return getattr(paddle.optimizer, name.split()[0])


def stack(seed=0):
    paddle.seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 3))


def loss_of(model):
    return (model(paddle.to_tensor(floats(6, 4))) ** 2).mean()


def train(model, *optimizers, steps=3):
    for _ in range(steps):
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.clear_grad()
