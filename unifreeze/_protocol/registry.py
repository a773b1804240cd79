"""Find the backend of a model by its classes, without importing a framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, NoReturn, cast

from unifreeze._protocol.backend import Backend
from unifreeze._protocol.experiment_backend import ExperimentBackend
from unifreeze._protocol.freezing_backend import FreezingBackend
from unifreeze._protocol.live import Model
from unifreeze._protocol.not_models import cure
from unifreeze._protocol.optimizer_backend import OptimizerBackend
from unifreeze._resolution import Resolution
from unifreeze.errors import (
    BackendError,
    MissingFrameworkError,
    UnknownFrameworkError,
    UnsupportedPlanError,
    brief,
    listing,
)

ENTRY_POINTS = "unifreeze.backends"
OPTIONAL: dict[type, tuple[str, str]] = {
    OptimizerBackend: (
        "optimizers",
        "build the optimizer yourself over the parameters that train",
    ),
    ExperimentBackend: (
        "experiments",
        "parity, pairing and suggestions need them: see backends/README.md",
    ),
}
"""Protocols that a backend may leave out: the purpose of each, and what a user does instead."""
_overrides: dict[str, Callable[[], Backend]] = {}


def backend_for(model: Model) -> Backend:
    """Return the backend of a live model, or of several held in a mapping.

    The package that defines one of the model's classes is the framework: an entry point has its
    name.

    Raises:
        UnknownFrameworkError: No backend claims the model, or two do.
    """
    if isinstance(model, Mapping) and model:
        roots = {_claim(member) for member in model.values()}
        if len(roots) > 1:
            raise UnknownFrameworkError(
                f"the models are of different frameworks: {', '.join(sorted(roots))}",
                hint="apply the plan to the models of one framework at a time",
            )
        return load_backend(roots.pop())
    return load_backend(_claim(model))


def _claim(model: Model) -> str:
    roots = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    claims = sorted(roots & set(backend_names()))
    if len(claims) == 1:
        return claims[0]
    shown = f"{type(model).__module__}.{type(model).__qualname__}"
    if not claims:
        raise UnknownFrameworkError(
            f"{brief(model)} is not a model: no backend claims a {shown}",
            context=f"backends: {listing(backend_names()) or 'none'}",
            hint=cure(model, is_claimed),
        )
    raise UnknownFrameworkError(
        f"{len(claims)} backends claim a {shown}: {', '.join(claims)}",
        hint="a model must derive from one framework's module class",
    )


def is_claimed(value: Any) -> bool:
    """Return whether a value is of a framework's class, which a model is."""
    roots = {base.__module__.partition(".")[0] for base in type(value).__mro__}
    return bool(roots & set(backend_names()))


def load_backend(name: str) -> Backend:
    """Return a backend by the name of its framework.

    Raises:
        UnknownFrameworkError: There is no such backend.
        MissingFrameworkError: Its framework is not installed.
    """
    if name in _overrides:
        return _overrides[name]()
    entry = _entries().get(name)
    if entry is None:
        raise UnknownFrameworkError(
            f"there is no backend called {name!r}",
            context=f"backends: {listing(backend_names()) or 'none'}",
        )
    return _load(entry)


def override_backend(name: str, load: Callable[[], Any]) -> None:
    """Use another backend for a framework, in this process (to try one out).

    Args:
        name: Import root of the framework.
        load: Returns the backend; called once, when a model of the framework is first met.
    """
    _overrides[name] = cache(lambda: _checked(load(), f"{name!r}, given in its place,"))


def backend_names() -> list[str]:
    """Return the names of all backends, installed framework or not."""
    return sorted({*_entries(), *_overrides})


def is_installed(name: str) -> bool:
    """Return whether a backend's framework can be imported, without importing it."""
    return find_spec(name) is not None


@cache
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


@cache
def _load(entry: EntryPoint) -> Backend:
    try:
        loaded = entry.load()
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == entry.name:
            raise missing_framework(entry.name) from None
        raise
    return _checked(loaded, f"{entry.name!r} ({entry.value})")


def _checked(loaded: Any, name: str) -> Backend:
    """Refuse an object that cannot describe and freeze, naming all that it lacks."""
    if isinstance(loaded, Backend):
        return loaded
    if not isinstance(loaded, FreezingBackend):
        raise UnknownFrameworkError(
            f"backend {name} is not a backend: it lacks {listing(_lacking(loaded, Backend))}",
            hint="see backends/README.md for what a backend has",
        )
    return cast(Backend, _PartialBackend(loaded))


def _lacking(backend: object, protocol: type) -> list[str]:
    """Return the public names of a protocol that a backend does not have."""
    wanted = {
        name
        for base in protocol.__mro__
        if base.__module__.startswith("unifreeze.")
        for name in (*vars(base), *getattr(base, "__annotations__", ()))
    }
    return sorted(name for name in wanted if name[0] != "_" and not hasattr(backend, name))


class _PartialBackend:
    """A backend without optimizers or experiments: calling a method it lacks says so."""

    def __init__(self, backend: FreezingBackend) -> None:
        self._backend = backend
        for protocol in OPTIONAL:
            lacking = _lacking(backend, protocol)
            for method in lacking:
                setattr(self, method, partial(_refuse, backend.name, protocol, method, lacking))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._backend, name)


def _refuse(
    name: str, protocol: type, method: str, lacking: Iterable[str], *_args: Any, **_named: Any
) -> NoReturn:
    """Raise the error for a method of a protocol that a backend leaves out."""
    job, hint = OPTIONAL[protocol]
    raise BackendError(
        f"the backend of {name} has no {job}: it cannot do `{method}`",
        context=f"it describes models, freezes them and verifies; of {protocol.__name__} it lacks "
        f"{listing(lacking)}",
        hint=hint,
    )


@cache
def declared_by_backends(name: str) -> tuple[Any, ...]:
    """Return everything that the packages of backends declare under a name, package by package.

    A package that cannot be imported, because its framework is not installed, declares nothing.
    """
    declared: list[Any] = []
    for _, entry in sorted(_entries().items()):
        try:
            declared += getattr(import_module(entry.module), name, ())
        except ImportError:
            continue
    return tuple(declared)


def missing_framework(name: str) -> MissingFrameworkError:
    """Build the error for a framework that is not installed."""
    entry = _entries().get(name)
    is_bundled = entry is not None and entry.dist is not None and entry.dist.name == "unifreeze"
    extra = f"pip install 'unifreeze[{name}]' (docs/en/getting-started.md: which build for a GPU)"
    return MissingFrameworkError(
        f"{name} is not installed here", hint=extra if is_bundled else f"install {name}"
    )


def refuse_unsupported(backend: Backend, model: Model, resolution: Resolution) -> None:
    """Refuse a plan that a framework would not carry out as it says.

    Raises:
        UnsupportedPlanError: With every reason.
    """
    findings = backend.check(model, resolution)
    problems = [str(finding) for finding in findings if finding.severity == "error"]
    if problems:
        raise UnsupportedPlanError(
            f"{backend.name} would not carry out this plan as it says",
            context="\n".join(problems),
            hint="nothing was changed",
        )
