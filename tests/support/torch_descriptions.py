"""A PyTorch model as its backend describes it, and trained by its handle."""

from __future__ import annotations

import torch
from torch import nn

from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.torch_nets import backward, seeded
from unifreeze._protocol import load_backend

backend = load_backend("torch")


def described(model):
    """The parameters as the backend describes them."""
    return backend.describe(model).parameters


def names(model):
    """Native paths with their canonical names."""
    return {p.path: p.name for p in described(model)}


def train(handle, model, count=2):
    """Steps as a loop does them, with the handle's own optimizer."""
    optimizer = handle.optimizer(torch.optim.AdamW, lr=0.1, weight_decay=0.1)
    for number in range(count):
        model.train()
        optimizer.zero_grad()
        backward(model, seed=number)
        optimizer.step()


class Odd(nn.Module):
    """A parameter of any kind between two ordinary layers."""

    def __init__(self, tensor, *, trainable=False):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.odd = nn.Parameter(tensor, requires_grad=trainable)
        self.last = nn.Linear(3, 3)


def encoder_builder():
    """Return a function that builds a small text encoder with a head."""
    import_torchvision()
    import transformers

    config = transformers.BertConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        vocab_size=20,
        max_position_embeddings=8,
    )
    return lambda: seeded(transformers.BertForSequenceClassification, config)
