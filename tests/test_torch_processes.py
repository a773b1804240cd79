"""PyTorch: phases change in several processes, under everything that exchanges gradients."""

from __future__ import annotations

import pytest

from tests.support import torch_processes as runs
from tests.support.processes import in_processes


@pytest.fixture(scope="module")
def references():
    return {compiled: in_processes(runs.reference, 1, compiled)[0] for compiled in (False, True)}


@pytest.fixture(scope="module")
def trained():
    """What two processes end up with, for every engine: one pair of processes runs them all."""
    return in_processes(runs.runs, 2, [*runs.ENGINES, *runs.LOSSY], timeout=240)


def test_the_plan_has_a_refreeze_a_measured_and_a_metric_driven_phase(references):
    assert references[False][0] == runs.NAMES
    assert references[False][1][2] != references[False][1][3]


@pytest.mark.parametrize("engine", runs.ENGINES)
def test_two_processes_train_as_one_that_averages_their_gradients(engine, trained, references):
    first, second = (ranks[engine] for ranks in trained)
    assert first == second
    assert first == references[engine in runs.COMPILED]


@pytest.mark.parametrize("engine", runs.LOSSY)
def test_ranks_stay_equal_where_the_engine_itself_rounds(engine, trained):
    first, second = (ranks[engine] for ranks in trained)
    assert first == second
    assert first[0] == runs.NAMES
