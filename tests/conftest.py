"""What every test can use: each backend by name, and its kit of small models.

Asking for a backend whose framework is not installed fails; it never skips.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from unifreeze.backend import load_backend
from unifreeze.testing import Kit

HERE = Path(__file__).parent
for folder in (HERE.parent, HERE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

FRAMEWORKS = ("torch", "paddle")


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return request.param


@pytest.fixture
def backend(framework):
    return load_backend(framework)


@pytest.fixture
def kit(framework) -> Kit:
    return import_module(f"kits.{framework}_kit").kit


@pytest.fixture
def double():
    """Make layers and tensors in double precision, in every framework that is imported."""
    frameworks = [module for name in FRAMEWORKS if (module := sys.modules.get(name))]
    before = [module.get_default_dtype() for module in frameworks]
    for module in frameworks:
        module.set_default_dtype(module.float64)
    yield
    for module, dtype in zip(frameworks, before, strict=True):
        module.set_default_dtype(dtype)


@pytest.fixture
def kits() -> dict[str, Kit]:
    return {name: import_module(f"kits.{name}_kit").kit for name in FRAMEWORKS}
