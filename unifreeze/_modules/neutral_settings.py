"""Read settings of layers and optimizers in neutral terms, in the same way for all backends."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from unifreeze._protocol.live import Layer
from unifreeze.errors import OptimizerError, UnifreezeError, brief, nearest

LayerSettings = dict[str, Any]
"""One layer's settings by neutral name, such as `epsilon`."""
ReadSettings = Callable[[Layer], LayerSettings]
"""Reads the settings of one live layer."""
OptimizerTables = tuple[Mapping[str, Callable[..., Any]], Mapping[str, str], Mapping[str, str]]
SettingsTable = tuple[tuple[Any, ReadSettings], ...]
"""Classes of a framework, each with the function that reads a layer of it."""

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
_DROP_PATHS = "DropPath", "StochasticDepth"
"""How classes that skip whole branches end; each library of models has its own."""


def read_settings(module: Layer, kind: str, table: SettingsTable) -> LayerSettings:
    """Return a module's settings, {} where none is known.

    Args:
        module: The module.
        kind: From the layer table.
        table: Classes of the framework, each with the function that reads a module of it.
    """
    for classes, read in table:
        if isinstance(module, classes):
            return read(module)
    name = type(module).__name__
    if name in _ACTIVATIONS:
        return {"layer": "activation", "activation": _ACTIVATIONS[name]}
    if name.endswith(_DROP_PATHS):
        return _drop_path(module)
    return home_made_norm(module) if kind == "norm" else {}


def home_made_norm(module: Layer) -> LayerSettings:
    """Read a norm that is not the framework's, whose epsilon may have any of several names."""
    epsilons = [getattr(module, n) for n in _EPSILONS if isinstance(getattr(module, n, 0), float)]
    return {"layer": "norm", "epsilon": epsilons[0]} if epsilons else {}


def _drop_path(module: Layer) -> LayerSettings:
    """Read a layer that skips its branch at random; None stands for never."""
    rates = [getattr(module, name) for name in ("drop_prob", "p") if hasattr(module, name)]
    if not rates or not isinstance(rates[0] or 0, int | float):
        return {}
    # Rates that grow with depth are computed in float32 by some libraries.
    return {"layer": "drop path", "drop path": round(float(rates[0] or 0), 6)}


def activation(name: str, **attributes: str) -> ReadSettings:
    """Return a function that reads an activation: its name, and constants from some attributes."""

    def read(module: Layer) -> LayerSettings:
        constants = {setting: getattr(module, leaf) for setting, leaf in attributes.items()}
        return {"layer": "activation", "activation": name, **constants}

    return read


def clipped(name: str, lower: str | float | None, upper: str | float | None) -> ReadSettings:
    """Return a function that reads an activation with a lower and an upper bound.

    Args:
        name: Its name.
        lower: The lower bound, or the attribute that holds it; None where there is none.
        upper: The same of the upper one.
    """

    def read(module: Layer) -> LayerSettings:
        bounds = [getattr(module, b) if isinstance(b, str) else b for b in (lower, upper)]
        settings = {"layer": "activation", "activation": name}
        return settings | dict(zip(("lower bound", "upper bound"), bounds, strict=True))

    return read


def optimizer_defaults(
    optimizers: Mapping[str, Callable[..., Any]],
    names: Mapping[str, str],
    rules: Mapping[str, str],
) -> dict[str, LayerSettings]:
    """Read the default settings of optimizers from their signatures.

    Args:
        optimizers: Classes by neutral name.
        names: Neutral names of the framework's settings; two, with a bar between, for a pair such
            as `betas`.
        rules: The update rule of optimizers whose formula differs between frameworks.
    """
    defaults = {}
    for name, built in optimizers.items():
        row: LayerSettings = {"layer": name}
        row |= {"update rule": rules[name]} if name in rules else {}
        for key, parameter in inspect.signature(built).parameters.items():
            if key in names and parameter.default is not inspect.Parameter.empty:
                default = parameter.default
                values = default if isinstance(default, tuple) else (default or 0.0,)
                row |= dict(zip(names[key].split("|"), map(float, values), strict=True))
        defaults[name] = row
    return defaults


PARAMETERS = ("params", "parameters", "parameter_list")
"""Names that optimizers have for the parameters; a plan fills these in."""


def build_optimizer(cls: type, settings: Mapping[str, Any], build: Callable[[], Any]) -> Any:
    """Build an optimizer; explain which settings its class cannot use.

    Args:
        cls: The optimizer's class.
        settings: The settings that the user gave.
        build: Builds it.

    Raises:
        OptimizerError: The class refused a setting, or the plan decides it.
    """
    for name in PARAMETERS:
        if name in settings:
            raise OptimizerError(
                f"{name}={brief(settings[name])}: the plan says which parameters train",
                hint=f"leave {name} out: handle.optimizer({cls.__name__}, lr=1e-3)",
            )
    try:
        return build()
    except UnifreezeError:
        raise
    except Exception as error:
        given = [f"{name}={brief(value)}" for name, value in settings.items()]
        raise OptimizerError(
            f"{cls.__name__} cannot be built: {error}",
            context=f"given: {', '.join(given) or 'no settings'}",
            hint=_settings_cure(cls, settings),
        ) from error


def _needed(cls: type) -> list[str]:
    """Return the settings that a class has no default for, by their neutral names."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    settings = inspect.signature(cls).parameters.values()
    bare = [s.name for s in settings if s.default is s.empty and s.kind in named]
    return ["lr" if n == "learning_rate" else n for n in bare if n not in PARAMETERS]


def _settings_cure(cls: type, settings: Mapping[str, Any]) -> str:
    """Return a hint: the setting that is probably wrong, and what to write instead."""
    known = [name for name in inspect.signature(cls).parameters if name not in PARAMETERS]
    for name, value in settings.items():
        if name not in (*known, "lr", "weight_decay"):
            close = nearest(name, ["lr", "learning_rate", *known], limit=1)
            if close:
                return f"did you mean {'lr' if close[0] == 'learning_rate' else close[0]}=…?"
            break
        if isinstance(value, str):
            return f"a number, without quotes: {name}={value}"
    if lacking := [name for name in _needed(cls) if name not in settings]:
        return f"{cls.__name__} has no default for it: {', '.join(f'{n}=…' for n in lacking)}"
    return f"{cls.__name__} takes {', '.join(known)}"
