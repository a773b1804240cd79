"""Paddle: a run goes on from its checkpoint in another number of processes, or after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paddle_processes import in_processes
from tests.support.paddle_ranks import resumed

ROOT = Path(__file__).resolve().parents[1]
PLACE = "tests.support.paddle_ranks.resumed:part"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process ends with that averages the shards of two and never stops."""
    return resumed.alone(tmp_path_factory.mktemp("unbroken"), resumed.STEPS)


def test_the_run_goes_through_all_kinds_of_phases(unbroken: dict[str, Any]) -> None:
    assert list(dict.fromkeys(unbroken["phases"])) == ["head", "top", "all", "few", "head again"]


@pytest.mark.parametrize(
    ("engine", "stop"),
    [
        ("DataParallel", 7),
        ("sharded fleet", 14),
        pytest.param("sharded fleet", 7, marks=pytest.mark.slow),
        pytest.param("DataParallel", 14, marks=pytest.mark.slow),
    ],
)
def test_two_processes_go_on_where_one_stopped_and_one_where_two_stopped(
    engine: str, stop: int, unbroken: dict[str, Any], tmp_path: Path
) -> None:
    if stop == 7:
        resumed.alone(tmp_path, stop)
        assert in_processes(PLACE, engine=engine, folder=str(tmp_path), until=20) == [unbroken] * 2
    else:
        in_processes(PLACE, engine=engine, folder=str(tmp_path), until=stop)
        assert resumed.alone(tmp_path, resumed.STEPS) == unbroken


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["DataParallel", "sharded fleet"])
@pytest.mark.parametrize("kill_at", [2, 9, 13])
def test_a_job_whose_process_was_killed_ends_with_the_same_bits_when_launched_again(
    engine: str, kill_at: int, unbroken: dict[str, Any], tmp_path: Path
) -> None:
    assert _launch(engine, tmp_path, kill_at) != 0
    assert not (tmp_path / "0.json").exists()
    assert _launch(engine, tmp_path, -1) == 0
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == unbroken


def _launch(engine: str, folder: Path, kill_at: int) -> int:
    """Launch the run in two processes; return how the launcher ended."""
    words = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir"]
    words += [str(folder / "log"), "tests/support/paddle_ranks/resumed.py"]
    paths = [str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *words, engine, str(folder), str(kill_at)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    return done.returncode
