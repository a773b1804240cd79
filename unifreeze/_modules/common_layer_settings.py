"""Reading the settings of layers that both frameworks know by the same attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from unifreeze._modules.orientation import computes_otherwise
from unifreeze._protocol.live import Layer

_WEIGHT_NORMS = ("WeightNorm", "_WeightNorm")


def max_pool(module: Layer) -> dict[str, Any]:
    """Read a pooling layer that takes the largest value."""
    return {"layer": "max pool", "ceil_mode": module.ceil_mode}


def average_pool(module: Layer, *, counts_padding: bool) -> dict[str, Any]:
    """Read a pooling layer that takes averages, which may count the padded cells."""
    row = {"layer": "average pool", "ceil_mode": module.ceil_mode}
    if pads(module.padding):
        row["padded cells"] = "counted" if counts_padding else "left out"
    return row


def attention(module: Layer) -> dict[str, Any]:
    """Read a multi-head attention."""
    return {"layer": "attention", "attention dropout": module.dropout}


def transformer_layer(norms_first: str) -> Callable[[Layer], dict[str, Any]]:
    """Return a function that reads an encoder or decoder layer of a transformer.

    Args:
        norms_first: The attribute that says whether norms come before what they normalise.
    """

    def read(module: Layer) -> dict[str, Any]:
        function = module.activation
        name = getattr(function, "__name__", type(function).__name__.lower())
        order = "before" if getattr(module, norms_first) else "after"
        return {"layer": "transformer layer", "activation": name, "norms": order}

    return read


def stored(module: Layer, framework: str, way: str, parts: Iterable[Any] = ()) -> dict[str, Any]:
    """Return how a layer stores its kernel; {} if its class has a `forward` of its own.

    Args:
        module: The layer.
        framework: The framework's package.
        way: "in x out" or "out x in".
        parts: Parts of the layer that may normalise its weight, as its hooks may. The axis along
            which they do is a setting, too.
    """
    if computes_otherwise(module, framework):
        return {}
    hooks = module._forward_pre_hooks.values()
    norms = [row for row in (*parts, *hooks) if type(row).__name__ in _WEIGHT_NORMS]
    axes = [norm.dim for norm in norms if hasattr(norm, "dim")]
    return {"stored": way, "normed": str(axes[0])} if axes else {"stored": way}


def pads(padding: Any) -> bool:
    """Return whether a layer pads its input: by a number, by several, or as a word says."""
    if isinstance(padding, tuple | list):
        return any(map(pads, padding))
    return padding != "VALID" if isinstance(padding, str) else bool(padding)
