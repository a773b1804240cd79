"""What a plan costs while training: a step of a frozen ResNet-50, and one `verify()`.

Measured in turn in one process, so that ratios compare neighbours in time; medians of wall time:

    by hand   flags set in a loop over named_parameters(), frozen batch norms put into eval mode
    by plan   examples/resnet/head_and_last_stage.yaml, which freezes the same
    verify    handle.verify() after a step: every frozen parameter and held statistic, to the bit

That both freeze the same parameters, and that both end on the same bits, is asserted: they do the
same work. Promised: a step by plan takes within 2 % of one by hand, and verify() under 5 % of it.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --framework paddle --batch 4 --size 64 --steps 5
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
from examples.resnet import models

PLAN = uf.FreezePlan.load(ROOT / "examples" / "resnet" / "head_and_last_stage.yaml")
TRAINED = ("layer4.", "fc.")
LR, MOMENTUM = 1e-2, 0.9


class Torch:
    """What the benchmark needs to know of torch."""

    name = "torch"

    @staticmethod
    def model() -> Any:
        """Build the network, the same each time."""
        import torch

        torch.manual_seed(0)
        return models.torch_resnet50()

    @staticmethod
    def freeze_by_hand(model: Any) -> None:
        """Freeze as a careful user does: flags, then the norms whose parameters are all frozen."""
        from torch import nn

        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith(TRAINED)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()

    @staticmethod
    def stepper(model: Any, images: Any, labels: Any) -> Callable[[], None]:
        """Return one training step, optimizer included."""
        import torch
        from torch.nn import functional

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=LR, momentum=MOMENTUM)
        x, y = torch.from_numpy(images), torch.from_numpy(labels)

        def step() -> None:
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step


class Paddle:
    """What the benchmark needs to know of Paddle."""

    name = "paddle"

    @staticmethod
    def model() -> Any:
        """Build the network, the same each time."""
        import paddle

        paddle.seed(0)
        return models.paddle_resnet50()

    @staticmethod
    def freeze_by_hand(model: Any) -> None:
        """Freeze as a careful user does: flags, then the norms whose parameters are all frozen."""
        from paddle import nn

        for name, parameter in model.named_parameters():
            if not name.endswith(("._mean", "._variance")):
                parameter.stop_gradient = not name.startswith(TRAINED)
        model.train()
        for layer in model.sublayers():
            if isinstance(layer, nn.BatchNorm2D) and layer.weight.stop_gradient:
                layer.eval()

    @staticmethod
    def stepper(model: Any, images: Any, labels: Any) -> Callable[[], None]:
        """Return one training step, optimizer included."""
        import paddle
        from paddle.nn import functional

        trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
        optimizer = paddle.optimizer.Momentum(LR, MOMENTUM, parameters=trained)
        x, y = paddle.to_tensor(images), paddle.to_tensor(labels)

        def step() -> None:
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.clear_grad()

        return step


def seconds(run: Callable[[], object]) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(framework: Any, batch: int, size: int, steps: int) -> dict[str, list[float]]:
    """Return the wall time of every contender, step by step."""
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, 3, size, size), np.float32)
    labels = random.integers(0, 1000, batch)
    by_hand, by_plan = framework.model(), framework.model()
    framework.freeze_by_hand(by_hand)
    handle = PLAN.apply(by_plan)
    by_plan.train()
    hand = framework.stepper(by_hand, images, labels)
    plan = framework.stepper(by_plan, images, labels)
    times: dict[str, list[float]] = {"by hand": [], "by plan": [], "verify": []}
    for number in range(steps + 1):
        order = [("by hand", hand), ("by plan", plan)]
        # Who comes first takes turns, too; the first round warms up and does not count.
        for label, run in [*order[:: 1 if number % 2 else -1], ("verify", handle.verify)]:
            taken = seconds(run)
            if number:
                times[label].append(taken)
    check_same(by_hand, by_plan)
    return times


def check_same(by_hand: Any, by_plan: Any) -> None:
    """Stop unless both froze the same, and ended on the same bits."""
    others = dict(by_plan.state_dict())
    for name, value in by_hand.state_dict().items():
        if not np.array_equal(value.numpy(), others[name].numpy()):
            raise SystemExit(f"{name} differs: they did not do the same work")


def rows(times: dict[str, list[float]]) -> list[str]:
    """Lay the results out, with the ratios that are promised."""
    lines = [f"{label:8} {1000 * median(found):8.1f} ms" for label, found in times.items()]
    pairs = list(zip(times["by plan"], times["by hand"], times["verify"], strict=True))
    slower = median(plan / hand - 1 for plan, hand, _ in pairs)
    share = median(verify / plan for plan, _, verify in pairs)
    lines.append(f"a step by plan takes {100 * slower:+.2f} % of one by hand")
    lines.append(f"verify() takes {100 * share:.2f} % of a step")
    return lines


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="a training step under a plan, against by hand")
    parser.add_argument("--framework", choices=("torch", "paddle"), default="torch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--steps", type=int, default=11)
    given = parser.parse_args()
    framework = {"torch": Torch, "paddle": Paddle}[given.framework]
    __import__(framework.name)
    print("\n".join(describe_machine(framework.name)))
    shape = f"{given.batch} images of {given.size}x{given.size}"
    print(f"ResNet-50, {shape}, float32, SGD with momentum, medians of {given.steps} steps\n")
    print("\n".join(rows(measure(framework, given.batch, given.size, given.steps))))


if __name__ == "__main__":
    main()
