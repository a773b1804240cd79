"""Selectors that are too long, too deep, or that other matchers would never finish."""

from __future__ import annotations

import re
import signal
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.trees import linear, module
from tests.support.trees import spec as spec_of
from unifreeze import FreezePlan, Selector
from unifreeze._plan.selectors import evaluate, regular_expressions
from unifreeze._plan.selectors.expression import MOST_OPERANDS, nodes
from unifreeze._plan.selectors.globs import glob_pattern
from unifreeze._plan.selectors.parse import LONGEST_NAME, MOST_CHARACTERS, parse
from unifreeze._plan.selectors.regular_expressions import matching
from unifreeze._resolution import resolve_spec
from unifreeze.errors import ResolveError, SelectorSyntaxError, UnmatchedSelectorError


@contextmanager
def stopped_after(seconds):
    """Fail where something does not end: seconds of this process, however slow the machine is."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


PIECES = st.text("ab*?", min_size=1, max_size=5).map(lambda text: re.sub(r"\*+", "*", text))
GLOBS = st.lists(PIECES | st.just("**"), min_size=1, max_size=6)
NAMES = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=7).map(".".join)


def matches_slowly(glob: list[str], name: list[str]) -> bool:
    """Match a glob by trying everything: what `glob_pattern` must agree with."""
    if not glob:
        return not name
    if glob[0] == "**" and len(glob) == 1:
        return bool(name)
    if glob[0] == "**":
        return any(matches_slowly(glob[1:], name[at:]) for at in range(len(name) + 1))
    if not name:
        return False
    letters = {"*": "[^.]*", "?": "."}
    piece = "".join(letters.get(letter, letter) for letter in glob[0])
    return bool(re.fullmatch(piece, name[0])) and matches_slowly(glob[1:], name[1:])


@settings(max_examples=2000, deadline=None)
@given(GLOBS, NAMES)
def test_a_glob_without_backtracking_matches_what_a_slow_one_matches(glob, name):
    segments = name.split(".")
    wanted = any(matches_slowly(glob, segments[:length]) for length in range(1, len(segments) + 1))
    assert bool(re.fullmatch(glob_pattern(glob) + r"(?:\..*)?", name)) == wanted


@pytest.mark.parametrize(
    ("glob", "name"),
    [
        (["**"] * 50 + ["zzz"], ".".join("a" * 400)),
        (["**", "a"] * 50 + ["zzz"], ".".join("a" * 400)),
        (["*a" * 60 + "*c"], "a" * 400),
        (["**", *["a*"] * 40, "zzz"], ".".join(["ab"] * 400)),
        (["*?*a" * 30 + "c", "**", "x"] * 3, ".".join(["a" * 60] * 8)),
    ],
)
def test_a_glob_of_many_stars_comes_back(glob, name):
    with stopped_after(60):  # one that backtracks takes years
        assert not re.fullmatch(glob_pattern(glob) + r"(?:\..*)?", name)


def test_a_regular_expression_that_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr(regular_expressions, "MOST_SECONDS", 0.05)
    with pytest.raises(ResolveError, match="takes more than") as caught:
        matching(r"(?:a|aa|a?a)+(?:a|aa|a?a)+(?:a|aa|a?a)+z?\d", ["a" * 5000])
    assert "repetition" in caught.value.hint


def test_hints_for_a_regular_expression_are_stopped_too(monkeypatch):
    monkeypatch.setattr(regular_expressions, "MOST_SECONDS", 0.05)
    slow = r"(?:a|aa|a?a)+(?:a|aa|a?a)+(?:a|aa|a?a)+z?\d"
    spec = spec_of(module("Net", **{"b": linear(2, 2), "a" * 2000: linear(2, 2)}))
    with pytest.raises(UnmatchedSelectorError):
        # The whole name begins with b, so that only the search of the hints is slow.
        evaluate(parse(f're:"(?:b|c){slow}"'), spec)


def parts_of(kind: str, count: int) -> str:
    """Return a selector with `count` operands."""
    if kind == "~":
        return "~" * (count - 1) + "all"
    if kind == "in":
        return "all" + " in a" * (count - 1)
    if kind == "(":
        return "(" * count + "all" + ")" * count
    return f" {kind} ".join(["all"] * count)


@pytest.mark.parametrize("kind", ["|", "&", "-", "~", "in", "("])
def test_one_limit_holds_for_every_way_to_make_a_selector_large(kind):
    selector = Selector(parts_of(kind, MOST_OPERANDS))
    assert parse(str(selector)) == selector.expression
    assert len(list(nodes(selector.expression))) <= 2 * MOST_OPERANDS
    hash(selector)
    with pytest.raises(SelectorSyntaxError, match="too long"):
        Selector(parts_of(kind, MOST_OPERANDS + 1))


def test_selectors_that_python_joins_have_the_same_limit():
    selector = Selector("head")
    for _ in range(MOST_OPERANDS - 1):
        selector = selector | "norm"
    assert Selector(str(selector)) == selector
    for enlarge in (lambda: selector | "norm", lambda: ~selector, lambda: selector.within("a")):
        with pytest.raises(SelectorSyntaxError, match="too long"):
            enlarge()


HUGE = "9" * 5000


@pytest.mark.parametrize(
    "text",
    [
        f"blocks[{HUGE}]",
        f"blocks[:{HUGE}%]",
        f"blocks[:5.{HUGE}%]",
        f"a.layers[-{HUGE}].b",
        f"size(> {HUGE})",
        "size(> 1e999999999)",
        "size(> 1e300)",
        're:"a{99999999999999}"',
        "(" * 500 + "head" + ")" * 500,
        "|".join(["head"] * 2000),
        "-".join(["head"] * 700),
        "a" * (MOST_CHARACTERS + 1),
        "\ud800",
        "blocks[\u0663]",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_what_is_too_large_is_an_error_in_one_short_message(text):
    with pytest.raises(SelectorSyntaxError) as caught:
        Selector(text)
    assert len(str(caught.value).encode()) < 2500


@pytest.mark.parametrize("by", ["at", "type"])
def test_the_longest_pattern_is_matched_and_a_longer_one_refused(by):
    model = spec_of(module("Net", a=linear(2, 2), b=linear(2, 2)))
    for part in ("[", "[!", "[a-", "*[", "a"):
        text = (part * LONGEST_NAME)[:LONGEST_NAME]
        with stopped_after(2), pytest.raises(UnmatchedSelectorError):
            evaluate(parse(f'{by}:"{text}"'), model)
        with pytest.raises(SelectorSyntaxError, match="1,001 characters is too long"):
            parse(f'{by}:"{text}a"')


@pytest.mark.parametrize("space", ["", " ", "\t", "\n", "\u3000", " \r\n"])
@pytest.mark.parametrize("by", ["re", "type", "at", "path"])
def test_any_space_may_stand_before_a_colon(by, space):
    assert parse(f'{by}{space}:{space}"a.*"') == parse(f'{by}:"a.*"')


def test_the_longest_selector_is_read():
    text = "a" * MOST_CHARACTERS
    assert str(Selector(text)) == text
    assert FreezePlan().freeze(text).rules[0].verb == "freeze"


def test_slow_expressions_are_limited_together(monkeypatch):
    """Each takes less than it may; the clock goes on by 0.2 s whenever it is read."""
    now = iter(range(10**6))
    monkeypatch.setattr(regular_expressions, "monotonic", lambda: next(now) / 5)
    model = spec_of(module("Net", a=linear(2, 2), b=linear(2, 2)))
    plan = FreezePlan()
    for number in range(20):
        plan = plan.freeze(f're:".*|{number}"')
    with pytest.raises(ResolveError, match=r"expressions take more than 4\.0 s together on \d+"):
        resolve_spec(plan, model)
    assert next(now) / 5 < 6
    assert resolve_spec(FreezePlan().freeze('re:"a.*"'), model).frozen_paths
