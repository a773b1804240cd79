"""Tensors with a gradient: NumPy arrays that remember what they were computed from."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

_recording = True
_generator = np.random.default_rng()


def seed(number):
    """Start the random generator anew."""
    global _generator
    _generator = np.random.default_rng(number)


def generator():
    """Return the random generator that everything draws from."""
    return _generator


@contextmanager
def no_gradient():
    """Compute without remembering how."""
    global _recording
    before, _recording = _recording, False
    try:
        yield
    finally:
        _recording = before


class Tensor:
    """An array, whether it learns, its gradient, and what it was computed from."""

    def __init__(self, data, *, learns=False, sources=()):
        self.data = np.asarray(data)
        self.learns = learns
        self.gradient = None
        self.sources = sources

    @property
    def shape(self):
        return self.data.shape

    def backward(self):
        """Add the gradient of this number to every tensor that it came from and that learns."""
        order, seen = [], set()

        def visit(tensor):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                for source, _ in tensor.sources:
                    visit(source)
                order.append(tensor)

        visit(self)
        gradients = {id(self): np.ones_like(self.data)}
        for tensor in reversed(order):
            gradient = gradients.pop(id(tensor), None)
            if gradient is None:
                continue
            if not tensor.sources:
                tensor.gradient = (
                    gradient if tensor.gradient is None else tensor.gradient + gradient
                )
            for source, pull in tensor.sources:
                pulled = _shrink(pull(gradient), source.shape)
                known = gradients.get(id(source))
                gradients[id(source)] = pulled if known is None else known + pulled

    def __add__(self, other):
        other = as_tensor(other)
        return result(self.data + other.data, (self, lambda g: g), (other, lambda g: g))

    def __mul__(self, other):
        other = as_tensor(other)
        return result(
            self.data * other.data,
            (self, lambda g: g * other.data),
            (other, lambda g: g * self.data),
        )

    def __matmul__(self, other):
        return result(
            self.data @ other.data,
            (self, lambda g: g @ other.data.T),
            (other, lambda g: _rows(self.data).T @ _rows(g)),
        )

    def __sub__(self, other):
        return self + as_tensor(other) * -1.0

    def __pow__(self, power):
        slope = power * self.data ** (power - 1)
        return result(self.data**power, (self, lambda g: g * slope))

    def transpose(self):
        """Swap the two axes."""
        return result(self.data.T, (self, lambda g: g.T))

    def tanh(self):
        """Return the hyperbolic tangent."""
        value = np.tanh(self.data)
        return result(value, (self, lambda g: g * (1 - value * value)))

    def mean(self, axis):
        """Return the mean over an axis, which stays with length one."""
        share = 1.0 / self.data.shape[axis]
        mean = self.data.mean(axis=axis, keepdims=True)
        return result(mean, (self, lambda g: np.broadcast_to(g * share, self.shape)))

    def sum(self):
        """Return the sum of all values."""
        return result(self.data.sum(), (self, lambda g: np.broadcast_to(g, self.shape)))

    def take(self, indices):
        """Return the rows of a table."""

        def scatter(gradient):
            whole = np.zeros_like(self.data)
            np.add.at(whole, indices.data, gradient)
            return whole

        return result(self.data[indices.data], (self, scatter))


def as_tensor(value):
    """Return a tensor as it is, and anything else as a constant."""
    return value if isinstance(value, Tensor) else Tensor(np.float32(value))


def result(data, *sources):
    """Make a tensor that learns if anything that it was computed from does."""
    kept = tuple(source for source in sources if source[0].learns) if _recording else ()
    return Tensor(data, learns=bool(kept), sources=kept)


def _rows(array):
    return array.reshape(-1, array.shape[-1])


def _shrink(gradient, shape):
    """Add up a gradient over the axes along which its tensor was stretched."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    stretched = tuple(n for n, size in enumerate(shape) if size == 1 and gradient.shape[n] != 1)
    return gradient.sum(axis=stretched, keepdims=True) if stretched else gradient
