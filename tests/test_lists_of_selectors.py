"""Several selectors in a list, wherever Python takes one: refused with the text that is right."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Mapping

import pytest

import unifreeze as uf
from tests.support.public_names import Public, public_callables
from tests.support.wrong_types import HEAD, World, good

LISTS = {
    "list": ["backbone", "norm"],
    "tuple": ("backbone", "norm"),
    "set": {"backbone", "norm"},
    "selectors": [uf.Selector("backbone"), "norm"],
}
CURE = '"backbone | norm"'


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World("torch", tmp_path_factory.mktemp("world"))


def with_lists(annotation, several):
    """Give values of an annotation, with a list wherever a selector can stand."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is uf.Selector:
        yield several
    elif origin in (typing.Union, types.UnionType):
        for one in args:
            yield from with_lists(one, several)
    elif origin is Mapping:
        yield from ({"torch": one} for one in with_lists(args[1], several))
    elif origin is Iterable:
        yield from ([one] for one in with_lists(args[0], several))


def places():
    """Give every parameter of a public function in which selectors can stand, with a value."""
    for public in public_callables():
        for row in public.parameters:
            if row.kind in (row.VAR_POSITIONAL, row.VAR_KEYWORD):
                continue
            for name, several in LISTS.items():
                values = with_lists(public.annotation(row.name), several)
                for number, value in enumerate(values):
                    yield pytest.param(public, row, value, id=f"{public}-{row.name}-{name}{number}")


PLACES = list(places())


def cure_of(call) -> str:
    with pytest.raises(uf.UnifreezeError) as caught:
        call()
    return caught.value.hint


def test_the_places_are_found():
    found = {f"{place.values[0]}.{place.values[1].name}" for place in PLACES}
    assert found >= {
        "freeze.what",
        "FreezePlan.freeze.what",
        "FreezePlan.train.what",
        "FreezePlan.only.what",
        "FreezePlan.with_group.match",
        "FreezePlan.with_norm_stats.policy",
        "FreezePlan.phase.norm_stats",
        "Selector.text",
    }


@pytest.mark.parametrize(("public", "parameter", "value"), PLACES)
def test_several_selectors_are_told_to_be_one(world, public: Public, parameter, value):
    def call():
        on = [world.instance(public.owner.__name__)] if public.is_method else []
        given = {parameter.name: value}
        for row in public.parameters:
            if row.default is inspect.Parameter.empty and row.name not in given:
                given[row.name] = good(world, public, row.name)
        result = public.function(*on, **given)
        if hasattr(result, "__enter__"):
            with result:
                pass

    assert CURE in cure_of(call)


@pytest.mark.parametrize("several", LISTS.values(), ids=LISTS)
def test_so_are_those_in_phases_rules_and_operators(several):
    at = {"epoch": 1}
    for call in (
        lambda: HEAD.phase("a", rules=several),
        lambda: HEAD.phase("a", add=several),
        lambda: HEAD.phase("a", rules={"only": several}),
        lambda: HEAD.phase("a", rules=[{"only": several}]),
        lambda: HEAD.phase("a", add=({"train": {"torch": several}},)),
        lambda: HEAD.phase("a", norm_stats=several),
        lambda: HEAD.phase("a", norm_stats=[{"hold": several}]),
        lambda: HEAD.phase("a", lr=1).phase(
            "b", at=at, freeze_smallest={"share": 1, "of": several}
        ),
        lambda: HEAD.phase("a", by_gradient={"every": {"steps": 1}, "share": 1, "of": several}),
        lambda: HEAD.with_norm_stats(several),
        lambda: uf.FreezePlan(several),
        lambda: uf.Selector("head") | several,
        lambda: several - uf.Selector("head"),
    ):
        assert CURE in cure_of(call)


@pytest.mark.parametrize("several", LISTS.values(), ids=LISTS)
def test_so_are_those_in_plain_data(several):
    for rule in ({"only": several}, {"only": {"torch": several}}):
        with pytest.raises(uf.UnifreezeError) as caught:
            uf.FreezePlan.from_document({"unifreeze": 1, "rules": [rule]})
        assert caught.value.mistakes[0].endswith(f"write them as one: {CURE}")
