"""What every test can use: each backend by name, and its kit of small models.

Asking for a backend whose framework is not installed fails; it never skips.
"""

from __future__ import annotations

import random
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from unifreeze._protocol import load_backend, registry
from unifreeze.testing import Kit

ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

FRAMEWORKS = ("torch", "paddle")


def pytest_addoption(parser):
    group = parser.getgroup("unifreeze")
    only = "of the tests that run on each framework, run these only; repeatable"
    group.addoption("--framework", action="append", choices=FRAMEWORKS, help=only)
    place = "where GPU tests run; cpu rehearses them where there is no GPU"
    group.addoption("--device", choices=("gpu", "cpu"), default="gpu", help=place)
    order = "run the modules, and the tests of each, in a random order, the same for one seed"
    group.addoption("--random-order", type=int, metavar="SEED", help=order)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave the frameworks out that were not asked for; put the rest into a random order."""
    if chosen := config.getoption("--framework"):
        left_out = [item for item in items if _framework_of(item) not in {None, *chosen}]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    seed = config.getoption("--random-order")
    if seed is not None:
        drawn = random.Random(seed)
        places = {path: drawn.random() for path in dict.fromkeys(item.path for item in items)}
        items.sort(key=lambda item: (places[item.path], drawn.random()))


def pytest_report_header(config):
    seed = config.getoption("--random-order")
    return None if seed is None else f"random order: --random-order {seed}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Begin every test on the same random numbers, whatever ran before it, fixtures included."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    if paddle := sys.modules.get("paddle"):
        paddle.seed(0)


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was():
    """Fail the test that changes what all later tests work with, instead of one of those."""
    before = _of_the_process()
    yield
    after = _of_the_process()
    changed = [name for name in before if after.get(name) != before[name]]
    assert not changed, f"the test leaves the process with another {', '.join(changed)}"


def _of_the_process():
    found = {"set of backends": dict(registry._overrides), "working folder": Path.cwd()}
    for name in FRAMEWORKS:
        module = sys.modules.get(name)
        found[f"precision of {name}"] = module and str(module.get_default_dtype())
    if torch := sys.modules.get("torch"):
        found["number of threads"] = torch.get_num_threads()
        found["determinism"] = torch.are_deterministic_algorithms_enabled()
        found["gradient mode"] = torch.is_grad_enabled()
    return {name: value for name, value in found.items() if value is not None}


def _framework_of(item):
    return item.callspec.params.get("framework") if hasattr(item, "callspec") else None


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return request.param


@pytest.fixture
def backend(framework):
    return load_backend(framework)


@pytest.fixture
def kit(framework) -> Kit:
    return import_module(f"tests.support.kits.{framework}_kit").kit


@pytest.fixture
def nets(framework):
    """A stack of blocks in the framework, and what tests do with it without the library."""
    return import_module(f"tests.support.kits.{framework}_nets")


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
    return {name: import_module(f"tests.support.kits.{name}_kit").kit for name in FRAMEWORKS}
