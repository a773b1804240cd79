"""Find out how a home-made layer stores its matrix, from the sizes that it declares.

The name of its class is not used: anybody may call a layer `Linear`.
"""

from __future__ import annotations

from unifreeze._protocol.live import Layer

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
"""Names of attributes in which layers keep their input size and output size."""


def declared_turned(module: Layer, shape: tuple[int, ...]) -> bool | None:
    """Return whether a layer declares sizes by which it stores a matrix input by output.

    Args:
        module: The layer.
        shape: The matrix's shape as stored.

    Returns:
        True for input by output, False for output by input, None if unknown.
    """
    if len(shape) != 2 or shape[0] == shape[1]:
        return None
    attributes = vars(module)
    ways = set()
    for names in _SIZES:
        for mark in ("", "_"):
            sizes = tuple(attributes.get(mark + name) for name in names)
            if sizes in (shape, shape[::-1]):
                ways.add(sizes == shape)
    return ways.pop() if len(ways) == 1 else None


def computes_otherwise(module: Layer, package: str) -> bool:
    """Return whether a layer's `forward` is not one of the framework's own.

    Args:
        module: The layer.
        package: The framework's package.
    """
    cls = next(base for base in type(module).__mro__ if "forward" in vars(base))
    return cls.__module__.partition(".")[0] != package


def turned_in_subclass(
    module: Layer, shape: tuple[int, ...], bias: tuple[int, ...] | None
) -> bool | None:
    """Return how a subclass of a linear layer that writes its own `forward` stores its matrix.

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
