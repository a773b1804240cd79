"""Teach a layer of your own: its kind, and how it stores its matrix."""

import torch
from torch import nn

import unifreeze as uf


class MLPLayer(nn.Module):
    """A layer that no library of layers knows."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(n_in, n_out))
        self.b = nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        """Compute the layer: its matrix is stored input by output."""
        return torch.tanh(x @ self.matrix + self.b)


uf.teach_kind(MLPLayer, "linear", matrix="in x out", roles={"b": "bias"})
model = nn.Sequential(MLPLayer(6, 8), MLPLayer(8, 8), MLPLayer(8, 2))
print(uf.FreezePlan().only("head").resolve(model).trainable_names)
