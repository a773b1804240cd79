"""Modules: one dictionary for everything that is assigned to them, and a way to run."""

from __future__ import annotations

import numpy as np

from slopenet.arrays import Array, State, Weight, generator, pullback


class Module:
    """Something that runs; parts, weights, statistics and settings are in `attributes`."""

    def __init__(self):
        self.__dict__["attributes"] = {}
        self.training = True
        self.before, self.after, self.on_load = [], [], []

    def __setattr__(self, name, value):
        self.attributes[name] = value

    def __getattr__(self, name):
        attributes = self.__dict__.get("attributes", {})
        if name in attributes:
            return attributes[name]
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __call__(self, *args, **kwargs):
        for hook in self.before:
            hook()
        value = self.run(*args, **kwargs)
        for hook in self.after:
            hook(value)
        return value

    def run(self, *args, **kwargs):
        """Compute; a module says here what it does."""
        raise NotImplementedError

    def held(self, kind):
        """Return what is held of one kind: `Module`, `Weight` or `State`."""
        return {n: value for n, value in self.attributes.items() if isinstance(value, kind)}

    def modules(self):
        """Yield this module and everything under it."""
        yield self
        for part in self.held(Module).values():
            yield from part.modules()

    def arrays(self, kind, stem=""):
        """Yield all weights or states with their paths; a weight with two names comes twice."""
        for name, array in self.held(kind).items():
            yield stem + name, array
        for name, part in self.held(Module).items():
            yield from part.arrays(kind, f"{stem}{name}.")

    def set_training(self, mode):
        """Ask everything to run as in training, or as in use."""
        self.training = mode
        for part in self.held(Module).values():
            part.set_training(mode)

    def state(self):
        """Return copies of all arrays by name."""
        return {path: array.data.copy() for path, array in self.arrays((Weight, State))}

    def load_state(self, state):
        """Write arrays by name into all weights and statistics."""
        for path, array in self.arrays((Weight, State)):
            array.data[...] = state[path]
        for module in self.modules():
            for hook in module.on_load:
                hook()


def value_and_gradients(function, model):
    """Return a number that a function computes, and its gradients by path, frozen weights left out.

    Args:
        function: Takes nothing, and returns an array of one number.
        model: Its weights are derived by, a weight with two names under its first.
    """
    weights = {}
    for path, weight in model.arrays(Weight):
        if not weight.frozen and all(weight is not known for known in weights.values()):
            weights[path] = weight
    arrays, pull = pullback(lambda: {"value": function()}, weights)
    return float(arrays["value"].data), pull({"value": np.ones(())})


class ModuleDict(Module):
    """Modules by name."""

    def __init__(self, modules):
        super().__init__()
        self.attributes.update(modules)


class ModuleList(ModuleDict):
    """Modules in order."""

    def __init__(self, modules):
        super().__init__({str(n): module for n, module in enumerate(modules)})

    def __iter__(self):
        return iter(self.held(Module).values())


class Linear(Module):
    """x @ weight + bias, with the weight as inputs by outputs."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = _uniform(inputs, outputs, bound=inputs**-0.5)
        self.bias = _uniform(outputs, bound=inputs**-0.5)

    def run(self, x):
        """Map the last axis."""
        return x @ self.weight + self.bias


class Embedding(Module):
    """A table of rows, looked up by number."""

    def __init__(self, rows, width):
        super().__init__()
        self.weight = _uniform(rows, width, bound=1.0)

    def run(self, indices):
        """Look up rows."""
        return self.weight.take(indices)


class Tanh(Module):
    """The hyperbolic tangent."""

    def run(self, x):
        """Map each value."""
        return x.tanh()


class BatchNorm(Module):
    """Normalises over the batch while training, by its running statistics in use."""

    def __init__(self, width, momentum=0.1):
        super().__init__()
        self.momentum = momentum
        self.scale = Weight(np.ones(width, np.float32))
        self.shift = Weight(np.zeros(width, np.float32))
        self.mean = State(np.zeros(width, np.float32))
        self.variance = State(np.ones(width, np.float32))

    def run(self, x):
        """Normalise the last axis."""
        mean, variance = Array(self.mean.data), Array(self.variance.data)
        if self.training:
            mean = x.mean(0)
            variance = ((x - mean) ** 2.0).mean(0)
            for name, now in (("mean", mean), ("variance", variance)):
                kept = self.attributes[name].data
                mixed = (1 - self.momentum) * kept + self.momentum * now.data[0]
                setattr(self, name, State(mixed.astype(kept.dtype)))
        return (x - mean) * ((variance + 1e-5) ** -0.5) * self.scale + self.shift


def _uniform(*shape, bound):
    return Weight(generator().uniform(-bound, bound, shape).astype(np.float32))
