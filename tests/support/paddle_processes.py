"""Run a function in several Paddle processes that train together, over gloo on this machine."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def in_processes(
    function: str, count: int = 2, *, timeout: float = 150, **arguments: Any
) -> list[Any]:
    """Run a function in several processes, and return what each returned, in order of rank.

    Args:
        function: `module:function`; it takes keyword arguments and returns plain data.
        count: How many processes.
        timeout: Seconds after which all are ended.
        **arguments: Plain data for the function.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", __name__, function, folder]
        processes = []
        for rank, variables in enumerate(environments(count)):
            # A pipe that nobody reads just now fills up, and lets its process wait.
            with (Path(folder) / f"{rank}.output").open("wb") as output:
                process = subprocess.Popen(
                    [*command, json.dumps(arguments)],
                    env=os.environ | variables,
                    cwd=ROOT,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            processes.append(process)
        _wait(processes, timeout)
        if any(process.returncode for process in processes):
            codes = [process.returncode for process in processes]
            files = [Path(folder) / f"{rank}.output" for rank in range(count)]
            outputs = [file.read_text(encoding="utf-8", errors="replace") for file in files]
            shown = "\n".join(f"--- rank {n}\n{text[-3000:]}" for n, text in enumerate(outputs))
            raise AssertionError(f"{function} ended with {codes}\n{shown}")
        return [json.loads((Path(folder) / str(rank)).read_text()) for rank in range(count)]


def printed_much(folder: str) -> bool:
    """Print more than a pipe takes in the last process; the first one waits until it has."""
    file = Path(folder) / "printed"
    if os.environ["PADDLE_TRAINER_ID"] == "0":
        end = time.monotonic() + 60
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.02)
        return file.exists()
    sys.stdout.write("printed\n" * 100_000)
    sys.stdout.flush()
    file.touch()
    return True


def environments(count: int) -> list[dict[str, str]]:
    """Return the environment variables of each process, as Paddle's launcher sets them."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    places = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    shared = {
        "PADDLE_TRAINERS_NUM": str(count),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(places),
        "PADDLE_MASTER": places[0],
        "PADDLE_DISTRI_BACKEND": "gloo",
        "GLOG_minloglevel": "2",
        "OMP_NUM_THREADS": "1",
    }
    return [
        shared
        | {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_RANK_IN_NODE": str(rank),
            "PADDLE_CURRENT_ENDPOINT": place,
        }
        for rank, place in enumerate(places)
    ]


def _wait(processes: list[subprocess.Popen[bytes]], timeout: float) -> None:
    end = time.monotonic() + timeout
    for process in processes:
        try:
            process.wait(max(end - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            for each in processes:
                each.kill()
            process.wait()


def _main(function: str, folder: str, arguments: Mapping[str, Any]) -> None:
    module, _, name = function.partition(":")
    result = getattr(importlib.import_module(module), name)(**arguments)
    rank = os.environ["PADDLE_TRAINER_ID"]
    (Path(folder) / rank).write_text(json.dumps(result))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
