"""A number and its noun agree in messages: "1 parameter", never "1 parameters"."""

from __future__ import annotations

import pytest

from tests.support.trees import linear, module, spec
from unifreeze._plan import FreezePlan
from unifreeze._plan.selectors import evaluate, parse
from unifreeze._resolution import resolve_spec
from unifreeze.errors import ResolveError


def one_layer():
    """A model with a single parameter, in a single child."""
    return spec(module("Net", fc=linear(4, 2, bias=False)))


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        ("nowhere", "matches none of 1 parameter\n"),
        ('re:"nowhere"', "matches none of 1 parameter\n"),
        ("children[3]", "the model has 1 direct child\n"),
        ("params[7]", "the model has 1 parameter\n"),
    ],
)
def test_a_selector_that_selects_nothing_counts_in_singular(selector, says):
    with pytest.raises(ResolveError) as error:
        evaluate(parse(selector), one_layer())
    assert says in str(error.value)


def test_a_plan_that_decides_nothing_new_counts_in_singular():
    with pytest.raises(ResolveError, match="the only parameter ends up frozen"):
        resolve_spec(FreezePlan().freeze("fc"), one_layer())
    with pytest.raises(
        ResolveError, match="the only parameter that can be trained stays trainable"
    ):
        resolve_spec(FreezePlan().train("fc"), one_layer())


def test_a_resolution_counts_in_singular():
    shown = str(resolve_spec(FreezePlan().freeze("all"), one_layer()))
    assert "0 of 1 parameter trainable, 0 layers hold their statistics" in shown
