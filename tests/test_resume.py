"""Killed anywhere, a run with phases goes on to the same bits.

`python -m tests.support.killed torch adamw . --every` kills at every step.
"""

import pytest

from tests.support import killed

TIMELINE = {"head": 5, "top": 5, "all": 5, "head again": 6, "turned": 3, "rest": 6}


@pytest.fixture(scope="module")
def whole():
    kinds = [(framework, name) for framework in killed.RUNS for name in ("adamw", "sgd")]
    return {kind: killed.finished(*kind) for kind in kinds}


def test_every_phase_is_entered_at_the_same_steps_everywhere(whole):
    expected = [name for name, steps in TIMELINE.items() for _ in range(steps)]
    for text in whole.values():
        assert text.splitlines()[1:] == expected
    assert len({text.splitlines()[0] for text in whole.values()}) == 4


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("framework", list(killed.RUNS))
@pytest.mark.parametrize("step", range(0, killed.STEPS, 5))
def test_a_killed_run_ends_on_the_same_bits(framework, optimizer, step, whole):
    kills = ((step, False), (min(step + 3, killed.STEPS - 1), True))
    assert killed.finished(framework, optimizer, kills) == whole[framework, optimizer]
