"""Rows of a table in several processes: ranks stay equal, and shards are refused."""

import pytest

from tests.support import paddle_processes
from tests.support import table_rows_in_processes as runs
from tests.support.processes import in_processes

PLACE = "tests.support.table_rows_in_processes"
NAMES = [f"{name}, plan {when}" for name in runs.TORCH for when in ("before", "after")]


@pytest.fixture(scope="module")
def torch_runs():
    return in_processes(runs.torch_together, 2, timeout=240), in_processes(runs.torch_alone, 1)[0]


@pytest.fixture(scope="module")
def paddle_runs():
    together = paddle_processes.in_processes(f"{PLACE}:paddle_together")
    return together, paddle_processes.in_processes(f"{PLACE}:paddle_alone", 1)[0]


@pytest.mark.parametrize("name", NAMES)
def test_ranks_train_the_same_rows_under_ddp(name, torch_runs):
    (first, second), alone = torch_runs
    assert first[name] == second[name] == alone
    assert alone["moved"] == list(range(6, 12))


@pytest.mark.parametrize("name", ["plan before", "plan after"])
def test_ranks_train_the_same_rows_under_data_parallel(name, paddle_runs):
    (first, second), alone = paddle_runs
    assert first[name] == second[name] == alone
    assert alone["moved"] == list(range(6, 12))


@pytest.mark.parametrize("name", ["shards first", "shards after", "shards and an optimizer"])
def test_rows_of_a_divided_table_are_refused(name, torch_runs):
    for rank in torch_runs[0]:
        assert "processes have divided the model" in rank[name]
