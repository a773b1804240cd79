"""The backend of PaddlePaddle, and the flags of a model."""

from __future__ import annotations

from unifreeze._protocol import load_backend

BACKEND = load_backend("paddle")


def flags(model):
    return {name: p.stop_gradient for name, p in model.named_parameters()}
