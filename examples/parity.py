"""One plan, both frameworks, real networks at full size: shows that parity holds.

Run it with `make parity`, or `python examples/parity.py` where both frameworks are installed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = [
    "input_ids=int64[2,32]<1:40000>",
    "attention_mask=int64[2,32]<1:2>",
    "token_type_ids=int64[2,32]<0:2>",
]
CHECKS = [
    (
        "ResNet-50: torchvision and paddle.vision",
        "examples/resnet/head_and_last_stage.yaml",
        "examples.resnet.models:torch_resnet50",
        "examples.resnet.models:paddle_resnet50",
        ["float32[4,3,64,64]"],
    ),
    (
        "ERNIE base: transformers and PaddleNLP",
        "examples/ernie/top_two_blocks.yaml",
        "examples.ernie.models:torch_ernie",
        "examples.ernie.models:paddle_ernie",
        TEXT,
    ),
]


def check(title: str, plan: str, one: str, other: str, batch: list[str]) -> int:
    """Run one parity check as a user would; return its exit code."""
    print(f"\n{title}\n{'-' * len(title)}\n{(ROOT / plan).read_text()}", flush=True)
    command = [sys.executable, "-W", "ignore", "-m", "unifreeze", "parity", plan, one, other]
    for spec in batch:
        command += ["--batch", spec]
    start = time.perf_counter()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(max([check(*each) for each in CHECKS]))
