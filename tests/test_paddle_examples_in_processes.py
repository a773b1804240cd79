"""The examples of several Paddle processes run as their first lines say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PHASES = ["0 head", "1 head", "2 top", "3 top", "4 all", "5 head again"]


@pytest.mark.parametrize("name", ["data_parallel", "with_fleet"])
def test_an_example_runs_in_two_processes(name: str, tmp_path: Path) -> None:
    file = f"examples/several_processes/{name}.py"
    command = f"-m paddle.distributed.launch --nproc_per_node 2 \\\n    {file}"
    assert f"PYTHONPATH=. python {command}" in (ROOT / file).read_text(encoding="utf-8")
    words = command.replace("\\\n", "").split()
    words[2:2] = ["--log_dir", str(tmp_path)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    shown = [line.split(" trainable")[0] for line in ran.stdout.splitlines() if line[:1].isdigit()]
    assert shown == PHASES
    assert "unchanged: 14 frozen parameters" in ran.stdout
