"""Every public name has an example in its docstring, and the test command runs it."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import unifreeze as uf

ROOT = Path(__file__).resolve().parent.parent
METHODS = {
    "FreezePlan": "freeze only with_norm_stats with_group phase load save from_document document "
    "resolve apply expand",
    "Handle": "optimizer verify rates remove step report state_dict load_state_dict save_trained",
    "Pairing": "save load turned",
    "Record": "load",
    "Report": "raise_if_broken to_json",
    "Resolution": "counts why reason",
    "Selector": "within",
}
"""The methods that users call most; an example of the class or of a method shows each."""


def examples_of(value):
    return doctest.DocTestParser().get_examples(inspect.getdoc(value) or "")


@pytest.mark.parametrize("name", uf.__all__)
def test_a_public_name_has_an_example_that_uses_it(name):
    value = getattr(uf, name)
    examples = examples_of(value)
    if inspect.isclass(value):
        assert any(name in example.source + example.want for example in examples)
    else:
        assert any(f"{name}(" in example.source for example in examples)


@pytest.mark.parametrize(
    ("kind", "method"), [(kind, name) for kind, names in METHODS.items() for name in names.split()]
)
def test_a_method_that_users_call_most_has_an_example(kind, method):
    owner = getattr(uf, kind)
    places = [owner, *(value for name, value in inspect.getmembers(owner) if name[0] != "_")]
    examples = [example for place in places for example in examples_of(place)]
    assert any(f".{method}(" in example.source for example in examples)


def test_no_example_is_skipped():
    for folder in ("unifreeze", "backends"):
        for file in (ROOT / folder).rglob("*.py"):
            assert "+SKIP" not in file.read_text("utf-8"), file


def test_the_examples_of_functions_that_are_checked_are_found():
    """doctest takes a decorated function for one of another module; the root conftest helps it."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    module = import_module("unifreeze._handle")
    found = {test.name.rpartition(".")[2] for test in finder.find(module) if test.examples}
    assert {"apply", "freeze", "frozen", "resolve", "unpin"} <= found


def test_the_test_command_runs_them(pytestconfig):
    assert pytestconfig.getoption("doctestmodules")
    assert {"tests", "unifreeze", "backends"} <= set(pytestconfig.getini("testpaths"))
