"""The small networks that random plans are put on, and what is done to them by hand."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import paddle
import torch

ROWS = np.random.default_rng(0).standard_normal((6, 4)).astype("float32")


class TorchPart(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)
        self.act, self.last = torch.nn.PReLU(4), torch.nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.last(self.act(self.norm(self.first(x))))


class TorchWhole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.low, self.high, self.top = TorchPart(), TorchPart(), torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.top(self.high(self.low(x)))


class PaddlePart(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.first, self.norm = paddle.nn.Linear(4, 4), paddle.nn.BatchNorm1D(4)
        self.act, self.last = paddle.nn.PReLU(4), paddle.nn.Linear(4, 4, bias_attr=False)

    def forward(self, x):
        return self.last(self.act(self.norm(self.first(x))))


class PaddleWhole(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.low, self.high, self.top = PaddlePart(), PaddlePart(), paddle.nn.Linear(4, 2)

    def forward(self, x):
        return self.top(self.high(self.low(x)))


class Torch:
    """What is done by hand in PyTorch."""

    name, part, whole, sgd = "torch", TorchPart, TorchWhole, torch.optim.SGD
    linear = staticmethod(lambda: torch.nn.Linear(4, 4))

    @staticmethod
    def modules(model):
        return dict(model.named_modules(remove_duplicate=False))

    @staticmethod
    def own(module):
        return {n: p for n, p in module._parameters.items() if p is not None}

    @staticmethod
    def get(parameter):
        return parameter.requires_grad

    @staticmethod
    def put(parameter, flag):
        parameter.requires_grad = flag

    @staticmethod
    def statistics(norm):
        return norm.running_mean.numpy().tobytes() + norm.running_var.numpy().tobytes()

    @staticmethod
    def nudge(parameter):
        with torch.no_grad():
            parameter.add_(0.25)

    @staticmethod
    def forward(model):
        with torch.no_grad():
            model.train()(torch.tensor(ROWS))

    @staticmethod
    def copies(model):
        return [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]


class Paddle:
    """What is done by hand in Paddle."""

    name, part, whole, sgd = "paddle", PaddlePart, PaddleWhole, paddle.optimizer.SGD
    linear = staticmethod(lambda: paddle.nn.Linear(4, 4))

    @staticmethod
    def modules(model):
        return dict(model.named_sublayers(include_self=True))

    @staticmethod
    def own(module):
        named = module._parameters.items()
        return {n: p for n, p in named if p is not None and n not in ("_mean", "_variance")}

    @staticmethod
    def get(parameter):
        return not parameter.stop_gradient

    @staticmethod
    def put(parameter, flag):
        parameter.stop_gradient = not flag

    @staticmethod
    def statistics(norm):
        return norm._mean.numpy().tobytes() + norm._variance.numpy().tobytes()

    @staticmethod
    def nudge(parameter):
        parameter.set_value(parameter + 0.25)

    @staticmethod
    def forward(model):
        model.train()
        with paddle.no_grad():
            model(paddle.to_tensor(ROWS))

    @staticmethod
    def copies(model):
        return [copy.deepcopy(model)]
