"""What a benchmark ran on: the first lines of its output."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

_PACKAGES = {"torch": "torch", "paddle": "paddlepaddle"}


def describe_machine(*frameworks: str) -> list[str]:
    """Return the command, the versions and the machine, a line each."""
    command = [f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    versions = [f"{name} {version(_PACKAGES[name])}" for name in frameworks]
    versions += [f"Python {platform.python_version()}", f"unifreeze {version('unifreeze')}"]
    return [
        f"$ python {shlex.join(command)}",
        ", ".join(versions),
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
    ]


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
