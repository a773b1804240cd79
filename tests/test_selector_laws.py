"""The laws of the algebra of selectors, on random models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_models import TOTAL, TOTAL_EXPRESSIONS, models
from tests.support.selector_names import names
from tests.support.trees import bottleneck, module, node_at, spec, stack, tree
from unifreeze._plan.selectors import Path, Selector, Word, evaluate, parse
from unifreeze._plan.selectors.expression import Both, Either, OtherThan, Segment, Within, Without
from unifreeze._structure import derive
from unifreeze.errors import ResolveError, SelectorScopeError, SelectorSyntaxError

MODELS_OF_ALL_KINDS = models()


def located(expression, made, choice):
    """Mix one of a model's own paths into an expression, for some choices."""
    paths = [*made.tree.paths[1:], *made.tree.names]
    if not paths or choice % 4:
        return expression
    here = Path(tuple(map(Segment, paths[choice % len(paths)].split("."))), quoted=True)
    return (Either, Both, Without)[choice % 3](expression, here)


def law(count):
    """Run a test on random models, each with some expressions that have a value in it."""

    def decorate(function):
        parts = st.lists(TOTAL_EXPRESSIONS, min_size=count, max_size=count)

        @settings(max_examples=60, deadline=None)
        @given(MODELS_OF_ALL_KINDS, parts, st.integers(0, 999))
        def run(root, parts, choice):
            made = spec(root)
            function(made, *(located(part, made, choice + n) for n, part in enumerate(parts)))

        run.__name__ = function.__name__
        return run

    return decorate


def same(made, one, other):
    assert np.array_equal(evaluate(one, made), evaluate(other, made))


@law(2)
def test_de_morgan(made, a, b):
    same(made, OtherThan(Either(a, b)), Both(OtherThan(a), OtherThan(b)))
    same(made, OtherThan(Both(a, b)), Either(OtherThan(a), OtherThan(b)))


@law(1)
def test_a_set_and_its_complement_are_everything_and_nothing_twice(made, a):
    assert evaluate(Either(a, OtherThan(a)), made).all()
    assert not evaluate(Both(a, OtherThan(a)), made).any()
    same(made, OtherThan(OtherThan(a)), a)


@law(1)
def test_idempotence(made, a):
    same(made, Either(a, a), a)
    same(made, Both(a, a), a)
    assert not evaluate(Without(a, a), made).any()


@law(2)
def test_commutativity(made, a, b):
    same(made, Either(a, b), Either(b, a))
    same(made, Both(a, b), Both(b, a))


@law(3)
def test_associativity(made, a, b, c):
    same(made, Either(Either(a, b), c), Either(a, Either(b, c)))
    same(made, Both(Both(a, b), c), Both(a, Both(b, c)))


@law(3)
def test_distributivity(made, a, b, c):
    same(made, Both(a, Either(b, c)), Either(Both(a, b), Both(a, c)))
    same(made, Either(a, Both(b, c)), Both(Either(a, b), Either(a, c)))


@law(2)
def test_a_difference_is_what_is_in_one_and_not_in_the_other(made, a, b):
    same(made, Without(a, b), Both(a, OtherThan(b)))


@law(2)
def test_all_is_neutral_and_absorbing(made, a, b):
    everything = Word("all")
    same(made, Both(a, everything), a)
    same(made, Either(a, everything), everything)
    same(made, Either(a, Both(a, b)), a)


@law(1)
def test_text_and_value_select_the_same(made, a):
    same(made, parse(str(a)), a)


@law(1)
def test_python_operators_select_what_the_expressions_do(made, a):
    selector = Selector(str(a))
    assert np.array_equal(evaluate((~selector).expression, made), ~evaluate(a, made))
    union = (selector | "norm").expression
    assert np.array_equal(evaluate(union, made), evaluate(a, made) | evaluate(Word("norm"), made))


def outcome(expression, made, prefix=""):
    """The names an expression selects, or the error it raises."""
    try:
        return {name.removeprefix(prefix) for name in names(expression, made)}
    except ResolveError as error:
        return type(error)


INSIDE = (*TOTAL, "blocks", "blocks[0]", "blocks[-1:]", "stages[0]", "encoder", "children[0]")
INSIDE += ("params[:50%]",)


@settings(max_examples=150, deadline=None)
@given(models(repeats=False), st.data())
def test_an_expression_in_a_module_is_its_value_on_the_module_cut_out(root, data):
    made = spec(root)
    path = data.draw(st.sampled_from(made.tree.paths[1:] or [""]))
    alone = spec(node_at(root, path))
    expression = parse(data.draw(st.sampled_from(INSIDE)))
    inside = outcome(Within(expression, path), made, f"{path}." if path else "")
    assert inside == outcome(expression, alone)


@settings(max_examples=60, deadline=None)
@given(models(), st.data())
def test_the_cut_out_tree_of_a_module_knows_its_names_and_tensors(root, data):
    made = tree(root)
    number = data.draw(st.integers(0, len(made.paths) - 1))
    part, numbers, tensors = made.subtree(number)
    path = made.paths[number]
    assert [f"{path}.{name}" if path else name for name in part.names] == [
        made.names[n] for n in numbers
    ]
    assert [part.tensors[t] for t in part.tensor_of] == [
        made.tensors[made.tensor_of[n]] for n in numbers
    ]
    assert [tensors[t] for t in part.tensor_of] == [made.tensor_of[n] for n in numbers]
    assert len(derive(part)) == len(tensors)


@settings(max_examples=60, deadline=None)
@given(models())
def test_zones_part_a_model_without_overlap(root):
    made = spec(root)
    found = [evaluate(Word(word), made) for word in ("stem", "neck", "head")]
    assert np.sum(found, axis=0).max(initial=0) <= 1
    if made.runs:
        blocks = evaluate(Word("blocks"), made)
        assert not (blocks & np.any(found, axis=0)).any()


@settings(max_examples=60, deadline=None)
@given(models())
def test_kinds_part_a_model_without_overlap(root):
    made = spec(root)
    kinds = ("conv", "linear", "embedding", "norm", "adapter")
    assert np.sum([evaluate(Word(kind), made) for kind in kinds], axis=0).max(initial=0) <= 1


@settings(max_examples=40, deadline=None)
@given(models(), st.integers(0, 100))
def test_a_share_of_params_and_the_rest_are_all_of_them(root, share):
    made = spec(root)
    first, rest = (evaluate(parse(t), made) for t in (f"params[:{share}%]", f"params[{share}%:]"))
    tensors = [set(made.atoms.tensor[mask]) for mask in (first, rest)]
    assert not tensors[0] & tensors[1]
    assert (first | rest).all()


def test_stages_of_blocks_in_one_list_are_refused_until_a_forward_pass_shows_them():
    made = module("Net", blocks=stack(*(bottleneck(8, 8) for _ in range(4))))
    with pytest.raises(SelectorScopeError, match=r"stages\[-1\].*4 blocks stand in one list"):
        evaluate(parse("stages[-1]"), spec(made))
    calls = [f"blocks.{n}" for n in range(4)]
    maps = {name: (1, 8, 8 if n < 3 else 4, 8 if n < 3 else 4) for n, name in enumerate(calls)}
    traced = spec(made, calls=calls, shapes=maps)
    selected = evaluate(parse("stages[-1]"), traced)
    assert np.array_equal(selected, evaluate(parse("blocks[3]"), traced))
    assert selected.any()


def test_a_selector_too_long_to_work_on_is_refused():
    with pytest.raises(SelectorSyntaxError, match="of 5000 operands is too long"):
        parse(" | ".join(f"path{n}" for n in range(5000)))
    assert parse('re:"' + "|".join(map(str, range(5000))) + '"')
