"""How long a browser takes to show the page of a model of 10,000 parameters; fails over 2 s.

python -m tests.support.large_page [--parameters 10000] [--within 2.0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.support.browser import Browser
from tests.support.pages import PHASES, page_of
from tests.support.trees import linear, module, norm, spec, stack

LINEARS = 19
"""Linear layers of a block; with a norm, a block has 40 parameters."""
TRIES = 3


def large_model(parameters: int):
    """A model of at least so many parameters, in blocks of 40."""
    layers = {f"linear{n}": linear(8, 8) for n in range(LINEARS)}
    count = -(-parameters // (2 * LINEARS + 2))
    blocks = (
        module("Block", **{name: linear(8, 8) for name in layers}, norm=norm(8))
        for _ in range(count)
    )
    return spec(module("Net", layers=stack(*blocks), head=linear(8, 2)))


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=10_000)
    parser.add_argument("--within", type=float, default=2.0)
    wanted = parser.parse_args()
    model = large_model(wanted.parameters)
    start = time.perf_counter()
    html = page_of(model, PHASES)
    written = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        page = Path(folder) / "report.html"
        page.write_text(html, encoding="utf-8")
        slowest = 0.0
        for width in (1280, 390):
            shown = min(browser.open(page, width=width) for _ in range(TRIES))
            change = min(browser.run(_TIMED.format("enter(phase ? 0 : 2)")) for _ in range(TRIES))
            search = min(browser.run(_TIMED.format("search('linear1 7')")) for _ in range(TRIES))
            browser.run("search('')")
            slowest = max(slowest, shown, change, search)
            print(f"{width} pixels: shown in {shown:.2f} s, phase {change:.2f} s, "
                  f"search {search:.2f} s")  # fmt: skip
    print(f"{len(model):,} parameters, {len(html):,} characters, written in {written:.2f} s; "
          f"slowest step {slowest:.2f} s, {wanted.within:.2f} s allowed")  # fmt: skip
    return int(slowest > wanted.within)


_TIMED = (
    "(async () => {{ const start = performance.now(); {};"
    " await new Promise(r => requestAnimationFrame(() => setTimeout(r)));"
    " return (performance.now() - start) / 1000; }})()"
)

if __name__ == "__main__":
    sys.exit(main())
