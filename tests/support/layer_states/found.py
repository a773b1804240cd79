"""Layer classes found in the frameworks' namespaces, built and run with whatever arguments work."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

RANDOM = np.random.default_rng(0)
WIDTH = 4
INPUTS = [
    RANDOM.standard_normal((6, WIDTH)) * 2 + 1,
    RANDOM.standard_normal((6, WIDTH, 5)) * 2 + 1,
    RANDOM.standard_normal((6, WIDTH, 5, 5)) * 2 + 1,
    RANDOM.standard_normal((6, WIDTH, 4, 4, 4)) * 2 + 1,
    RANDOM.integers(0, WIDTH, (6, 3)),
]
"""What is tried as the input of a layer, in this order."""

VARIANTS: list[dict[str, Any]] = [
    {},
    {"track_running_stats": True},
    {"affine": False},
    {"affine": False, "track_running_stats": True},
    {"weight_attr": False, "bias_attr": False},
    {"use_global_stats": False},
    {"trainable_statistics": True},
    {"max_norm": 0.5},
    {"quant_on_weight": True},
]
"""Arguments under which a layer may have state; tried where a class takes all of them."""

_KNOWN = {"kernel_size": 3, "p": 0.0, "dropout": 0.0, "dropout_p": 0.0, "drop_rate": 0.0}
_KNOWN |= {"num_groups": 2, "nhead": 2, "num_heads": 2, "padding_mode": "zeros"}


@dataclass
class Found:
    """One class in one configuration whose forward pass in training mode changes its state.

    Attributes:
        name: Qualified name of the class.
        settings: Arguments besides those that a constructor wants.
        build: Builds it.
        rows: An input that it takes.
    """

    name: str
    settings: dict[str, Any]
    build: Any
    rows: Any

    @property
    def label(self) -> str:
        """The class and what is particular to this configuration."""
        shown = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}({shown})"


@dataclass
class Search:
    """What a search through a framework's namespaces came to.

    Attributes:
        found: Classes with state that a forward pass changes.
        quiet: Classes that ran and changed nothing.
        unbuilt: Classes that no arguments tried would build, or no input run, each with why.
    """

    found: list[Found] = field(default_factory=list)
    quiet: list[str] = field(default_factory=list)
    unbuilt: dict[str, str] = field(default_factory=dict)


def classes_in(roots: list[str], base: type) -> list[type]:
    """Return every layer class defined in some packages, by qualified name."""
    found: dict[str, type] = {}
    for module in chain.from_iterable(map(_modules, roots)):
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if (
                issubclass(cls, base)
                and cls is not base
                and cls.__module__.startswith(tuple(roots))
            ):
                found[f"{cls.__module__}.{cls.__qualname__}"] = cls
    return [found[name] for name in sorted(found)]


def _modules(root: str) -> Iterator[Any]:
    package = importlib.import_module(root)
    yield package
    for info in pkgutil.walk_packages(getattr(package, "__path__", []), f"{root}."):
        if info.name.rpartition(".")[2] == "__main__":
            continue
        try:
            yield importlib.import_module(info.name)
        except Exception:  # a part of the framework that this machine cannot load
            continue


def search(side: Any) -> Search:
    """Build and run every layer class of a framework."""
    result = Search()
    for cls in classes_in(side.roots, side.base):
        if inspect.isabstract(cls):
            continue
        _try(side, cls, result)
    result.found += side.wrapped()
    return result


def _try(side: Any, cls: type, result: Search) -> None:
    name, ran, why = f"{cls.__module__}.{cls.__qualname__}", False, "no arguments fit"
    for variant in VARIANTS:
        arguments = _arguments(side, cls, variant)
        if arguments is None:
            continue
        for rows in INPUTS:

            def build(arguments: Any = arguments) -> Any:
                side.seed()
                return side.make(cls, arguments)

            try:
                changed = _changes(side, build, rows)
            except Exception as error:  # whatever a class does with what it is given
                why = f"{type(error).__name__}: {(str(error) or ' ').splitlines()[0][:80]}"
                continue
            ran = True
            if changed:
                result.found.append(Found(name, variant, build, rows))
            break
    if not ran:
        result.unbuilt[name] = why
    elif not any(one.name == name for one in result.found):
        result.quiet.append(name)


def _arguments(side: Any, cls: type, variant: dict[str, Any]) -> dict[str, Any] | None:
    """Guess what a constructor wants by its parameters' names; None if it lacks a variant's."""
    try:
        parameters = list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):
        return None
    names = {parameter.name for parameter in parameters}
    if not variant.keys() <= names:
        return None
    given: dict[str, Any] = dict(variant)
    for parameter in parameters:
        wanted = parameter.default is inspect.Parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        random = "drop" in parameter.name or parameter.name == "p"
        if parameter.name in _KNOWN and (wanted or random):
            given[parameter.name] = _KNOWN[parameter.name]
        elif parameter.name in side.special and parameter.name not in given:
            given[parameter.name] = side.special[parameter.name]()
        elif wanted and parameter.name not in given:
            given[parameter.name] = WIDTH
    return given


def _changes(side: Any, build: Any, rows: Any) -> bool:
    """Run a layer twice in training mode; tell whether any of its tensors has other bits then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = build()
        side.train(layer)
        try:
            first = side.state(layer)
        except Exception:  # a lazy layer has its tensors after its first pass
            first = None
        side.run(layer, rows)
        second = side.state(layer)
        side.run(layer, side.other(rows))
        return side.state(layer) != second or (first is not None and first != second)
