"""The command line in a process of its own, and the models that its tests name."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOY_FOLDER = str(Path(__file__).parent / "toy_framework")
MODELS = {
    "torch": "tests.support.kits.torch_kit:Plain",
    "paddle": "tests.support.kits.paddle_kit:Plain",
}
BATCH = ("--batch", "float32[8,6]")
TOY = "tests.support.toy_framework.toy_models:Plain"
TOY_BACKEND = ("--backend", "toynet=unifreeze_toynet:ToynetBackend")
FOUR = "four_blocks:net"


def alone(*arguments, cwd=ROOT, code=None, **environment):
    """Run a command in a process of its own."""
    command = ["-c", code] if code else ["-m", "unifreeze"]
    environment = {"PYTHONPATH": TOY_FOLDER, "PATH": "", **environment}
    if paths := os.environ.get("PYTHONPATH"):
        environment["PYTHONPATH"] += os.pathsep + paths
    return subprocess.run(
        [sys.executable, "-W", "ignore", *command, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
