"""Arrays, and forward-mode derivatives: while a function is transformed, slopes go along.

The slopes of an array are its derivatives by every value of some weights; they stand on a first
axis of their own.
"""

from __future__ import annotations

import numpy as np

_seeds = {}
"""Slopes of weights while a function is transformed, by identity; empty otherwise."""
_generator = np.random.default_rng()


def seed(number):
    """Start the random generator anew."""
    global _generator
    _generator = np.random.default_rng(number)


def generator():
    """Return the random generator that everything draws from."""
    return _generator


class Array:
    """Values, and their slopes if they were computed while a function is transformed."""

    def __init__(self, data, slopes=None):
        self.data = np.asarray(data)
        self.slopes = slopes

    @property
    def shape(self):
        return self.data.shape

    def __add__(self, other):
        other = as_array(other)
        data = self.data + other.data
        return result(data, (self, lambda s: s), (other, lambda s: s))

    def __sub__(self, other):
        return self + as_array(other) * -1.0

    def __mul__(self, other):
        other = as_array(other)
        data = self.data * other.data
        return result(data, (self, lambda s: s * other.data), (other, lambda s: s * self.data))

    def __pow__(self, power):
        slope = power * self.data ** (power - 1)
        return result(self.data**power, (self, lambda s: s * slope))

    def __matmul__(self, other):
        data = self.data @ other.data
        return result(data, (self, lambda s: s @ other.data), (other, lambda s: self.data @ s))

    def transpose(self):
        """Swap the two axes."""
        return Array(self.data.T, _moved(self, lambda s: s.swapaxes(1, 2)))

    def tanh(self):
        """Return the hyperbolic tangent."""
        value = np.tanh(self.data)
        return result(value, (self, lambda s: s * (1 - value * value)))

    def mean(self, axis):
        """Return the mean over an axis, which stays with length one."""
        mean = self.data.mean(axis=axis, keepdims=True)
        return Array(mean, _moved(self, lambda s: s.mean(axis=axis + 1, keepdims=True)))

    def sum(self):
        """Return the sum of all values."""
        return Array(self.data.sum(), _moved(self, lambda s: s.reshape(len(s), -1).sum(axis=1)))

    def take(self, indices):
        """Return the rows of a table."""
        return Array(self.data[indices.data], _moved(self, lambda s: s[:, indices.data]))


class Weight(Array):
    """An array that a module learns, unless it is frozen."""

    def __init__(self, data):
        super().__init__(data)
        self.frozen = False


class State(Array):
    """An array that a module keeps, and replaces by a new one while it trains."""


def as_array(value):
    """Return an array as it is, and anything else as a constant."""
    return value if isinstance(value, Array) else Array(np.float32(value))


def slopes_of(array):
    """Return the slopes of an array; None if it depends on no weight."""
    return _seeds.get(id(array), array.slopes)


def result(data, *terms):
    """Make an array; of each array that it is computed from, tell how that one's slopes enter."""
    slopes = None
    for array, enter in terms:
        own = slopes_of(array)
        if own is not None:
            ones = (1,) * (data.ndim - array.data.ndim)
            entered = enter(own.reshape(len(own), *ones, *array.shape))
            entered = np.broadcast_to(entered, (len(own), *data.shape))
            slopes = entered if slopes is None else slopes + entered
    return Array(data, slopes)


def _moved(array, move):
    slopes = slopes_of(array)
    return None if slopes is None else move(slopes)


def pullback(function, weights):
    """Run a function; return its result, and a function from weightings to gradients by path.

    Args:
        function: Takes nothing, and returns arrays by name.
        weights: The weights to derive by, by path.
    """
    global _seeds
    total = sum(weight.data.size for weight in weights.values())
    places, start = {}, 0
    before, _seeds = _seeds, {}
    try:
        for path, weight in weights.items():
            places[path] = slice(start, start + weight.data.size)
            seeds = np.zeros((total, weight.data.size), weight.data.dtype)
            seeds[places[path]] = np.eye(weight.data.size)
            _seeds[id(weight)] = seeds.reshape(total, *weight.shape)
            start += weight.data.size
        arrays = function()
    finally:
        _seeds = before

    def pull(weightings):
        slopes = np.zeros(total)
        for name, weighting in weightings.items():
            if arrays[name].slopes is not None:
                slopes += arrays[name].slopes.reshape(total, -1) @ np.ravel(weighting)
        return {
            path: slopes[places[path]].reshape(weight.shape).astype(weight.data.dtype)
            for path, weight in weights.items()
        }

    return arrays, pull
