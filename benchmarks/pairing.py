"""What pairing full-size networks takes: time and peak memory of each step, size of the records.

    python benchmarks/pairing.py                    ERNIE base and ResNet-50
    python benchmarks/pairing.py --only resnet

Each side is sketched in a process of its own, as it would be on another machine; the two records
are then paired in a process that loads neither framework.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import describe_machine
from unifreeze._ports.pairing import Pairing

NETWORKS = {
    "ernie": (
        "examples.ernie.models:torch_ernie(use_task_id=False)",
        "examples.ernie.models:paddle_ernie(use_task_id=False)",
        ("input_ids=int64[2,16]<1:40000>", "attention_mask=int64[2,16]<1:2>"),
        (201, 0),
    ),
    "resnet": (
        "examples.resnet.models:torch_resnet50",
        "examples.resnet.models:paddle_resnet50",
        ("float32[2,3,64,64]",),
        (161, 106),
    ),
}


def measured(*words: str) -> str:
    """Run the command line and return its time and peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "unifreeze", *words], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"unifreeze {' '.join(words)} failed")
    return f"{time.perf_counter() - start:5.0f} s  {usage.ru_maxrss / 2**20:5.1f} GiB"


def run(name: str, folder: Path) -> bool:
    """Pair one network and print what it took."""
    one, other, batch, expected = NETWORKS[name]
    files = [folder / f"{name}-{side}.json" for side in ("torch", "paddle")]
    known = folder / f"{name}.json"
    values = [f"--batch={value}" for value in batch]
    outputs = [("-o", str(file)) for file in (*files, known)]
    for step, words in (
        ("sketch in PyTorch", ("sketch", one, *outputs[0], *values)),
        ("sketch in Paddle", ("sketch", other, *outputs[1], "--like", str(files[0]), *values)),
        ("pair the records", ("pair", *map(str, files), *outputs[2])),
    ):
        print(f"{name:8}{step:20}{measured(*words)}", flush=True)
    pairing = Pairing.load(known)
    states = sum(row.state for row in pairing.pairs)
    found = len(pairing.pairs) - states, states
    sizes = " and ".join(f"{file.stat().st_size / 1000:.0f} kB" for file in files)
    print(f"{name:8}{found[0]} of {expected[0]} parameters, {found[1]} of {expected[1]} statistics")
    print(f"{name:8}records of {sizes}; {pairing.certificate}", flush=True)
    return found == expected


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="pair full-size networks")
    parser.add_argument("--only", choices=NETWORKS, action="append")
    given = parser.parse_args()
    print(*describe_machine("torch", "paddle"), sep="\n")
    with tempfile.TemporaryDirectory(prefix="unifreeze-") as folder:
        return 0 if all([run(name, Path(folder)) for name in given.only or NETWORKS]) else 1


if __name__ == "__main__":
    sys.exit(main())
