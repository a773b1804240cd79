"""Selectors as text and as Python values: what parses, what is refused, and what is equal."""

from __future__ import annotations

import pickle
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_models import EXPRESSIONS
from unifreeze._plan.selectors import WORDS, Path, Selector, Word, parse
from unifreeze._plan.selectors.expression import (
    Both,
    Bound,
    Either,
    Index,
    OtherThan,
    Quoted,
    Segment,
    Size,
    Within,
    Without,
)
from unifreeze.errors import ArgumentError, SelectorSyntaxError

A, B, C, D = (Path((Segment(letter),)) for letter in "abcd")


# The grammar --------------------------------------------------------------------------------


def index(start=None, stop=None, *, single=False):
    def bound(given):
        if given is None:
            return None
        percent = isinstance(given, str)
        return Bound(Fraction(given.rstrip("%") if percent else given), percent)

    return Index(bound(start), bound(stop), single)


FORMS = {
    "all": Word("all"),
    "tied": Word("tied"),
    "head": Word("head"),
    "blocks": Word("blocks"),
    "blocks[0]": Word("blocks", index(0, single=True)),
    "blocks[-1]": Word("blocks", index(-1, single=True)),
    "blocks[:10]": Word("blocks", index(None, 10)),
    "blocks[-2:]": Word("blocks", index(-2)),
    "blocks[2:5]": Word("blocks", index(2, 5)),
    "blocks[:]": Word("blocks", index()),
    "blocks[:50%]": Word("blocks", index(None, "50%")),
    "blocks[12.5%:]": Word("blocks", index("12.5%")),
    "stages[3]": Word("stages", index(3, single=True)),
    "layers[1]": Word("layers", index(1, single=True)),
    "encoder[:6]": Word("encoder", index(None, 6)),
    "decoder[-1]": Word("decoder", index(-1, single=True)),
    "children[0]": Word("children", index(0, single=True)),
    "params[:70%]": Word("params", index(None, "70%")),
    "layer4": Path((Segment("layer4"),)),
    "head.weight": Path((Segment("head"), Segment("weight"))),
    "encoder.layers[0:10]": Path((Segment("encoder"), Segment("layers", index(0, 10)))),
    "a[1].b[-1].c": Path(
        (Segment("a", index(1, single=True)), Segment("b", index(-1, single=True)), Segment("c"))
    ),
    "**.bias": Path((Segment("**"), Segment("bias"))),
    "layer?.*.conv1": Path((Segment("layer?"), Segment("*"), Segment("conv1"))),
    "0": Path((Segment("0"),)),
    'path:"norm"': Path((Segment("norm"),), quoted=True),
    'path:"a-b.c d"': Path((Segment("a-b"), Segment("c d")), quoted=True),
    're:".*\\.bias"': Quoted("re", ".*\\.bias"),
    'type:"BatchNorm2d"': Quoted("type", "BatchNorm2d"),
    'at:"blocks.3/linear.*"': Quoted("at", "blocks.3/linear.*"),
    "size(> 1000000)": Size(">", 1e6),
    "size(<= 0.5)": Size("<=", 0.5),
    "a | b": Either(A, B),
    "a & b": Both(A, B),
    "a - b": Without(A, B),
    "~a": OtherThan(A),
    "blocks[-4:] in language_model": Within(Word("blocks", index(-4)), "language_model"),
    'head in path:"a-b"': Within(Word("head"), "a-b"),
    "(a | b) in student": Within(Either(A, B), "student"),
}


@pytest.mark.parametrize("text", FORMS)
def test_every_form_parses(text):
    assert parse(text) == FORMS[text]


@pytest.mark.parametrize("text", FORMS)
def test_every_form_is_written_back_as_it_stands(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize("word", sorted(WORDS))
def test_every_word_of_the_vocabulary_parses_as_that_word(word):
    text = f"{word}[0]" if word in ("children", "params") else word
    assert parse(text).name == word


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a|b", "a | b"),
        ("blocks[ -2 : ]", "blocks[-2:]"),
        ("size(>1e6)", "size(> 1000000)"),
        ("size ( >= 10 )", "size(>= 10)"),
        ("re :'a'", 're:"a"'),
        ("  head\n", "head"),
        ("((a))", "a"),
        ("~ ~a", "~~a"),
        ("blocks[:50.0%]", "blocks[:50%]"),
    ],
)
def test_spelling_variants_mean_the_same(text, same):
    assert parse(text) == parse(same)
    assert str(parse(text)) == same


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS)
def test_what_is_written_reads_back_equal(expression):
    assert parse(str(expression)) == expression


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("a | b & c", Either(A, Both(B, C))),
        ("a & b | c", Either(Both(A, B), C)),
        ("a & b - c", Both(A, Without(B, C))),
        ("a - b & c", Both(Without(A, B), C)),
        ("~a & b", Both(OtherThan(A), B)),
        ("~a - b", Without(OtherThan(A), B)),
        ("~(a | b)", OtherThan(Either(A, B))),
        ("a | b | c", Either(Either(A, B), C)),
        ("a - b - c", Without(Without(A, B), C)),
        ("a - (b - c)", Without(A, Without(B, C))),
        ("(a | b) & c", Both(Either(A, B), C)),
        ("a & b in c", Both(A, Within(B, "c"))),
        ("~a in c", OtherThan(Within(A, "c"))),
        ("a in b in c", Within(Within(A, "b"), "c")),
        ("a - b in c", Without(A, Within(B, "c"))),
    ],
)
def test_precedence_is_pythons_and_in_binds_tightest(text, expression):
    assert parse(text) == expression


@given(st.recursive(st.sampled_from("abcd"), lambda s: st.one_of(
    st.tuples(s, st.sampled_from("|&-"), s).map(" ".join),
    s.map("~{}".format), s.map("({})".format)), max_leaves=8))  # fmt: skip
def test_an_expression_means_what_python_makes_of_it(text):
    values = {letter: Selector(letter) for letter in "abcd"}
    assert Selector(text) == eval(text, {}, values)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("head |", "it ends too early"),
        ("(head", "it ends too early"),
        ("head in", "it ends too early"),
        ("~", "it ends too early"),
        ("| head", "cannot go on at '|'"),
        ("head & & norm", "cannot go on at '&'"),
        ("a b", "cannot go on at 'b'"),
        ("blocks[1", "cannot go on at '[1'"),
        ("size(>)", "cannot go on at ')'"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("head[0]", "'head' takes no index"),
        ("children", "'children' needs an index"),
        ("params", "'params' needs an index"),
        ("blocks[]", "neither a position nor a slice"),
        ("blocks[1:2:3]", "neither a position nor a slice"),
        ("blocks[a]", "neither a whole number"),
        ("blocks[1.5]", "neither a whole number"),
        ('re:"("', "does not compile"),
        ('head in type:"A"', "after 'in' stands a module"),
        ("rows(0:3)", "is not a selector in quotes, a comma, and a slice"),
        ('rows("head", 3)', "is not a slice of rows"),
        ('rows("head", 1:2:3)', "is not a slice of rows"),
        ('rows("head", :50%)', "is not a slice of rows"),
        ('rows("", 1:)', "is empty"),
        ("rows(\"rows('a', 1:)\", 1:)", "holds rows of rows"),
        ('weight & rows("head", 0:3)', "is not a part of an expression"),
        ('~rows("head", 0:3)', "is not a part of an expression"),
        ('rows("head", 0:3) in model', "is not a part of an expression"),
    ],
)
def test_what_does_not_parse_is_refused_with_the_reason(text, fact):
    with pytest.raises(SelectorSyntaxError, match=re.escape(fact)):
        parse(text)


def test_a_syntax_error_points_at_the_place():
    with pytest.raises(SelectorSyntaxError) as caught:
        parse("head & & norm")
    assert caught.value.context.splitlines() == ["head & & norm", "       ^"]
    with pytest.raises(SelectorSyntaxError) as caught:
        parse("head |")
    assert caught.value.context.splitlines() == ["head |", "      ^"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("head and norm", "write & for and"),
        ("not head", "write & for and"),
        ("head, norm", "join alternatives with |"),
        ("^layer.*$", 'a regular expression is written re:"…"'),
        ("blocks.0/linear.0", 'a canonical name at:"…"'),
    ],
)
def test_a_syntax_error_hints_at_what_was_meant(text, hint):
    with pytest.raises(SelectorSyntaxError) as caught:
        parse(text)
    assert hint in caught.value.hint


def test_a_word_of_another_language_is_just_a_path():
    assert parse("größe") == Path((Segment("größe"),))


# Selectors in Python ------------------------------------------------------------------------


def test_operators_build_what_the_text_says():
    a, b = Selector("a"), Selector("b")
    assert a | b == Selector("a | b")
    assert a & b == Selector("a & b")
    assert a - b == Selector("a - b")
    assert ~a == Selector("~a")
    assert (a | b).within("student") == Selector("(a | b) in student")


def test_either_side_of_an_operator_may_be_text():
    a = Selector("a")
    assert a | "b" == Selector("a | b")
    assert "b" | a == Selector("b | a")
    assert "b" & a == Selector("b & a")
    assert "b" - a == Selector("b - a")


def test_equal_selectors_hash_equal_and_survive_pickling():
    one, other = Selector("head | blocks[-2:]"), Selector("head|blocks[ -2:]")
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert Selector("head") != "head"


def test_a_selector_cannot_be_changed():
    selector = Selector("head")
    with pytest.raises(AttributeError, match="cannot be changed"):
        selector.expression = parse("norm")
    with pytest.raises(AttributeError):
        del selector.expression
    assert str(selector) == "head"


def test_a_selector_is_made_of_text_alone():
    with pytest.raises(ArgumentError, match=r"text is \['head'\], and should be a selector"):
        Selector(["head"])
