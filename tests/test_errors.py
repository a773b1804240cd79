"""Errors: one tree, one shape (fact, context, hint), and whole on the other side of a process."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

import unifreeze
from unifreeze import errors
from unifreeze.errors import (
    FrozenDriftError,
    ParityError,
    PlanFileError,
    SelectorSyntaxError,
    UnifreezeError,
    UnifreezeWarning,
    brief,
    counted,
    listing,
    nearest,
)

ALL = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and value.__module__ == errors.__name__
]
ERRORS = [kind for kind in ALL if issubclass(kind, Exception) and not issubclass(kind, Warning)]
IDS = [kind.__name__ for kind in ERRORS]


def drawn_tree():
    """Each class in the docstring's drawing with the one it hangs on."""
    parents, above = {}, {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"^ {4}((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)", line)
        if match:
            depth = len(match[1]) // 4
            above[depth] = match[2]
            parents[match[2]] = above.get(depth - 1)
    return parents


def test_the_tree_that_is_drawn_is_the_tree_of_classes():
    real = {
        kind.__name__: next(
            (b.__name__ for b in kind.__bases__ if issubclass(b, UnifreezeError)), None
        )
        for kind in ERRORS
    }
    assert drawn_tree() == real


@pytest.mark.parametrize("kind", ERRORS, ids=IDS)
def test_every_error_derives_from_one_base(kind):
    assert issubclass(kind, UnifreezeError)
    assert kind.__doc__.strip()


def test_every_error_that_is_public_is_of_the_tree():
    public = [getattr(unifreeze, name) for name in unifreeze.__all__ if name.endswith("Error")]
    assert set(public) == {FrozenDriftError, UnifreezeError}


def test_no_other_module_of_the_core_makes_errors_of_its_own():
    from pathlib import Path

    root = Path(errors.__file__).parent
    others = [file for file in root.rglob("*.py") if file.name != "errors.py"]
    found = [
        f"{file.name}: {line}"
        for file in others
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*class \w+\(.*(?:Error|Exception|Warning)\b.*\)", line)
    ]
    assert not found


def make(kind):
    if kind is PlanFileError:
        return kind("plan.yaml", ["line 2: rules: one", "line 3: groups: two"])
    return kind("a fact", context="what was there\nand more", hint="what to write")


@pytest.mark.parametrize(
    "kind", [k for k in ERRORS if k is not PlanFileError], ids=lambda k: k.__name__
)
def test_a_message_is_fact_context_and_hint(kind):
    error = make(kind)
    assert str(error).splitlines() == [
        "a fact",
        "  what was there",
        "  and more",
        "  hint: what to write",
    ]
    assert (error.fact, error.hint) == ("a fact", "what to write")


def test_context_and_hint_may_be_missing():
    assert str(UnifreezeError("a fact")) == "a fact"
    assert str(UnifreezeError("a fact", hint="do it")) == "a fact\n  hint: do it"


def test_a_file_s_mistakes_are_counted_and_listed():
    error = make(PlanFileError)
    assert error.mistakes == ("line 2: rules: one", "line 3: groups: two")
    assert str(error).splitlines() == [
        "plan.yaml: 2 mistakes",
        "  line 2: rules: one",
        "  line 3: groups: two",
    ]
    assert str(PlanFileError("plan.yaml", ["one"])).startswith("plan.yaml: 1 mistake\n")


@pytest.mark.parametrize("kind", ERRORS, ids=IDS)
def test_an_error_is_whole_after_pickling(kind):
    error = make(kind)
    error.note = [1, 2]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_what_drifted_survives_pickling():
    error = FrozenDriftError("2 tensors changed")
    assert error.drifts == ()
    error.drifts = ("a", "b")
    assert pickle.loads(pickle.dumps(error)).drifts == ("a", "b")


def test_lack_of_parity_fails_a_test_as_an_assertion_does():
    assert issubclass(ParityError, AssertionError)


def test_warnings_are_no_errors():
    assert issubclass(UnifreezeWarning, UserWarning)
    assert not issubclass(UnifreezeWarning, UnifreezeError)


def test_an_error_raised_while_parsing_carries_all_three_parts():
    with pytest.raises(SelectorSyntaxError) as caught:
        unifreeze.Selector("head and norm")
    assert caught.value.fact
    assert caught.value.context
    assert caught.value.hint
    assert isinstance(caught.value, UnifreezeError)


def test_the_nearest_names_come_best_first_and_far_ones_not_at_all():
    assert nearest("bakbone", ["head", "backbones", "backbone"])[:1] == ["backbone"]
    assert nearest("bakbone", ["head", "norm"]) == []
    assert len(nearest("aaa", ["aaa1", "aaa2", "aaa3"], limit=2)) == 2


def test_a_listing_is_cut_and_says_how_many_are_left_out():
    assert listing("abc") == "a, b, c"
    assert listing("abcdefgh", limit=6) == "a, b, c, d, e, f, … (2 more)"
    assert listing(iter("ab"), limit=2) == "a, b"
    assert listing([]) == ""


def test_long_lines_of_a_message_are_cut_and_its_parts_are_not():
    error = UnifreezeError("a" * 5000, context="b" * 5000 + "\nshort", hint="c" * 5000)
    assert max(map(len, str(error).splitlines())) <= errors.LONGEST_LINE + 2
    assert len(str(error).splitlines()) == 4
    assert (len(error.fact), len(error.hint)) == (5000, 5000)
    assert "short" in str(error)


class Speaking:
    """What says a lot of itself."""

    def __repr__(self):
        raise AssertionError("nobody asked")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Speaking(), "a Speaking"),
        ([Speaking(), 1], "[a Speaking, 1]"),
        (Speaking, "the class Speaking"),
        ({"a": {"b": {"c": 1}}}, "{'a': {'b': {…}}}"),
        ("line\nline", "'line\\nline'"),
        (list(range(10**6)), "[0, 1, 2, 3, 4, 5, …]"),
        (True, "True"),
        (None, "None"),
    ],
)
def test_values_are_written_short_and_without_their_own_words(value, text):
    assert brief(value) == text
    assert len(brief("x" * 10**6)) <= 80


def test_a_number_stands_with_its_noun_as_it_is_said():
    assert [counted(n, "tensor") for n in (0, 1, 2)] == ["0 tensors", "1 tensor", "2 tensors"]
    assert counted(2, "process") == "2 processes"
    assert counted(1, "tensor differs", "tensors differ") == "1 tensor differs"
