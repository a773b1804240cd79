"""Train the recipes of examples/suites, with the suites as their wheels ship them.

    python -m tests.support.suites --packages FOLDER [--budget SECONDS] [SUITE …]

Exits 1 if a recipe fails, if its plan does not hold, or if the advice it is compared with moves
nothing. What there was no time for is named. `ci/suites.sh` installs what it needs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "examples" / "suites"
SUITES = {
    "paddledetection": "paddledet",
    "paddleseg": "paddleseg",
    "paddleclas": "paddleclas",
    "paddleocr": "paddleocr",
    "deepmd": "deepmd-kit",
}
"""The folders of recipes, and the packages that they show."""
HELD = re.compile(r"unchanged: (\d+) frozen parameters, (\d+) held state tensors")
MOVED = re.compile(r"^(.*): (\d+) of (\d+) weights, (\d+) of (\d+) statistics moved$", re.M)


@dataclass(frozen=True)
class Ran:
    """What became of a recipe.

    Attributes:
        suite: Its folder.
        lines: What it says of weights and statistics.
        fault: What is wrong; "" if nothing is.
        seconds: How long it took.
    """

    suite: str
    lines: Sequence[str]
    fault: str
    seconds: float


def environment(suite: str, packages: Path) -> dict[str, str]:
    """Return the environment in which a recipe finds its suite, as in a clone of it."""
    extra = {
        "paddleclas": [packages / "paddleclas", packages],
        "paddleocr": [packages / "suites" / "paddleocr"],
        "deepmd": [],
    }.get(suite, [])
    own = [] if suite == "deepmd" else [packages / "suites"]
    paths = [ROOT, ROOT / "backends", *extra, *own]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "100"}


def command(suite: str, packages: Path) -> list[str]:
    """Return what runs a recipe; deepmd-kit's compiled operators are for another PyTorch."""
    run = f"import runpy; runpy.run_module('examples.suites.{suite}.train', run_name='__main__')"
    if suite == "deepmd":
        own = str(packages / "deepmd")
        run = f"from tests.support.zoos.deepmd import prepare; prepare({own!r}); {run}"
    return [sys.executable, "-W", "ignore", "-c", run]


def fault_of(suite: str, output: str) -> str:
    """Say what a recipe's output lacks; "" for nothing.

    >>> fault_of("paddleseg", "unchanged: 2 frozen parameters, 1 held state tensors")
    'nothing is said of a plan'
    """
    held = HELD.findall(output)
    if len(held) != (2 if suite == "deepmd" else 1) or any(int(count) == 0 for count, _ in held):
        return "verify() did not say what it held"
    if suite == "deepmd":
        equal = "the same parameters train in both"
        return "" if equal in output else "the flags of the backends were not compared"
    plan, *advised = MOVED.findall(output) or [("",) * 5]
    if plan[0] != "a plan":
        return "nothing is said of a plan"
    if plan[1] != "0" or plan[3] != "0" or plan[2] == "0" or plan[4] == "0":
        return "the plan did not hold, or there was nothing to hold"
    if len(advised) != 2 or advised[0][3] == "0" or advised[1][1] == "0":
        return "the advice moved nothing, so the comparison shows nothing"
    return ""


def train(suite: str, packages: Path, left: float) -> Ran | None:
    """Train one recipe; None if it was not done in the seconds that are left."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            command(suite, packages),
            capture_output=True,
            text=True,
            check=False,
            timeout=left,
            cwd=ROOT,
            env=environment(suite, packages),
        )
    except subprocess.TimeoutExpired:
        return None
    output = done.stdout
    lines = [
        line.strip()
        for line in output.splitlines()
        if re.search(r"unchanged: |moved$|^renamed: |^Py|^Paddle|in both$", line.strip())
    ]
    fault = fault_of(suite, output)
    if done.returncode:
        fault = f"exit code {done.returncode}\n{(output + done.stderr)[-3000:]}"
    return Ran(suite, lines, fault, time.monotonic() - start)


def release(suite: str, packages: Path) -> str:
    """Return the suite's package and its release.

    >>> release("paddleseg", Path("nowhere"))
    'paddleseg'
    """
    package = SUITES[suite]
    pattern = f"{package.replace('-', '_')}-*.dist-info"
    found = [path.name for path in packages.rglob(pattern)]
    return (
        f"{package} {found[0].removesuffix('.dist-info').rpartition('-')[2]}" if found else package
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suites", nargs="*", choices=[[], *SUITES], help="only these")
    parser.add_argument("--packages", type=Path, required=True, help="where the suites are")
    parser.add_argument("--budget", type=float, default=360.0, help="seconds in all")
    given = parser.parse_args()
    end, faults, packages = time.monotonic() + given.budget, 0, given.packages.resolve()
    for suite in given.suites or SUITES:
        left = end - time.monotonic()
        ran = train(suite, packages, left) if left > 0 else None
        if ran is None:
            print(f"{suite}: NOT RUN, the time was up after {given.budget:.0f} s", flush=True)
            continue
        print(f"{suite} ({release(suite, packages)}), {ran.seconds:.0f} s", flush=True)
        for line in ran.lines:
            print(f"  {line}")
        if ran.fault:
            faults += 1
            print(f"  FAILED: {ran.fault}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
