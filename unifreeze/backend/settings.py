"""Reading layers' and optimizers' settings in neutral terms: what every backend does alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

Settings = dict[str, Any]
Reader = Callable[[Any], Settings]
Table = tuple[tuple[Any, Reader], ...]

_EPSILONS = ("eps", "epsilon", "_epsilon", "variance_epsilon")
_ACTIVATIONS = {  # classes of libraries that need not be installed
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu (tanh)",
    "PytorchGELUTanh": "gelu (tanh)",
    "GELUTanh": "gelu (tanh)",
    "FastGELUActivation": "gelu (tanh)",
    "QuickGELUActivation": "gelu (sigmoid)",
    "SiLUActivation": "silu",
}


def read_settings(module: Any, kind: str, table: Table) -> Settings:
    """Return a module's settings, {} where none is known.

    Args:
        module: The module.
        kind: From the layer table.
        table: Classes of the framework, each with what reads a module of it.
    """
    for classes, read in table:
        if isinstance(module, classes):
            return read(module)
    name = type(module).__name__
    if name in _ACTIVATIONS:
        return {"layer": "activation", "activation": _ACTIVATIONS[name]}
    return _foreign_norm(module) if kind == "norm" else {}


def _foreign_norm(module: Any) -> Settings:
    """Read a norm of another library, which calls its epsilon as it likes."""
    found = [getattr(module, n) for n in _EPSILONS if isinstance(getattr(module, n, 0), float)]
    return {"layer": "norm", "epsilon": found[0]} if found else {}


def activation(name: str, **attributes: str) -> Reader:
    """Return what reads an activation: its name, and constants from the attributes named."""

    def read(module: Any) -> Settings:
        own = {setting: getattr(module, leaf) for setting, leaf in attributes.items()}
        return {"layer": "activation", "activation": name, **own}

    return read


def optimizer_defaults(
    optimizers: Mapping[str, Callable[..., Any]],
    names: Mapping[str, str],
    rules: Mapping[str, str],
) -> dict[str, Settings]:
    """Read from signatures what optimizers do if nobody says otherwise.

    Args:
        optimizers: Classes by neutral name.
        names: The framework's names of settings, with the neutral ones; of a pair such as `betas`
            both, with a bar between.
        rules: Of optimizers whose formula is another in other frameworks, what it is here.
    """
    found = {}
    for name, built in optimizers.items():
        row: Settings = {"layer": name}
        row |= {"update rule": rules[name]} if name in rules else {}
        for key, parameter in inspect.signature(built).parameters.items():
            if key in names and parameter.default is not inspect.Parameter.empty:
                default = parameter.default
                values = default if isinstance(default, tuple) else (default or 0.0,)
                row |= dict(zip(names[key].split("|"), map(float, values), strict=True))
        found[name] = row
    return found
