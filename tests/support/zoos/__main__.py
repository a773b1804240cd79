"""Judge what words select in every model of four libraries, by the libraries' own word.

    python -m tests.support.zoos                    all; prints the table
    python -m tests.support.zoos timm paddleclas    these libraries
    python -m tests.support.zoos --write            all; writes docs/en/zoo.md as well

Exits 1 if a word selects something else than the library says and `exceptions.toml` does not list
it, or if it lists what is right, or more than 5 models of a library. `ci/zoo.sh` installs what it
needs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.support.zoos.judging import Row, Unbuilt
from tests.support.zoos.report import PAGE, Verdict, page, table

LIBRARIES = ("transformers", "timm", "paddleclas", "paddlenlp")
LIMIT = 5
"""How many exceptions a library may have."""


def rows_of(library: str, only: Sequence[str]) -> list[Row | Unbuilt]:
    """Judge the models of one library in this process."""
    from tests.support.families import quiet

    module = import_module(f"tests.support.zoos.{library}_models")
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        return list(module.rows(tuple(only)))


def verdict_of(library: str) -> Verdict:
    """Judge the models of one library in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.zoos", library, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{library} was not judged:\n{done.stderr[-3000:]}")
    rows: list[Row | Unbuilt] = [
        Row(*given) if len(given) == len(Row._fields) else Unbuilt(*given)
        for given in json.loads(done.stdout.rpartition("\n\n")[2])
    ]
    return Verdict(library, version(library), rows, time.perf_counter() - start)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description="judge words by what libraries say of their models"
    )
    parser.add_argument("libraries", nargs="*", choices=[[], *LIBRARIES], help="only these")
    parser.add_argument("--write", action="store_true", help="write docs/en/zoo.md")
    parser.add_argument("--json", action="store_true", help="print the rows of one library")
    parser.add_argument("--models", nargs="*", default=[], help="with --json: only these models")
    given: Any = parser.parse_args()
    if given.json:
        # Libraries print while they build models, so the rows come after an empty line.
        print("\n\n" + json.dumps(rows_of(given.libraries[0], given.models)), flush=True)
        return 0
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(verdict_of, given.libraries or LIBRARIES))
    print("\n".join(table(verdicts)))
    faults = [fault for verdict in verdicts for fault in verdict.faults(LIMIT)]
    print("\n".join(["", *faults] if faults else []))
    if given.write and not given.libraries:
        PAGE.write_text(page(verdicts), encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    sys.exit(main())
