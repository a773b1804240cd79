"""Positions of blocks in a row, as captured plans write them."""

from itertools import combinations

import numpy as np
import pytest

from unifreeze._authoring.capture.unit_sequences import UnitSequence, index_of
from unifreeze._plan.selectors import Word

LENGTH = 5


@pytest.mark.parametrize("length", range(1, LENGTH + 1))
def test_an_index_takes_exactly_the_run_that_it_was_written_for(length):
    for start, stop in combinations(range(length + 1), 2):
        text = str(Word("blocks", index_of(start, stop, length))).removeprefix("blocks")
        units = eval(f"list(range(length)){text}", {"length": length})
        assert (units if isinstance(units, list) else [units]) == list(range(start, stop)), text


def sequence(*units):
    return UnitSequence("blocks", "", 4, np.asarray(units), 1.2)


def test_a_uniform_run_is_as_long_as_its_decisions_are_one():
    units = sequence(-1, 0, 1, 2, 3)
    wanted = np.asarray([True, False, False, True, False])
    runs = set(units.uniform(wanted, units.inside))
    assert runs == {(0, 2), (2, 3), (3, 4)}


def test_runs_are_alike_where_names_with_one_tail_have_one_decision():
    units = sequence(0, 0, 1, 1, 2, 2, 3, 3)
    wanted = np.asarray([True, False, True, False, False, False, False, False])
    tails = np.asarray([0, 1] * 4)
    assert list(units.alike(wanted, tails)) == [(0, 2), (2, 4)]


def test_of_two_runs_the_shorter_costs_less_and_all_costs_least():
    units = sequence(0, 1, 2, 3)
    whole, one, three = units.pick(0, 4), units.pick(0, 1), units.pick(0, 3)
    assert whole.cost < one.cost < three.cost
    assert [str(c.expression) for c in (whole, one, three)] == ["blocks", "blocks[0]", "blocks[:3]"]
