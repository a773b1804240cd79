"""Runs a function in several processes at once, and ends all of them in time.

The function is found by its module, so it stands under tests/support. It is called with the number
of its process and their count, and returns something that can be pickled.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class FailedError(AssertionError):
    """A process has raised, was killed, or took too long; the message has what each one said."""


def in_processes(
    function: Callable[..., Any], count: int = 2, *arguments: Any, timeout: float = 120, **env: str
) -> list[Any]:
    """Run a function in some processes, and return what each of them returns.

    Args:
        function: A function of a module under tests/support: `function(rank, count, *arguments)`.
        count: How many processes.
        *arguments: What else it is called with; can be pickled.
        timeout: Seconds until all are killed.
        **env: Environment variables of the processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        task = place / "task"
        task.write_bytes(pickle.dumps((function.__module__, function.__qualname__, arguments)))
        started = [_start(place, rank, count, env) for rank in range(count)]
        try:
            _wait(started, timeout)
        finally:
            for process in started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return _results(place, count)


def _start(place: Path, rank: int, count: int, env: dict[str, str]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-W", "ignore", "-m", __name__, str(place), str(rank), str(count)]
    settings = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **env}
    paths = [str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")]
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with (place / f"output-{rank}").open("wb") as output:
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _wait(started: list[subprocess.Popen[bytes]], timeout: float) -> None:
    """Wait for all of them; once one has failed the others get a few seconds more."""
    end = time.monotonic() + timeout
    while any(process.poll() is None for process in started) and time.monotonic() < end:
        if any(process.poll() for process in started):
            end = min(end, time.monotonic() + 10)
        time.sleep(0.05)


def _results(place: Path, count: int) -> list[Any]:
    results, failures = [], []
    for rank in range(count):
        file = place / f"result-{rank}"
        kind, value = pickle.loads(file.read_bytes()) if file.exists() else ("killed", "")
        if kind != "returned":
            said = (place / f"output-{rank}").read_text(errors="replace")[-2000:]
            failures.append(f"process {rank} {kind}\n{value}\n{said}")
        results.append(value)
    if failures:
        raise FailedError("\n".join(failures))
    return results


def main(folder: str, rank: str, count: str) -> int:
    """Run the task in this process, and write what it returns."""
    place = Path(folder)
    module, name, arguments = pickle.loads((place / "task").read_bytes())
    os.environ["STORE"] = str(place / "store")
    try:
        value = getattr(import_module(module), name)(int(rank), int(count), *arguments)
        result, code = ("returned", value), 0
    except BaseException:
        result, code = ("raised", traceback.format_exc()), 1
    part = place / f"part-{rank}"
    part.write_bytes(pickle.dumps(result))
    part.rename(place / f"result-{rank}")
    return code


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # a process must not wait for one that is gone
