"""PyTorch: where a communication hook rounds, a run differs by no more than that makes it.

A step of SGD moves parameters by the rate times what the hook has rounded away. The gradients of
later steps are taken at the moved place; over these steps that at most doubles the distance.
"""

from __future__ import annotations

from math import dist

import pytest

from tests.support import lossy_hooks as hooks
from tests.support.processes import in_processes

LOSSY = [name for name in hooks.HOOKS if name != "none"]


@pytest.fixture(scope="module")
def seen():
    return in_processes(hooks.every, 2, timeout=150)


def test_a_hook_that_does_not_round_is_measured_so(seen):
    assert max(seen[0]["none"][1]) == 0


@pytest.mark.parametrize("name", LOSSY)
def test_ranks_are_equal_and_the_end_is_within_twice_what_the_hook_has_rounded(name, seen):
    (values, rounded, bits), (_, _, other_bits) = (rank[name] for rank in seen)
    assert bits == other_bits
    distance = dist(values, seen[0]["none"][0])
    assert 0 < distance <= 2 * hooks.RATE * sum(rounded)
