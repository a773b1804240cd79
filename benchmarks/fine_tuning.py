"""What fine-tuning costs: by hand, by libraries, by plan, in two stages, and under a cache.

    python benchmarks/fine_tuning.py              all of it, written to docs/; up to an hour
    python benchmarks/fine_tuning.py --quick      two small cases, printed only; minutes
    python benchmarks/fine_tuning.py --only paddle/ernie/top
    python benchmarks/fine_tuning.py --only paddle/ernie/top --batches 64 --ways full cached faster
    python benchmarks/fine_tuning.py --draw       the page and the picture again, from the figures

All ways to train have copies of one model and see the same batches. They run in one process and one
thread, in turns of four steps, or of an epoch where steps may be short; a figure is CPU time, and
a ratio is of one run:

    full       everything trains
    by hand    flags set in a loop, and frozen modules in eval mode
    timm, Lightning's BackboneFinetuning, finetuning-scheduler, fastai
               their own functions that freeze, in the same loop; they run four steps
    two-stage  by hand: features are computed once, then the rest of the model trains on them
    by plan    a plan, without a cache
    cached     the same under handle.cached()
    faster     the same under handle.cached(prefix=...): paddle.inference, or bfloat16 in PyTorch
    limit      by operations, from handle.estimate, next to what that predicts from timed steps

Peak memory is measured in a process of its own for each way. With --peers libraries are installed
into an environment of their own. How far losses differ from those by hand is written, too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import fine_tuning_networks as networks
from benchmarks import fine_tuning_report as report
from benchmarks.fine_tuning_ways import FASTER, OURS, PACKAGES, PEERS, Way, make_way, plan_of
from benchmarks.machine import describe_machine

TURN = 4
"""Steps of one way after each other."""
SHORT = ("two-stage", "cached", FASTER)
"""Ways whose steps may be short: an epoch of them runs in one turn, as in a loop of its own.

What a short step uses is near the processor then; after a long step of another way it is not.
"""
SIZES = {"resnet": (4, 224), "bert": (4, 64), "ernie": (4, 64)}
"""Rows of a batch, and the sides of its images or the tokens of its texts."""
WHOLE_FULL = 16
"""The longest epochs, in batches, of which all steps are run where everything trains."""
WHOLE = ("ernie", "top")
"""The case of which three whole epochs are run, in all ways but those of libraries.

There the cache is filled by a faster prefix, too.
"""


def cases(framework: str) -> list[str]:
    """Return the names of all cases of a framework."""
    return [
        f"{framework}/{kind}/{plan}" for kind, plans in networks.PLANS.items() for plan in plans
    ]


def framework_of(name: str, device: str) -> Any:
    """Return a framework."""
    return networks.Torch(device) if name == "torch" else networks.Paddle()


def measure(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train in all ways; return the figures."""
    name, kind, plan = case.split("/")
    framework = framework_of(name, options.device)
    size, length = SIZES[kind]
    epochs = 3 if (kind, plan) == WHOLE else 2
    batches = networks.data(kind, options.batches, options.rows or size, options.length or length)
    examples = len(batches) * len(batches[0][1])
    handle = plan_of(kind, plan).apply(framework.make(kind))
    estimate = handle.estimate(batches[0][0], examples=examples, epochs=epochs)
    del handle
    gc.collect()
    ways, absent = _ways(framework, kind, plan, estimate, options)
    printed = _train(framework, ways, batches, epochs)
    gaps = {
        way: float(np.abs(np.subtract(ways[way].losses, ways["by hand"].losses)).max())
        for way in ways
        if "by hand" in ways and way in ("by plan", "cached", FASTER)
    }
    return {
        "case": case,
        "rows": len(batches[0][1]),
        "batches": len(batches),
        "length": options.length or length,
        "seconds": {way: made.epochs for way, made in ways.items()},
        "absent": absent,
        "gaps": gaps,
        "estimate": estimate.plain(),
        "run": printed,
        "machine": describe_machine(name)[1:],
        "device": options.device,
    }


def _ways(
    framework: Any, kind: str, plan: str, estimate: Any, options: argparse.Namespace
) -> tuple[dict[str, Way], dict[str, str]]:
    """Return each way to train, and why others are absent."""
    device = options.device
    ways: dict[str, Way] = {}
    absent: dict[str, str] = {}
    for name in options.ways or (*OURS, *PEERS):
        if name == FASTER and (kind, plan) != WHOLE:
            continue
        if name in PEERS and framework.name != "torch":
            absent[name] = "not for Paddle"
        elif estimate.why_not and name in ("two-stage", "cached", FASTER):
            absent[name] = "nothing can be cached"
        elif device != "cpu" and name in (*PEERS, "two-stage"):
            absent[name] = "not run on a GPU"
        else:
            try:
                ways[name] = make_way(name, framework, kind, plan)
            except (ImportError, AttributeError, RuntimeError) as error:
                absent[name] = f"not run: {type(error).__name__}: {error}"
    return ways, absent


def _train(framework: Any, ways: dict[str, Way], batches: list[Any], epochs: int) -> str:
    """Train in turns; return what the cached block prints."""
    for way in ways.values():
        way.block.__enter__()
    for epoch in range(epochs):
        for way in ways.values():
            way.epochs.append([])
        order = np.random.default_rng(epoch).permutation(len(batches)).tolist()
        for start in range(0, len(order), TURN):
            for name, way in ways.items():
                if name in PEERS and (start or epoch):
                    continue
                if name == "full" and start and (epochs < 3 or len(order) > WHOLE_FULL):
                    continue  # its steps are all alike
                if name in SHORT and start:
                    continue
                for number in order[start : None if name in SHORT else start + TURN]:
                    inputs, labels = (framework.tensor(part) for part in batches[number])
                    framework.seed(number)  # all ways draw the same dropout
                    way.step(number, inputs, labels)
    cached = ways.get("cached") or ways.get(FASTER)
    printed = str(cached.block) if cached else ""
    for way in ways.values():
        way.block.__exit__(None, None, None)
    return printed


def memory(case: str, way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return by how many bytes the process grows over the built model, in a few steps."""
    name, kind, plan = case.split("/")
    framework = framework_of(name, options.device)
    size, length = SIZES[kind]
    batches = networks.data(kind, 2, options.rows or size, options.length or length)
    made = make_way(way, framework, kind, plan)
    gc.collect()
    start = _resident("VmRSS")
    peaks = []
    with made.block as run:
        for _ in range(2):
            made.epochs.append([])
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
            for number, (inputs, labels) in enumerate(batches):
                made.step(number, framework.tensor(inputs), framework.tensor(labels))
            peaks.append(_resident("VmHWM") - start)
            if way in ("cached", FASTER) and hasattr(run, "drop_frozen"):
                run.drop_frozen(rows=sum(len(labels) for _, labels in batches))
                gc.collect()
    return {"case": case, "way": way, "peaks": peaks, "model": start}


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def in_a_process(arguments: list[str], peers: Path) -> dict[str, Any]:
    """Run this script in a process of its own; return the figures that it prints."""
    path = [str(ROOT), str(ROOT / "backends"), *filter(None, [os.environ.get("PYTHONPATH")])]
    path.append(str(packages_of(peers)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    last = result.stdout.strip().rpartition("\n")[2]
    if result.returncode or not last.startswith("{"):
        lines = (result.stderr.strip() or "it was ended").splitlines()
        return {"failed": lines[-1]}
    figures: dict[str, Any] = json.loads(last)
    return figures


def install(peers: Path) -> None:
    """Install libraries into an environment of their own, which sees the packages of this one.

    What cannot be installed is left out.
    """
    subprocess.run([sys.executable, "-m", "venv", str(peers)], check=True)
    (packages_of(peers) / "this.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    pip = [str(peers / "bin" / "python"), "-m", "pip", "install", "-q"]
    for name, (alone, others) in PACKAGES.items():
        commands = [[*pip, "--no-deps", *alone]] + ([[*pip, *others]] if others else [])
        failed = any(subprocess.run(command, check=False).returncode for command in commands)
        print(f"{name}: {'cannot be installed' if failed else 'installed'}", flush=True)


def packages_of(peers: Path) -> Path:
    """Return the folder of packages of an environment."""
    return Path(sysconfig.get_path("purelib", vars={"base": str(peers), "platbase": str(peers)}))


def everything(options: argparse.Namespace, chosen: list[str]) -> dict[str, Any]:
    """Measure the cases, each in a process of its own; print them as they come."""
    given = [f"--batches={options.batches}", f"--device={options.device}"]
    given += [f"--rows={options.rows}"] if options.rows else []
    given += [f"--length={options.length}"] if options.length else []
    given += ["--ways", *options.ways] if options.ways else []
    results: dict[str, Any] = report.read(options.device)
    for case in chosen:
        start = time.monotonic()
        figures = in_a_process(["--case", case, *given], options.folder)
        if "failed" not in figures:
            few = options.quick or options.ways or options.device != "cpu"
            ways = [] if few else list(figures["seconds"])
            rows = {
                way: in_a_process(["--case", case, "--memory", way, *given], options.folder)
                for way in ways
                if way not in PEERS
            }
            figures["memory"] = {
                way: row.get("peaks", row.get("failed")) for way, row in rows.items()
            }
        results[case] = figures
        print(f"\n{case}, {time.monotonic() - start:.0f} s", flush=True)
        print("\n".join(report.lines(figures)), flush=True)
        if not (options.quick or options.ways):
            report.write(results, options.device)
    return results


def main() -> None:
    """Measure, print, and write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="FRAMEWORK/MODEL/PLAN")
    parser.add_argument("--quick", action="store_true", help="two small cases, nothing written")
    parser.add_argument("--draw", action="store_true", help="the page and the picture again")
    parser.add_argument("--peers", action="store_true", help="install the libraries first")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".peers", help="the libraries' environment"
    )
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument(
        "--ways", nargs="*", default=[], choices=(*OURS, *PEERS), help="these alone; only printed"
    )
    parser.add_argument("--rows", type=int, help="of a batch")
    parser.add_argument("--length", type=int, help="of texts, or of images' sides")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        way = options.memory
        figures = memory(options.case, way, options) if way else measure(options.case, options)
        print(json.dumps(figures))
        return
    chosen = options.only or cases("torch") + (cases("paddle") if options.device == "cpu" else [])
    if options.quick:
        chosen = options.only or ["torch/resnet/head", "paddle/ernie/top"]
        options.batches, options.rows = min(options.batches, 8), options.rows or 2
    if options.peers:
        install(options.folder)
    print("\n".join(describe_machine("torch", *(["paddle"] if options.device == "cpu" else []))))
    results = report.read(options.device) if options.draw else everything(options, chosen)
    if not (options.quick or options.ways):
        report.write(results, options.device)


if __name__ == "__main__":
    main()
