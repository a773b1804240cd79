"""What an attached schedule, and `check_flags()`, cost at each step: ResNet-18 on the CPU.

Timed in one run: whole training steps, and by itself what the schedule adds to each, which is
`handle.step(step=n)` and the rates that are set around the optimizer's own step; and
`handle.check_flags()` by itself. The shares are of medians. Promised: each under 0.5 % of a step.

    python benchmarks/schedule_step.py
    python benchmarks/schedule_step.py --framework paddle --steps 20
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import unifreeze as uf
from benchmarks.machine import describe_machine
from unifreeze._cli.find_model import load_model

MODELS = {
    "torch": "tests.support.pairs.vision:torch_model('resnet18')",
    "paddle": "tests.support.pairs.vision:paddle_model('resnet18')",
}
PLAN = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: top, rules: [{only: "head | stages[-1]"}], lr: 1e-3}
  - {name: full, at: {step: 1000000}, add: [{train: all}], lr: 1e-4, weight_decay: 1e-4}
"""
)


def seconds(run: Callable[[], object]) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def build(framework: str, images: Any) -> tuple[uf.Handle, Callable[[], None], Callable[[], None]]:
    """Return the handle, a whole training step, and the optimizer's step without gradients."""
    model, _ = load_model(MODELS[framework])
    model = model.float() if framework == "torch" else model.to(dtype="float32")
    handle = PLAN.apply(model)
    if framework == "torch":
        import torch

        optimizer = handle.optimizer(torch.optim.SGD, momentum=0.9)
        x: Any = torch.from_numpy(images)
        clear = optimizer.zero_grad
    else:
        import paddle

        optimizer = handle.optimizer(paddle.optimizer.Momentum, momentum=0.9)
        x = paddle.to_tensor(images)
        clear = optimizer.clear_grad

    def train() -> None:
        (model(x) ** 2).mean().backward()
        optimizer.step()
        clear()

    return handle, train, optimizer.step


def measure(framework: str, steps: int, batch: int, size: int) -> tuple[float, float, float]:
    """Return the median time of a step, of what the schedule adds to one, and of `check_flags`."""
    images = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
    handle, train, empty = build(framework, images)
    handle.step(step=0)
    train()
    whole, added, steered, plain, checked = [], [], [], [], []
    for number in range(steps):
        added.append(seconds(lambda n=number: handle.step(step=n)))  # type: ignore[misc]
        whole.append(seconds(train))
        checked.append(seconds(handle.check_flags))
        steered += [seconds(empty) for _ in range(20)]
    handle.remove()
    plain = [seconds(empty) for _ in range(20 * steps)]
    schedule = median(added) + max(0.0, median(steered) - median(plain))
    return median(whole), schedule, median(checked)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="what an attached schedule costs per step")
    parser.add_argument("--framework", choices=MODELS, default="torch")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    given = parser.parse_args()
    print(*describe_machine(given.framework), sep="\n")
    step, added, checked = measure(given.framework, given.steps, given.batch, given.size)
    share, of_check = 100 * added / step, 100 * checked / step
    print(f"a step {1e3 * step:.1f} ms, the schedule {1e6 * added:.0f} us: {share:.3f} % of it")
    print(f"check_flags() {1e6 * checked:.0f} us: {of_check:.3f} % of it")
    return 0 if max(share, of_check) < 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
