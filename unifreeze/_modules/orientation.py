"""Which way round a home-made layer stores its matrix, as the layer itself declares its sizes.

A class is known by what it is, never by what it is called: anybody may call a layer `Linear`.
"""

from __future__ import annotations

from typing import Any

_SIZES = (
    ("in_features", "out_features"),
    ("input_size", "output_size"),
    ("input_dim", "output_dim"),
    ("in_dim", "out_dim"),
    ("dim_in", "dim_out"),
    ("d_in", "d_out"),
    ("n_in", "n_out"),
    ("fan_in", "fan_out"),
    ("in_channels", "out_channels"),
    ("nx", "nf"),
)
"""What layers call the sizes of what they take and of what they give."""


def declared_turned(module: Any, shape: tuple[int, ...]) -> bool | None:
    """Tell whether a layer declares sizes that say it stores a matrix input by output.

    Args:
        module: The layer.
        shape: The matrix's shape as stored.

    Returns:
        True for input by output, False for output by input, None where nothing tells.
    """
    if len(shape) != 2 or shape[0] == shape[1]:
        return None
    own = vars(module)
    found = set()
    for names in _SIZES:
        for mark in ("", "_"):
            sizes = tuple(own.get(mark + name) for name in names)
            if sizes in (shape, shape[::-1]):
                found.add(sizes == shape)
    return found.pop() if len(found) == 1 else None


def computes_otherwise(module: Any, package: str) -> bool:
    """Tell whether a layer of a class of its own does not compute as the framework's layers do.

    Args:
        module: The layer.
        package: The framework's package.
    """
    cls = next(base for base in type(module).__mro__ if "forward" in vars(base))
    return cls.__module__.partition(".")[0] != package


def turned_in_subclass(
    module: Any, shape: tuple[int, ...], bias: tuple[int, ...] | None
) -> bool | None:
    """Tell how a subclass of a linear layer with a `forward` of its own stores its matrix.

    Args:
        module: The layer.
        shape: The matrix's shape as stored.
        bias: Shape of the bias, which is as long as there are outputs; None without one.

    Returns:
        As `declared_turned`.
    """
    declared = declared_turned(module, shape)
    if declared is None and bias in {shape[:1], shape[1:]} and shape[0] != shape[1]:
        return bias == shape[1:]
    return declared
