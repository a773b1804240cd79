"""Find a model, a plan, a batch and a device that the command line names."""

from __future__ import annotations

import ast
import random
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unifreeze._cli.import_by_name import (
    attribute_of,
    import_target,
    missing_module,
    split_target,
    target_hint,
)
from unifreeze._cli.waiting import now
from unifreeze._files import is_file
from unifreeze._plan import FreezePlan
from unifreeze._protocol import (
    Backend,
    Batch,
    backend_for,
    backend_names,
    is_claimed,
    load_backend,
    override_backend,
)
from unifreeze._protocol.live import Model
from unifreeze.errors import TargetError, UnifreezeError, brief


def load_model(target: str, *, seed: int = 0) -> tuple[Model, Backend]:
    """Build a model from `package.module:factory` or `./file.py:factory(key=literal, …)`.

    The current folder is on the import path, and for a file its folder; random generators are
    seeded first.

    Raises:
        TargetError: The target cannot be read, imported or built.
        MissingFrameworkError: Its framework is not installed.
    """
    module_name, factory_name, args, kwargs = _read_target(target)
    now(f"building {target}")
    factory = attribute_of(import_target(module_name, target), factory_name, target)
    try:
        model = factory if is_claimed(factory) else _seeded(factory, args, kwargs, seed, target)
    except ModuleNotFoundError as error:
        raise missing_module(error, target) from None
    now("")
    return model, backend_for(model)


def load_data(target: str, *, seed: int = 0) -> Iterable[Any]:
    """Build the batches that `package.module:factory` or `./file.py:factory(key=literal, …)` names.

    Raises:
        TargetError: The target cannot be read, imported or built, or does not yield batches.
    """
    module_name, name, args, kwargs = _read_target(target, "data")
    data = attribute_of(import_target(module_name, target), name, target)
    try:
        data = _seeded(data, args, kwargs, seed, target) if callable(data) else data
    except ModuleNotFoundError as error:
        raise missing_module(error, target) from None
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise TargetError(
            f"{target} is {brief(data)}, and should yield batches",
            hint="return a loader, a list or a generator of what the model is called with",
        )
    return data


def load_model_with(backends: list[str], target: str, *, seed: int) -> tuple[Model, Backend]:
    """Build a model as `load_model` does, with the backend of `--backend`, if one is given.

    Raises:
        TargetError: As `load_model`; or a backend is given that the model does not use.
        MissingFrameworkError: The model's framework is not installed.
    """
    use_backends(backends)
    model, backend = load_model(target, seed=seed)
    check_backends_used(backends, {backend.name})
    return model, backend


def _read_target(target: str, what: str = "model") -> tuple[str, str, list[Any], dict[str, Any]]:
    module_name, colon, call = split_target(target)
    try:
        node = ast.parse(call.strip(), mode="eval").body if colon and module_name else None
    except SyntaxError:
        node = None
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    if isinstance(node, ast.Call):
        try:
            args = [ast.literal_eval(arg) for arg in node.args]
            kwargs = {_name(word): ast.literal_eval(word.value) for word in node.keywords}
        except ValueError:
            raise TargetError(
                f"arguments in {target!r} are not literals",
                hint="numbers, quoted text, True, None, lists and dictionaries of them",
            ) from None
        node = node.func
    if not isinstance(node, ast.Name):
        raise TargetError(f"{target!r} names no {what}", hint=target_hint(target))
    return module_name, node.id, args, kwargs


def _name(word: ast.keyword) -> str:
    if word.arg is None:
        raise ValueError("**")
    return word.arg


def _seeded(
    factory: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], seed: int, target: str
) -> Any:
    """Call a factory with all generators seeded.

    A framework that the factory itself imports could not be seeded before, so that it is called
    again.
    """
    before = _imported()
    _seed_all(seed)
    try:
        made = factory(*args, **kwargs)
        if _imported() != before:
            _seed_all(seed)
            made = factory(*args, **kwargs)
    except (UnifreezeError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise TargetError(
            f"{target} does not build: {type(error).__name__}: {error}",
            hint="call the factory in Python to see where it fails",
        ) from error
    return made


def _imported() -> list[str]:
    return [name for name in backend_names() if name in sys.modules]


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    for name in _imported():
        load_backend(name).seed(seed)


def read_plan(file: Path) -> FreezePlan:
    """Read a plan file.

    Raises:
        TargetError: It names a model: plan and model are given in the wrong order.
        PlanFileError: It has mistakes, or cannot be read.
    """
    if ":" in file.name and not is_file(file):
        raise TargetError(
            f"{file} names a model, and not a plan file",
            hint=f"the plan comes before the model: plan.yaml {file}",
        )
    return FreezePlan.load(file)


def read_batch(specs: list[str], *, seed: int = 0) -> Batch | None:
    """Read a batch from texts, as `Batch.of` does; None where there are none.

    Raises:
        TargetError: A text cannot be read.
    """
    return Batch.of(specs, seed=seed) if specs else None


def device_for(devices: str, framework: str) -> str:
    """Read a device: `gpu`, or `torch=gpu,paddle=cpu` by framework; "" leaves the model alone.

    Raises:
        TargetError: The text cannot be read, or a device is neither cpu nor gpu.
    """
    chosen = ""
    for part in filter(None, (piece.strip() for piece in devices.split(","))):
        name, equals, kind = part.partition("=")
        name, kind = (name, kind) if equals else (framework, name)
        if kind not in ("cpu", "gpu") or (equals and name not in backend_names()):
            raise TargetError(
                f"device {part!r} cannot be read",
                context=f"frameworks: {', '.join(backend_names())}; devices: cpu, gpu",
                hint="forms: gpu, or torch=gpu,paddle=cpu",
            )
        if name == framework:
            chosen = kind
    return chosen


def use_backends(overrides: list[str]) -> None:
    """Use backends given as `torch=package.module:attribute` in place of the installed ones.

    A backend is imported when it is needed, because the other side of a check may run where its
    framework is not installed.

    Raises:
        TargetError: A text cannot be read; or later, the backend cannot be imported.
    """
    for text in overrides:
        name, module_name, attribute = _read_override(text)
        override_backend(name, partial(_make_backend, module_name, attribute))


def _read_override(text: str) -> tuple[str, str, str]:
    name, _, target = text.partition("=")
    module_name, _, attribute = target.partition(":")
    if not (name and module_name and attribute):
        raise TargetError(f"backend {text!r} cannot be read", hint="torch=package.module:attribute")
    return name, module_name, attribute


def _make_backend(module_name: str, attribute: str) -> Any:
    target = f"{module_name}:{attribute}"
    backend = attribute_of(import_target(module_name, target), attribute, target)
    return backend() if isinstance(backend, type) else backend


def check_backends_used(overrides: list[str], frameworks: set[str]) -> None:
    """Refuse a backend that no model uses: its name is likely misspelt.

    Raises:
        TargetError: Naming it.
    """
    for text in overrides:
        name = _read_override(text)[0]
        if name not in frameworks:
            raise TargetError(
                f"--backend {text} was not used: no model here is of framework {name!r}",
                context=f"frameworks: {', '.join(sorted(frameworks))}",
            )
