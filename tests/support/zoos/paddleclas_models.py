"""PaddleClas: one network of every file of backbones, with its own word for its classifier.

The classifier is what is as long as the number of classes that the network was asked for.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from tests.support.zoos.judging import (
    Row,
    Unbuilt,
    difference,
    head_beside_blocks,
    selected,
)
from unifreeze._protocol import load_backend

TASK = "one network of every file"
CLASSES = 1009
"""A number of classes that no other axis of these networks has."""

UNUSED = ("cv2", "visualdl", "faiss", "gast", "prettytable", "easydict", "sklearn",
          "sklearn.metrics", "sklearn.preprocessing")  # fmt: skip
"""Packages that PaddleClas imports and that building a network never calls."""


class _Unused(types.ModuleType):
    """Stands in for a package that is imported and never called."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused(name)

    def __call__(self, *_args: object, **_settings: object) -> Any:
        return self


def rows(only: tuple[str, ...] = ()) -> Iterator[Row | Unbuilt]:
    """Judge the networks, or only those of some files."""
    for name, module in files():
        if only and name not in only:
            continue
        model = built(module)
        if isinstance(model, str):
            yield Unbuilt(TASK, name, model)
        else:
            yield from judged(name, model)


def files() -> Iterator[tuple[str, Any]]:
    """Import the files of backbones."""
    for name in UNUSED:
        try:
            importlib.import_module(name)
        except ImportError:
            stand_in = _Unused(name)
            stand_in.__spec__ = ModuleSpec(name, None)
            sys.modules[name] = stand_in
    package = importlib.util.find_spec("paddleclas")
    assert package is not None
    sys.path.insert(0, str(Path(str(package.origin)).parent))
    logger = importlib.import_module("ppcls.utils.logger")
    logger._logger = logging.getLogger("ppcls")
    for folder in ("model_zoo", "legendary_models", "variant_models"):
        place = importlib.import_module(f"ppcls.arch.backbone.{folder}")
        for found in pkgutil.iter_modules(place.__path__):
            yield found.name, importlib.import_module(f"{place.__name__}.{found.name}")


def built(module: Any) -> Any:
    """Build the first network of a file that can be built; or say why none can."""
    import paddle

    given = getattr(module, "__all__", [])
    named = [name for name in given if inspect.isfunction(getattr(module, name, None))]
    own = [
        name
        for name, made in vars(module).items()
        if inspect.isfunction(made) and made.__module__ == module.__name__ and name[0].isupper()
    ]
    reason = ""
    for name in named or own:
        for place in (paddle.LazyGuard(), nullcontext()):
            try:
                # Networks here name their parameters, and a name is taken once in a process.
                with paddle.utils.unique_name.guard(f"{name}_"), place:
                    return getattr(module, name)(pretrained=False, class_num=CLASSES)
            except Exception as error:  # whatever a library's own code raises
                reason = reason or f"{type(error).__name__}: {error}"
    return reason or "it has no function that builds a network"


def judged(name: str, model: Any) -> Iterator[Row | Unbuilt]:
    """Judge the words on one network."""
    spec = load_backend("paddle").describe(model)
    parameters = set(spec.tree.names)
    outputs = {n for n, p in model.named_parameters() if CLASSES in p.shape} & parameters
    yield Row(TASK, name, "head beside blocks", head_beside_blocks(spec))
    if not outputs:
        yield Unbuilt(TASK, name, "no parameter is as long as the number of classes")
        return
    head = selected("head", spec)
    yield Row(TASK, name, "head", difference(head, outputs, head))
    yield Row(TASK, name, "classifier", difference(selected("classifier", spec), outputs))
