"""Carry out as many random operations as wanted: `python -m tests.support.plan_machine`."""

from __future__ import annotations

import argparse
from collections import Counter

from tests.support.plan_machine.machine import Machine
from tests.support.plan_machine.nets import Paddle, Torch

STEPS = 60
"""Operations of one machine, which begins with new models."""


def main() -> None:
    """Run machines of both frameworks, one seed after another, and print what they did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--framework", choices=["torch", "paddle"])
    given = parser.parse_args()
    for side in (Torch, Paddle):
        if given.framework not in (None, side.name):
            continue
        done: Counter[str] = Counter()
        seed = given.seed
        while done.total() < given.operations:
            machine = Machine(side, seed)
            for number in range(STEPS):
                try:
                    machine.step()
                except BaseException:
                    print(f"{side.name}: seed {seed}, operation {number}")
                    raise
            done += machine.done
            seed += 1
        shown = ", ".join(f"{count} {what}" for what, count in done.most_common())
        print(f"{side.name}: {done.total()} operations as the reference has them: {shown}")


main()
