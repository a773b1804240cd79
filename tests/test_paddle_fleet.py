"""Plans under Paddle's fleet and in its trainers, in several processes that the tests start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.paddle_processes import in_processes
from tests.support.paddle_ranks import sharded
from tests.support.paddle_trainer_runs import TIMELINE

PLACE = "tests.support.paddle_ranks"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process did that averages the shards of two."""
    return sharded.alone(2, tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("sharding", [1, 2], ids=["data parallel", "sharding stage 1"])
def test_processes_agree_and_leave_what_one_leaves(
    sharding: int, one: dict[str, Any], tmp_path: Path
) -> None:
    place = f"{PLACE}.sharded:every_run"
    both = in_processes(place, sharding=sharding, folder=str(tmp_path))
    for how in sharded.ATTACHED:
        assert both[0][how] == both[1][how] == one["phases"], how
    assert both[0]["measured"] == both[1]["measured"] == one["measured"]
    if sharding > 1:
        assert "comm_overlap updates several parameters as one" in both[0]["fused"]
        told = both[0]["auto-parallel"]
        assert told.startswith("auto-parallel holds 22 parameters as distributed tensors")


def test_trainers_change_phases_and_processes_agree(tmp_path: Path) -> None:
    both = in_processes(f"{PLACE}.trainers:every_trainer", folder=str(tmp_path))
    for name, run in both[0].items():
        assert run["phases"] == TIMELINE, name
        assert run == both[1][name], name
