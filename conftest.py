"""Runs the examples in docstrings: which modules are searched, and which names examples know.

`plan`, `model`, `torch_model`, `paddle_model`, `batch` and the like are made for an example that
mentions them, so that an example shows one call and not how a network is built.
"""

from __future__ import annotations

import doctest
import inspect
import re
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import unifreeze

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def pytest_configure() -> None:
    """Let doctest see through decorators: it takes a wrapped function for another module's."""
    is_from_module = doctest.DocTestFinder._from_module

    def unwrapped_is_from_module(
        finder: doctest.DocTestFinder, module: ModuleType, value: object
    ) -> bool:
        return is_from_module(finder, module, inspect.unwrap(value))

    doctest.DocTestFinder._from_module = unwrapped_is_from_module


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out modules without examples: some load a framework or a trainer when imported.

    What tests share is left out, too: pytest would import it a second time, under another name.
    """
    if collection_path.is_relative_to(ROOT / "tests" / "support"):
        return True
    if collection_path.suffix != ".py" or collection_path.name.startswith(("test_", "conftest")):
        return None
    return None if ">>> " in collection_path.read_text("utf-8") else True


def pytest_collect_file(file_path: Path) -> None:
    """Import our modules the usual way, before pytest does.

    pytest sets each module that it imports as an attribute of its package, where some packages
    have a function of the same name.
    """
    for root in (ROOT, ROOT / "backends"):
        inner = file_path.relative_to(root) if file_path.is_relative_to(root) else Path()
        if inner.suffix == ".py" and inner.parts[0].startswith("unifreeze"):
            import_module(".".join(inner.with_suffix("").parts))


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Make what an example mentions."""
    if not isinstance(item, pytest.DoctestItem):
        return
    from tests.support.doctest_names import NAMES, ExampleNames

    code = "".join(example.source for example in item.dtest.examples)
    mentioned = [name for name in NAMES if re.search(rf"\b{name}\b", code)]
    public = {name: getattr(unifreeze, name) for name in unifreeze.__all__ if name in code}
    item.dtest.globs.update({**public, **item.dtest.globs})
    folder = tempfile.TemporaryDirectory(prefix="unifreeze-example-")
    item.addfinalizer(folder.cleanup)
    names = ExampleNames(Path(folder.name))
    item.dtest.globs.update({name: getattr(names, name) for name in mentioned})
