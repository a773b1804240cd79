"""Run the targets: cases, seeds, and what went wrong.

Nothing but a `UnifreezeError` may come out, nothing may take more than 5 s, and no more memory than
500 MiB beyond what the process had.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from tests.support.fuzz.samples import write_samples
from tests.support.fuzz.targets import TARGETS
from unifreeze.errors import UnifreezeError

SECONDS, MEBIBYTES = 5, 500


class TooSlowError(BaseException):
    """A case took longer than it may; no reader catches this."""


def _stop(*_: object) -> None:
    raise TooSlowError


def peak() -> int:
    """Return the most memory that the process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def run_case(name: str, seed: int, files: dict[str, Path], folder: Path) -> str:
    """Draw and read one case; return what went wrong, or ""."""
    given, read = TARGETS[name](random.Random(f"{name} {seed}"), files, folder)
    before = peak()
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        read()
    except (UnifreezeError, KeyboardInterrupt):
        pass
    except TooSlowError:
        return f"takes more than {SECONDS} s\n{repr(given)[:2000]}"
    except BaseException:
        return f"{traceback.format_exc(limit=-8)}\n{repr(given)[:2000]}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if peak() - before > MEBIBYTES:
        return f"takes {peak() - before} MiB\n{repr(given)[:2000]}"
    return ""


def fuzz(name: str, seconds: float, seed: int) -> tuple[int, dict[str, tuple[int, str]]]:
    """Run one target for a while.

    Returns:
        How many cases ran, and the first case of each fault, by its last line, with its seed.
    """
    signal.signal(signal.SIGVTALRM, _stop)
    cases, faults = 0, dict[str, tuple[int, str]]()
    with tempfile.TemporaryDirectory() as kept, tempfile.TemporaryDirectory() as spoiled:
        files = write_samples(Path(kept))
        os.chdir(spoiled)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            wrong = run_case(name, seed + cases, files, Path(spoiled))
            if wrong:
                lines = [line for line in wrong.splitlines() if line.startswith("  File")]
                faults.setdefault(lines[-1] if lines else wrong[:60], (seed + cases, wrong))
            cases += 1
        os.chdir("/")
    return cases, faults


def main() -> None:
    """Fuzz the targets one after the other; end with 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="for each target")
    parser.add_argument("--seed", type=int, default=None, help="the first; by default the time")
    parser.add_argument("--target", choices=TARGETS, action="append", help="one target alone")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    seed = int(time.time()) * 1000 if given.seed is None else given.seed
    failed = 0
    for name in given.target or TARGETS:
        cases, faults = fuzz(name, given.seconds, seed)
        failed += len(faults)
        said = f"{len(faults)} faults" if faults else "no fault"
        print(f"{name}: {cases:,} cases, seeds {seed} to {seed + cases - 1}: {said}", flush=True)
        for at, wrong in faults.values():
            print(f"--- seed {at}\n{wrong}", flush=True)
    print(f"most memory: {peak()} MiB")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
