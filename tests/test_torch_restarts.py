"""PyTorch: a rank is killed, the job is started again, and it ends with the bits of a whole run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.support import restarted
from unifreeze_torch import _processes

ROOT = Path(__file__).resolve().parent.parent
PHASES = ["head", "top", "all", "head again", "rest", "measured"]


def torchrun(folder, *kills, restarts=0):
    """Run the job in two processes; return the exit code of the launcher."""
    words = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    words += ["--max-restarts", str(restarts), "--monitor-interval", "0.1"]
    words += ["-m", restarted.__name__, str(folder), *kills]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    env = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    # In a store that is kept, gloo finds the addresses of the processes before the restart.
    env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with (folder / "output").open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", *words],
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            return started.wait(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            raise


def check_ends(folder):
    """All ranks end as the same, and as a run that nobody killed."""
    missing = [rank for rank in (0, 1) if not (folder / f"end-{rank}").exists()]
    assert not missing, (folder / "output").read_text(errors="replace")[-3000:]
    ends = [json.loads((folder / f"end-{rank}").read_text()) for rank in (0, 1)]
    (killed, unbroken), second = ends
    assert killed == unbroken
    assert second == [killed, unbroken]
    assert list(dict.fromkeys(killed[0])) == PHASES


def test_a_job_that_torchrun_starts_again_ends_as_an_unbroken_one(tmp_path):
    assert torchrun(tmp_path, "1:8", restarts=1) == 0
    assert (tmp_path / "killed-1-8").exists()
    check_ends(tmp_path)


def test_processes_started_again_do_not_read_what_was_said_before(monkeypatch):
    """torchrun may keep the store at which they meet."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(_processes, "_store", lambda: store)
    monkeypatch.setattr(_processes, "_rounds", Counter())
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    store.set(f"{_processes.StoreProcesses([0, 1])._group}/step/0/0", b"before".hex())
    assert _processes.StoreProcesses([0, 1]).share("step", b"", 0.1) == [b"before", b""]
    _processes._rounds.clear()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert _processes.StoreProcesses([0, 1]).share("step", b"", 0.1) == [None, b""]


@pytest.mark.slow
def test_a_job_that_a_person_starts_again_ends_as_an_unbroken_one(tmp_path):
    kills = ["1:6", "0:11"]
    for rank, step in ((1, 6), (0, 11)):
        assert torchrun(tmp_path, *kills) != 0
        assert (tmp_path / f"killed-{rank}-{step}").exists()
    assert torchrun(tmp_path, *kills) == 0
    check_ends(tmp_path)


@pytest.mark.slow
def test_a_job_killed_in_every_step_ends_as_an_unbroken_one(tmp_path):
    kills = [f"{step % 2}:{step}" for step in range(1, restarted.STEPS)]
    assert torchrun(tmp_path, *kills, restarts=len(kills)) == 0
    assert len(list(tmp_path.glob("killed-*"))) == len(kills)
    check_ends(tmp_path)
