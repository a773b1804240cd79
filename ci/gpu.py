"""The GPU run: the GPU tests, and ResNet-50 and ERNIE base recorded on the GPU and compared.

    python ci/gpu.py FOLDER              what ci/gpu.sh runs, once it has set the path
    python ci/gpu.py FOLDER --rehearse   the same with the CPU in the GPU's place
    python ci/gpu.py --keep              record Paddle on the CPU, into ci/records

Each framework that sees a GPU is recorded on it. A GPU machine need not have Paddle: then PyTorch
is compared with the records in ci/records. In bfloat16, where a gradient may vanish that does not
in single precision, only decisions and bits are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from examples.parity import CHECKS  # noqa: E402
from unifreeze._evidence import Record, Report, compare_records  # noqa: E402

KEPT, PAGE, DATA = (
    ROOT / "ci" / "records",
    ROOT / "docs" / "en" / "gpu.md",
    ROOT / "docs" / "gpu.json",
)
PRECISIONS = {"float32": [], "bfloat16": ["--backend", "torch=examples.in_bfloat16:InBfloat16"]}
BITS = ("parameters", "decisions", "flags", "frozen", "state")
"""The clauses that are compared in bfloat16."""


def run(*command: str) -> int:
    """Run a command of this interpreter's, here; return its exit code."""
    print("==", *command, flush=True)
    return subprocess.run(
        [sys.executable, "-W", "ignore", *command], cwd=ROOT, check=False
    ).returncode


def devices() -> dict[str, str]:
    """Return where each framework that is installed would compute: "gpu" or "cpu"."""
    command = [sys.executable, "-W", "ignore", "-m", "unifreeze", "backends", "--json", "-"]
    rows = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    return {row["name"]: row["devices"][-1] for row in rows if row["installed"]}


def name_of(plan: str) -> str:
    """Return what a network is called here.

    >>> name_of("examples/ernie/top_two_blocks.yaml")
    'ernie'
    """
    return Path(plan).parent.name


def record(file: Path, plan: str, model: str, batch: list[str], *more: str) -> Record:
    """Record one side in a process of its own."""
    given = [word for spec in batch for word in ("--batch", spec)]
    if code := run("-m", "unifreeze", "record", plan, model, "-o", str(file), *given, *more):
        sys.exit(code)
    return Record.load(file)


def keep() -> None:
    """Record Paddle on the CPU, for machines that lack it."""
    KEPT.mkdir(exist_ok=True)
    for _, plan, _, model, batch in CHECKS:
        record(KEPT / f"{name_of(plan)}-paddle.json", plan, model, batch, "--device", "paddle=cpu")


def compare(one: Record, other: Record, precision: str) -> Report:
    """Compare two records, in bfloat16 by what it leaves as it is."""
    report = compare_records(one, other)
    if precision == "float32":
        return report
    return replace(report, clauses=tuple(c for c in report.clauses if c.name in BITS))


def networks(out: Path, where: dict[str, str]) -> list[dict[str, Any]]:
    """Record every network in both precisions; return a row of the table for each."""
    rows = []
    for _, plan, one, other, batch in CHECKS:
        name = name_of(plan)
        theirs = Record.load(KEPT / f"{name}-paddle.json")
        if where.get("paddle") == "gpu":
            file = out / f"{name}-paddle.json"
            theirs = record(file, plan, other, batch, "--device", "paddle=gpu")
        for precision, words in PRECISIONS.items():
            start = time.perf_counter()
            file = out / f"{name}-{precision}-torch.json"
            ours = record(file, plan, one, batch, "--device", f"torch={where['torch']}", *words)
            report = compare(ours, theirs, precision)
            print(report, flush=True)
            rows.append(row_of(name, precision, report, time.perf_counter() - start))
    return rows


def row_of(name: str, precision: str, report: Report, seconds: float) -> dict[str, Any]:
    """Return one row of the table as plain data."""
    one, other = report.sides
    return {
        "network": name,
        "precision": precision,
        "sides": [f"{side.framework} on {side.device}" for side in (one, other)],
        "parameters": one.parameters,
        "frozen": one.frozen,
        "clauses": {clause.name: clause.holds for clause in report.clauses},
        "seconds": round(seconds),
    }


def machine() -> dict[str, str]:
    """Return what the run was made with."""
    code = (
        "import json, platform, torch, transformers; "
        "gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'; "
        "print(json.dumps({'GPU': gpu, 'CUDA': str(torch.version.cuda), "
        "'PyTorch': torch.__version__, 'transformers': transformers.__version__, "
        "'Python': platform.python_version()}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def page(result: dict[str, Any] | None) -> str:
    """Write the page that shows a run; `docs/en/gpu.md` is this, of what is in `docs/gpu.json`."""
    head = (ROOT / "ci" / "gpu_page.md").read_text("utf-8").rstrip() + "\n"
    if result is None:
        return f"{head}\nNot run yet.\n"
    lines = [f"{name} {value}" for name, value in result["machine"].items()]
    text = f"{head}\n{', '.join(lines)}; {result['tests']}; {result['seconds']} seconds in all.\n\n"
    text += "| network | precision | sides | parameters | frozen | holds | seconds |\n"
    text += "| --- | --- | --- | --- | --- | --- | --- |\n"
    for row in result["rows"]:
        broken = [name for name, holds in row["clauses"].items() if not holds]
        verdict = f"not {', '.join(broken)}" if broken else f"all {len(row['clauses'])} clauses"
        cells = (row["network"], row["precision"], " and ".join(row["sides"]), row["parameters"])
        text += f"| {' | '.join(map(str, (*cells, row['frozen'], verdict, row['seconds'])))} |\n"
    return text


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="the GPU run")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "runs" / "gpu")
    parser.add_argument("--rehearse", action="store_true", help="with the CPU in the GPU's place")
    parser.add_argument("--keep", action="store_true", help="record Paddle on the CPU instead")
    given = parser.parse_args()
    if given.keep:
        keep()
        return 0
    start, where = time.perf_counter(), devices()
    if "gpu" not in where.values() and not given.rehearse:
        print("skipped: neither torch nor paddle sees a GPU here")
        return 0
    print(", ".join(f"{name} on {device}" for name, device in where.items()))
    given.folder.mkdir(parents=True, exist_ok=True)
    tested = ["torch"] if given.rehearse else [n for n, device in where.items() if device == "gpu"]
    words = [f"--framework={name}" for name in tested]
    words += ["--device=cpu"] if given.rehearse else []
    failed = run("-m", "pytest", "-q", "tests/test_gpu.py", "-p", "no:cacheprovider", *words)
    rows = networks(given.folder, where)
    result = {
        "machine": machine(),
        "tests": "the GPU tests fail" if failed else "the GPU tests pass",
        "rows": rows,
        "seconds": round(time.perf_counter() - start),
    }
    (given.folder / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (given.folder / "gpu.md").write_text(page(result), encoding="utf-8")
    print(f"\n{page(result)}\nrecords, gpu.json and gpu.md are in {given.folder}")
    return int(bool(failed) or not all(all(row["clauses"].values()) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
