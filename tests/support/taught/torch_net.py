"""The network in PyTorch: matrices are stored input by output, and blocks come in order."""

import torch
from torch import nn


class MLPLayer(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(n_in, n_out) / n_in**0.5)
        self.b = nn.Parameter(torch.randn(n_out) * 0.1)

    def forward(self, x):
        return torch.tanh(x @ self.matrix + self.b)


class Whiten(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(1 + 0.1 * torch.randn(width))
        self.register_buffer("ema_mean", torch.zeros(width))
        self.register_buffer("ema_var", torch.ones(width))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.ema_mean.mul_(0.9).add_(0.1 * x.mean(0))
                self.ema_var.mul_(0.9).add_(0.1 * x.var(0, unbiased=False))
        return self.gain * (x - self.ema_mean) / (self.ema_var + 1e-5) ** 0.5


class Noise(nn.Module):
    """Draws random numbers while training, as a dropout does."""

    def forward(self, x):
        return x * torch.empty_like(x).uniform_(0.5, 1.5) if self.training else x


class Cell(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.norm = MLPLayer(width, 2 * width), Whiten(2 * width)
        self.noise, self.down = Noise(), MLPLayer(2 * width, width)

    def forward(self, x):
        return x + self.down(self.noise(self.norm(self.up(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = MLPLayer(6, 8)
        self.cells = nn.ModuleList([Cell(8) for _ in range(3)])
        self.mix, self.out = MLPLayer(8, 8), MLPLayer(8, 4)
        self.idle = MLPLayer(8, 8)

    def forward(self, x):
        x = self.enter(x)
        for cell in self.cells:
            x = cell(x)
        return self.out(self.mix(x))


LINEAR, NORM, DROPOUT = MLPLayer, Whiten, Noise
WAY = "in x out"
ROLES = {
    MLPLayer: {"b": "bias"},
    Whiten: {"gain": "weight", "ema_mean": "mean", "ema_var": "var"},
}


class Layer(nn.Module):
    """A layer that holds tensors of given shapes."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))

    def forward(self, x):
        return x


class Derived(Layer):
    pass


class Dense(nn.Linear):
    pass


def net_of(**layers):
    """Return a model that holds these layers, with a head behind them."""
    return nn.ModuleDict({**layers, "head": nn.Linear(3, 2)})


class Average(nn.Module):
    """A norm that keeps its statistics among its parameters."""

    def __init__(self, width):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.spread = nn.Parameter(torch.ones(width), requires_grad=False)
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * x.mean(0))
                self.spread.mul_(0.9).add_(0.1 * x.var(0, unbiased=False))
        return self.g * (x - self.mean) / (self.spread + 1e-5) ** 0.5


def averaged():
    """Return a model of such a norm between two layers."""
    return nn.Sequential(nn.Linear(6, 3), Average(3), nn.Linear(3, 2))
