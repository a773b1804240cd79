"""Modules: dictionaries of parts, weights and statistics, and a way to run."""

from __future__ import annotations

import numpy as np

from toynet.tensors import Tensor, generator


class Module:
    """Something that runs; what is assigned to it goes into one of three dictionaries."""

    def __init__(self):
        self.__dict__.update(parts={}, weights={}, statistics={}, training=True)
        self.__dict__.update(before=[], after=[], on_load=[])

    def __setattr__(self, name, value):
        if isinstance(value, Module):
            self.parts[name] = value
        elif isinstance(value, Tensor):
            self.weights[name] = value
        else:
            self.__dict__[name] = value

    def __getattr__(self, name):
        for held in ("weights", "parts", "statistics"):
            if name in self.__dict__.get(held, ()):
                return self.__dict__[held][name]
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

    def modules(self):
        """Yield this module and everything under it."""
        yield self
        for part in self.parts.values():
            yield from part.modules()

    def all_weights(self):
        """Return every weight once."""
        found = {id(w): w for module in self.modules() for w in module.weights.values()}
        return list(found.values())

    def set_training(self, mode):
        """Ask everything to run as in training, or as in use."""
        self.training = mode
        for part in self.parts.values():
            part.set_training(mode)

    def state(self):
        """Return copies of all arrays by name."""
        found = {}
        for held in (self.weights, self.statistics):
            found.update({name: tensor.data.copy() for name, tensor in held.items()})
        for name, part in self.parts.items():
            found.update({f"{name}.{inner}": array for inner, array in part.state().items()})
        return found

    def load_state(self, state):
        """Write arrays by name into all tensors."""
        for held in (self.weights, self.statistics):
            for name, tensor in held.items():
                tensor.data[...] = state[name]
        for name, part in self.parts.items():
            cut = len(name) + 1
            part.load_state({k[cut:]: v for k, v in state.items() if k.startswith(f"{name}.")})
        for hook in self.on_load:
            hook()


class ModuleDict(Module):
    """Modules by name."""

    def __init__(self, modules):
        super().__init__()
        self.parts.update(modules)

    def __iter__(self):
        return iter(self.parts)


class ModuleList(ModuleDict):
    """Modules in order."""

    def __init__(self, modules):
        super().__init__({str(n): module for n, module in enumerate(modules)})

    def __iter__(self):
        return iter(self.parts.values())


class Sequential(ModuleList):
    """Modules that run one after the other."""

    def __init__(self, *modules):
        super().__init__(modules)

    def run(self, x):
        """Run each on what the one before gave."""
        for module in self:
            x = module(x)
        return x


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
        self.scale = Tensor(np.ones(width, np.float32), learns=True)
        self.shift = Tensor(np.zeros(width, np.float32), learns=True)
        self.statistics.update(
            mean=Tensor(np.zeros(width, np.float32)), variance=Tensor(np.ones(width, np.float32))
        )

    def run(self, x):
        """Normalise the last axis."""
        mean, variance = self.mean, self.variance
        if self.training:
            mean = x.mean(0)
            variance = ((x - mean) ** 2.0).mean(0)
            for kept, now in ((self.mean, mean), (self.variance, variance)):
                kept.data[...] = (1 - self.momentum) * kept.data + self.momentum * now.data[0]
        return (x - mean) * ((variance + 1e-5) ** -0.5) * self.scale + self.shift


def _uniform(*shape, bound):
    return Tensor(generator().uniform(-bound, bound, shape).astype(np.float32), learns=True)
