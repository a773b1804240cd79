"""Paddle: processes that do different things are told, in time, under everything that exchanges."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.paddle_processes import in_processes
from tests.support.paddle_ranks import disagreeing

PLACE = "tests.support.paddle_ranks.disagreeing:every_run"
DIFFERENT = {
    "plans_differ": "the decisions written into it differ",
    "held_layers_differ": "the decisions written into it differ",
    "later_phases_differ": "they would not enter it alike",
    "epochs_differ": "call handle.step for different places",
}
ALONE = {
    "one_applies": (0, "rank 1 did not train under a plan just written"),
    "one_removes": (1, "rank 0 did not train under a plan just written"),
    "one_steps_into_a_phase": (0, "rank 1 did not call handle.step and enter a phase"),
    "one_steps_while_a_phase_waits": (1, "rank 0 did not call handle.step"),
}
"""Which process is alone in something, and what it is told."""


Told = dict[str, list[Any]]


@pytest.fixture(scope="module")
def told() -> Callable[[str, int], Told]:
    """Return a function of an engine and its shards: what both processes were told, by run."""

    @cache
    def by_run(engine: str, sharding: int) -> Told:
        both = in_processes(PLACE, engine=engine, sharding=sharding)
        return {name: [process[name] for process in both] for name in both[0]}

    return by_run


ENGINES = pytest.mark.parametrize(
    ("engine", "sharding"),
    [("DataParallel", 1), ("fleet", 2), pytest.param("fleet", 1, marks=pytest.mark.slow)],
)


def test_a_process_may_print_as_much_as_it_likes_while_others_wait_for_it(tmp_path: Path) -> None:
    place = "tests.support.paddle_processes:printed_much"
    assert in_processes(place, folder=str(tmp_path)) == [True, True]


@ENGINES
@pytest.mark.parametrize("run", DIFFERENT)
def test_processes_that_differ_are_all_told_by_rank(
    engine: str, sharding: int, run: str, told: Callable[[str, int], Told]
) -> None:
    for message, _ in told(engine, sharding)[run]:
        assert message.startswith("RanksError: 2 processes train")
        assert DIFFERENT[run] in message
        assert "\n  rank 0: " in message
        assert "\n  rank 1: " in message


@ENGINES
@pytest.mark.parametrize("run", ALONE)
def test_a_process_that_is_alone_is_told_when_its_time_is_over(
    engine: str, sharding: int, run: str, told: Callable[[str, int], Told]
) -> None:
    alone, text = ALONE[run]
    both = told(engine, sharding)[run]
    message, seconds = both[alone]
    assert text in message
    assert seconds >= disagreeing.SECONDS
    assert both[1 - alone] == ["", 0.0]


@ENGINES
def test_the_first_process_decides_by_its_metric_and_the_others_are_told_once(
    engine: str, sharding: int, told: Callable[[str, int], Told]
) -> None:
    """They had been alone before, and meet again."""
    first, second = told(engine, sharding)["metrics"]
    assert first["phases"] == second["phases"] == ["head", "head", "head", "all", "all"]
    assert first["after"] == second["after"]
    assert first["said"] == []
    assert [text.split(":")[0] for text in second["said"]] == [
        "rank 1 has measured loss=0.9, and rank 0 1"
    ]
