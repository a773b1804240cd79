"""The examples for several processes run by the command that each of them names."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "several_processes"
PHASES = ["head", "top", "full", "head again"]
NAMES = ["ddp", "fsdp2", "with_accelerate"]
PROGRAMS = {"torchrun": "torch.distributed.run", "accelerate": "accelerate.commands.accelerate_cli"}


def command(name):
    """The command in an example's first lines, for this Python and a free port."""
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    program, *words = shlex.split(re.search(r"repository:\n(.+)\n", text)[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if program == "torchrun":
        words = ["--master-addr", "127.0.0.1", "--master-port", port, *words]
    else:
        words = [words[0], "--main_process_port", port, *words[1:]]
    return [sys.executable, "-W", "ignore", "-m", PROGRAMS[program], *words]


def run(words):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    env = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = started.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        output, _ = started.communicate()
    assert started.returncode == 0, output[-3000:]
    return output


@pytest.mark.parametrize("name", NAMES)
def test_an_example_goes_through_its_phases_by_its_command(name):
    output = run(command(name))
    rows = re.findall(r"^(\d) (.+?) trainable params", output, re.M)
    assert [row[0] for row in rows] == [str(epoch) for epoch in range(6)]
    assert list(dict.fromkeys(row[1] for row in rows)) == PHASES
    assert "unchanged: " in output
