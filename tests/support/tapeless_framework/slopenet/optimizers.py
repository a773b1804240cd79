"""Optimizers over groups of weights: each step takes gradients by path."""

from __future__ import annotations

from typing import ClassVar

import numpy as np


class Optimizer:
    """Keeps groups of weights with their paths, each with settings, and a memory by path."""

    settings: ClassVar = {}

    def __init__(self, weights, **settings):
        groups = weights if isinstance(weights[0], dict) else [{"weights": weights}]
        self.groups = [{**self.settings, **settings, **group} for group in groups]
        self.memory = {}

    def update(self, gradients):
        """Move every weight that has a gradient."""
        for group in self.groups:
            for path, weight in group["weights"]:
                if path in gradients:
                    memory = self.memory.setdefault(path, {})
                    weight.data[...] = self.moved(weight.data, gradients[path], memory, group)

    def moved(self, value, gradient, memory, group):
        """Return a weight's new value."""
        raise NotImplementedError


class SGD(Optimizer):
    """Gradient descent with momentum; weight decay goes into the gradient."""

    settings: ClassVar = {"rate": 0.01, "momentum": 0.0, "decay": 0.0}

    def moved(self, value, gradient, memory, group):
        """Go down the gradient, with the speed gained so far."""
        gradient = gradient + group["decay"] * value
        memory["speed"] = group["momentum"] * memory.get("speed", 0.0) + gradient
        return value - group["rate"] * memory["speed"]


class AdamW(Optimizer):
    """Adam with weight decay apart from the gradient."""

    settings: ClassVar = {"rate": 0.001, "betas": (0.9, 0.999), "decay": 0.01}

    def moved(self, value, gradient, memory, group):
        """Go by the mean gradient over the root of its mean square."""
        first, second = group["betas"]
        memory["steps"] = memory.get("steps", 0) + 1
        memory["mean"] = first * memory.get("mean", 0.0) + (1 - first) * gradient
        memory["square"] = second * memory.get("square", 0.0) + (1 - second) * gradient**2
        mean = memory["mean"] / (1 - first ** memory["steps"])
        square = memory["square"] / (1 - second ** memory["steps"])
        return (1 - group["rate"] * group["decay"]) * value - group["rate"] * mean / (
            np.sqrt(square) + 1e-8
        )
