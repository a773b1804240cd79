"""What slopenet's modules hold: three views of their one dictionary."""

from __future__ import annotations

from collections.abc import MutableMapping

import slopenet

from unifreeze.backend import CONTAINER, MappingStructure, Reader, Tensor

KINDS = {
    slopenet.Linear: "linear",
    slopenet.BatchNorm: "norm",
    slopenet.Embedding: "embedding",
    slopenet.ModuleList: CONTAINER,
    slopenet.ModuleDict: CONTAINER,
}
ROLES = {"mean": "mean", "variance": "var"}


class Part(MutableMapping):
    """What a module's dictionary holds of one kind."""

    def __init__(self, attributes, kind):
        self.attributes, self.kind = attributes, kind

    def __iter__(self):
        return (n for n, value in self.attributes.items() if isinstance(value, self.kind))

    def __len__(self):
        return sum(1 for _ in self)

    def __getitem__(self, name):
        return self.attributes[name]

    def __setitem__(self, name, value):
        self.attributes[name] = value

    def __delitem__(self, name):
        del self.attributes[name]


class SlopenetReader(Reader):
    """Reads slopenet's modules for the walk."""

    framework = "slopenet"

    def dicts(self, module):
        """Return a module's children, weights and statistics."""
        kinds = (slopenet.Module, slopenet.Weight, slopenet.State)
        return tuple(Part(module.attributes, kind) for kind in kinds)

    def structure(self, walked):
        """Look at the views again: settings and statistics in the dictionary may change."""
        return MappingStructure(walked)

    def parameters_kept_in(self, module):
        """Return the one dictionary."""
        return module.attributes

    def listed(self, module):
        """Return the weights of a module and all under it."""
        return module.arrays(slopenet.Weight)

    def kind(self, module):
        """Return the module's kind, "" if unknown."""
        return KINDS.get(type(module), "")

    def state(self, module, leaf, tensor):
        """Return the role of a statistic, and that training moves it."""
        return ROLES[leaf], True

    def tensor(self, module, leaf, tensor):
        """Describe a weight; those of linear layers are inputs by outputs here."""
        swapped = isinstance(module, slopenet.Linear) and leaf == "weight"
        neutral = tensor.shape[::-1] if swapped else tensor.shape
        return Tensor(tensor.shape, neutral, str(tensor.data.dtype), "", False)

    def shape_of(self, tensor):
        """Return shape and dtype of a statistic."""
        return tensor.shape, str(tensor.data.dtype)
