"""Paddle: one verdict and one file where fleet divides the optimizer's states (stage 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.paddle_processes import in_processes
from tests.support.paddle_ranks import divided

PLACE = "tests.support.paddle_ranks.divided:every_run"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes were told and wrote."""
    return in_processes(PLACE, sharding=2, folder=str(tmp_path_factory.mktemp("both")))


def test_what_drifts_in_one_process_is_every_ones_verdict(both: list[dict[str, Any]]) -> None:
    first, second = (process["verdict"] for process in both)
    assert first == second
    assert "stem.bias" in first


def test_a_process_that_verifies_alone_is_told_and_meets_the_others_later(
    both: list[dict[str, Any]],
) -> None:
    assert both[0]["alone"].startswith("rank 1 did not call handle.verify within 2 seconds")
    assert both[1]["alone"] == ""


def test_one_process_writes_the_file_and_all_wait_for_it(both: list[dict[str, Any]]) -> None:
    assert len({number for process in both for number in process["writers"]}) == 1
    assert all("there is no folder" in process["unwritable"] for process in both)


def test_file_and_values_are_those_that_one_process_writes(
    both: list[dict[str, Any]], tmp_path: Path
) -> None:
    alone = divided.trained("alone", tmp_path)
    assert both[0]["file"] == both[1]["file"] == alone


def test_best_values_are_kept_in_one_folder_and_restored_in_all(
    both: list[dict[str, Any]], tmp_path: Path
) -> None:
    alone = divided.best("alone", tmp_path)
    assert alone["phases"] == ["head"] * 4 + ["again"] * 2
    assert both[0]["best"] == both[1]["best"] == alone
