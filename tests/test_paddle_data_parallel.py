"""Plans under `paddle.DataParallel`, in two processes that the tests start."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.paddle_processes import in_processes
from tests.support.paddle_ranks import data_parallel

PLACE = "tests.support.paddle_ranks.data_parallel"


@pytest.fixture(scope="module")
def both() -> list[dict[str, Any]]:
    """What two processes had after each step of every run."""
    return in_processes(f"{PLACE}:together")


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """What one process had that averages the shards of two."""
    return data_parallel.alone()


@pytest.mark.parametrize("name", [run.__name__ for run in data_parallel.RUNS])
def test_processes_agree_at_every_step_and_with_one_that_averages_the_shards(
    name: str, both: list[dict[str, Any]], one: dict[str, Any]
) -> None:
    assert isinstance(one[name], list), one[name]
    assert isinstance(both[0][name], list), both[0][name]
    assert both[0][name] == both[1][name]
    assert both[0][name] == one[name]


def test_steps_of_a_head_phase_send_at_most_a_hundredth(both: list[dict[str, Any]]) -> None:
    for process in both:
        sent = process["traffic"]
        assert 0 < sent["head"] <= sent["all"] / 100


@pytest.mark.slow
def test_memory_stays_flat_over_two_hundred_changes() -> None:
    for process in in_processes(f"{PLACE}:many_changes"):
        assert process["equal"]
        memory = process["memory"]
        assert memory[-1] < memory[2] * 1.05
