"""Plans that a few hundred characters make huge, and plans that are huge: refused in time."""

from __future__ import annotations

from functools import reduce

import pytest

from unifreeze import FreezePlan
from unifreeze._plan.limits import (
    DEEPEST,
    LARGEST_NUMBER,
    MOST_CHARACTERS,
    MOST_PERIODS,
    MOST_PHASES,
    MOST_VALUES,
    beyond_limits,
)
from unifreeze._plan.yaml_text import read_yaml
from unifreeze.errors import MOST_MISTAKES, PlanError, PlanFileError

LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGES = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
HUGE = "9" * 5000

REFUSED = {
    "aliases": f"a0: &a0 [x]\n{LAUGHS}unifreeze: 1\n",
    "merge keys": f"a0: &a0 {{k: 1}}\n{MERGES}unifreeze: 1\n",
    "an alias of itself": "unifreeze: 1\nrules: &a {freeze: *a}\n",
    "a timestamp that is none": "unifreeze: !!timestamp x",
    "a timestamp": "unifreeze: !!timestamp 2001-01-01",
    "a truth value that is none": "unifreeze: !!bool x",
    "a number that is none": "unifreeze: !!float ''",
    "a whole number that is none": "unifreeze: !!int {a: b}",
    "a null with a tag": "unifreeze: !!null x",
    "binary data": "unifreeze: !!binary x",
    "a set": "unifreeze: !!set {a, b}",
    "pairs": "unifreeze: !!pairs [a: b]",
    "an ordered map": "unifreeze: !!omap [a: b]",
    "half a character": 'unifreeze: 1\nrules: [{freeze: "\\uD800"}]',
    "half a character in a key": 'unifreeze: 1\n"\\uD800": 1',
    "a character beyond Unicode": 'unifreeze: "\\UFFFFFFFF"',
    "a number of 5000 digits": f"unifreeze: {HUGE}",
    "a float of 5000 digits": f"unifreeze: 1\ngroups: [{{match: all, lr_scale: {HUGE}.0}}]",
    "a large count": f"unifreeze: 1\nphases: [{{name: a, lisa: {{seed: {2**63}}}}}]",
    "no count": "unifreeze: 1\nphases: [{name: a}, {name: b, after: {steps: }}]",
    "no epoch": "unifreeze: 1\nphases: [{name: a, at: {epoch: }}]",
    "no reports": "unifreeze: 1\nphases: [{name: a, when: {metric: m, stalled_for: }}]",
    "a key that is a list": "? [a, b]\n: 1\n",
    "a long selector": f"unifreeze: 1\nrules: [{{freeze: '{'-'.join('a' * 700)}'}}]",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_small_and_hostile_is_refused_in_a_short_message(text):
    with pytest.raises(PlanError) as caught:
        FreezePlan.from_yaml(text)
    assert len(str(caught.value)) < 1500
    str(caught.value).encode("utf-8")


def nested(depth, inner=1):
    return reduce(lambda value, _: [value], range(depth), inner)


def edges():
    """Yield the name of each limit, data at the limit, and data beyond it."""
    yield "depth", nested(DEEPEST), nested(DEEPEST + 1)
    yield "values", [1] * (MOST_VALUES - 1), [1] * MOST_VALUES
    yield "keys", {n: n for n in range(MOST_VALUES // 2 - 1)}, {n: n for n in range(MOST_VALUES)}
    yield "numbers", LARGEST_NUMBER, LARGEST_NUMBER + 1
    yield "characters", "a" * MOST_CHARACTERS, "a" * (MOST_CHARACTERS + 1)


@pytest.mark.parametrize(("limit", "at", "beyond"), edges(), ids=lambda v: str(v)[:10])
def test_each_limit_of_plain_data_is_tested_at_its_edge(limit, at, beyond):
    assert beyond_limits(at) == ""
    assert beyond_limits(beyond)
    with pytest.raises(PlanFileError) as caught:
        FreezePlan.from_document({"unifreeze": 1, "more": beyond})
    assert len(caught.value.mistakes) == 1, limit


def test_data_that_holds_itself_is_refused():
    data = {"unifreeze": 1, "rules": []}
    data["rules"].append(data)
    with pytest.raises(PlanFileError, match="nested too deeply"):
        FreezePlan.from_document(data)


def test_the_limits_of_a_text_are_tested_at_their_edge():
    assert read_yaml("[" * DEEPEST + "]" * DEEPEST)[0] == nested(DEEPEST - 1, [])
    assert len(read_yaml("#" * (MOST_CHARACTERS - 4) + "\n- a")[0]) == 1
    rows = "- a\n" * (MOST_VALUES - 1)
    assert len(read_yaml(rows)[0]) == MOST_VALUES - 1
    for text in ("[" * (DEEPEST + 2), "#" * (MOST_CHARACTERS + 1), rows + "- a\n"):
        with pytest.raises(ValueError, match="plan"):
            read_yaml(text)


def test_a_large_file_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "plan.yaml"
    with path.open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(PlanFileError, match="it has more than"):
        FreezePlan.load(path)


def test_the_number_of_phases_is_limited_also_where_a_generator_makes_them():
    phase = "  - {name: p%d, after: {steps: 1}, lr: 1}\n"

    def phases(count):
        rows = "".join(phase % number for number in range(1, count))
        return f"unifreeze: 1\nphases:\n  - {{name: p0}}\n{rows}"

    assert len(FreezePlan.from_yaml(phases(MOST_PHASES)).phases) == MOST_PHASES
    with pytest.raises(PlanFileError, match="at most 1000 items"):
        FreezePlan.from_yaml(phases(MOST_PHASES + 1))
    lisa = {"blocks": 1, "every": {"steps": 1}, "periods": MOST_PERIODS}
    assert FreezePlan().phase(lisa=lisa).phases
    with pytest.raises(PlanError, match="periods"):
        FreezePlan().phase(lisa={**lisa, "periods": MOST_PERIODS + 1})


def test_a_file_with_many_mistakes_counts_all_and_shows_the_first():
    text = "unifreeze: 1\nrules:\n" + "  - {frieze: head}\n" * 5000
    with pytest.raises(PlanFileError) as caught:
        FreezePlan.from_yaml(text)
    assert len(caught.value.mistakes) == 5000
    assert len(str(caught.value).splitlines()) == MOST_MISTAKES + 2
    assert "(4,900 more)" in str(caught.value)
