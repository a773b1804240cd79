"""What a plan costs on large models, against the loop a careful user writes by hand.

Synthetic transformers of 10^3 to 4·10^5 parameter tensors, without values (torch on the meta
device, Paddle under LazyGuard), and 20 rules: paths, globs, words for the structure, set algebra.
Measured, all in turn in one process, medians of CPU time:

    loop       the hand-written loop over named_parameters(): all 20 rules in one function, last
               rule first, regular expressions compiled beforehand
    first      plan.apply(model), nothing cached
    loop again, again
               both once more on the same model: nothing is left to change
    replaced   plan.apply(model) after one parameter object was replaced; that the new one gets its
               flag is asserted

Aimed at: first is at most 1.5 times loop, again at least 4 times faster than loop again (both from
10^5 tensors on). Neither is quite so on a newer processor, where Python is quicker: see the figures
in README.md beside this file. Time grows linearly.

    python benchmarks/plan_engine.py
    python benchmarks/plan_engine.py --framework paddle --sizes 1000 10000 --json out.json
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import unifreeze as uf
from benchmarks.machine import describe_machine
from unifreeze._protocol import load_backend, override_backend

PLAN = (
    uf.FreezePlan()
    .freeze("all")
    .train("blocks[50%:]")
    .train("head")
    .freeze("norm")
    .freeze("**.bias")
    .train("blocks[-2:]")
    .freeze("embed")
    .train("blocks.3")
    .freeze("blocks.3.attention")
    .train("blocks.3.attention.query")
    .freeze("blocks.5.mlp")
    .train("blocks.7.mlp.up.weight")
    .train("blocks.*.attention.value.weight")
    .freeze("blocks[:2]")
    .train("blocks.0.attention.query.bias")
    .freeze("blocks.1?.mlp.gate")
    .freeze("key & weight")
    .train("neck")
    .freeze("head & bias")
    .train("blocks[-1] - norm")
)
"""Twenty rules; each decides something in every size."""

BLOCK = re.compile(r"blocks\.(\d+)\.")
VALUE = re.compile(r"blocks\.\d+\.attention\.value\.weight")
GATE = re.compile(r"blocks\.1\d\.mlp\.gate\.")
TENSORS_PER_BLOCK = 20
TENSORS_BESIDES = 5


def wanted(name: str, blocks: int) -> bool:
    """Decide one parameter by the same twenty rules, the last first."""
    found = BLOCK.match(name)
    block = int(found[1]) if found else -1
    if block == blocks - 1 and "norm" not in name:
        return True
    if name == "head.bias":
        return False
    if name.startswith("norm."):
        return True
    if name.endswith(".key.weight") or GATE.match(name):
        return False
    if name == "blocks.0.attention.query.bias":
        return True
    if 0 <= block < 2:
        return False
    if VALUE.fullmatch(name) or name == "blocks.7.mlp.up.weight":
        return True
    if name.startswith("blocks.5.mlp."):
        return False
    if name.startswith("blocks.3.attention.query."):
        return True
    if name.startswith("blocks.3.attention."):
        return False
    if name.startswith("blocks.3."):
        return True
    if name.startswith("embed."):
        return False
    if block >= blocks - 2:
        return True
    if name.endswith(".bias") or "norm" in name:
        return False
    return name.startswith("head.") or block >= blocks // 2


def torch_model(blocks: int) -> Any:
    """Build the model on the meta device, without the initialisation that has nothing to write."""
    import torch
    from torch import nn

    layers = (nn.Linear, nn.LayerNorm, nn.Embedding)
    kept = {layer: layer.reset_parameters for layer in layers}
    for layer in layers:
        layer.reset_parameters = lambda self: None
    try:
        with torch.device("meta"):
            return transformer(nn.Module, nn.ModuleList, *layers)(blocks)
    finally:
        for layer, method in kept.items():
            layer.reset_parameters = method


def paddle_model(blocks: int) -> Any:
    """Build the model without memory for its parameters."""
    import paddle
    from paddle import nn

    with paddle.LazyGuard():
        return transformer(nn.Layer, nn.LayerList, nn.Linear, nn.LayerNorm, nn.Embedding)(blocks)


def transformer(module: Any, several: Any, linear: Any, norm: Any, table: Any) -> Any:
    """Write the model once for both frameworks: ten layers in a block, two tensors in a layer."""

    class Attention(module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = linear(2, 2), linear(2, 2)
            self.value, self.output = linear(2, 2), linear(2, 2)

    class Mlp(module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.gate, self.down = linear(2, 4), linear(2, 4), linear(4, 2)

    class Block(module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_in, self.attention = norm(2), Attention()
            self.norm_mid, self.mlp = norm(2), Mlp()
            self.norm_out = norm(2)

    class Transformer(module):
        def __init__(self, blocks: int) -> None:
            super().__init__()
            self.embed = table(3, 2)
            self.blocks = several([Block() for _ in range(blocks)])
            self.norm = norm(2)
            self.head = linear(2, 3)

    return Transformer


class Torch:
    """What the benchmark needs to know of torch."""

    name, build = "torch", staticmethod(torch_model)

    @staticmethod
    def loop(model: Any, blocks: int) -> None:
        """Freeze by hand."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad = wanted(name, blocks)

    @staticmethod
    def flag(parameter: Any) -> bool:
        """Tell whether a parameter is trainable."""
        return bool(parameter.requires_grad)

    @staticmethod
    def thaw(model: Any) -> None:
        """Make everything trainable."""
        for parameter in model.parameters():
            parameter.requires_grad = True

    @staticmethod
    def replace(layer: Any) -> Any:
        """Replace a layer's weight by a new trainable parameter."""
        import torch

        layer.weight = torch.nn.Parameter(torch.empty_like(layer.weight))
        return layer.weight


class Paddle:
    """What the benchmark needs to know of Paddle."""

    name, build = "paddle", staticmethod(paddle_model)

    @staticmethod
    def loop(model: Any, blocks: int) -> None:
        """Freeze by hand."""
        for name, parameter in model.named_parameters():
            parameter.stop_gradient = not wanted(name, blocks)

    @staticmethod
    def flag(parameter: Any) -> bool:
        """Tell whether a parameter is trainable."""
        return not parameter.stop_gradient

    @staticmethod
    def thaw(model: Any) -> None:
        """Make everything trainable."""
        for parameter in model.parameters():
            parameter.stop_gradient = False

    @staticmethod
    def replace(layer: Any) -> Any:
        """Replace a layer's weight by a new trainable parameter."""
        import paddle

        with paddle.LazyGuard():
            layer.weight = layer.create_parameter(layer.weight.shape)
        return layer.weight


@contextmanager
def no_collections() -> Any:
    """Build without garbage collections, which take most of the time for large models."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU time of a call, and its result; all begin with no garbage about."""
    gc.collect()
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def forget(framework: Any) -> None:
    """Begin with a backend that has never met the model."""
    override_backend(framework.name, type(load_backend(framework.name)))


def measure(framework: Any, size: int, repeats: int) -> dict[str, float]:
    """Return the median CPU seconds of every contender on a model of about this many tensors."""
    blocks = (size - TENSORS_BESIDES) // TENSORS_PER_BLOCK
    with no_collections():
        model = framework.build(blocks)
    tensors = sum(1 for _ in model.named_parameters())
    times: dict[str, list[float]] = {}

    def take(label: str, run: Callable[[], Any]) -> Any:
        seconds, result = timed(run)
        times.setdefault(label, []).append(seconds)
        return result

    for _ in range(repeats):
        framework.thaw(model)
        take("loop", lambda: framework.loop(model, blocks))
        by_hand = [framework.flag(parameter) for parameter in model.parameters()]
        take("loop again", lambda: framework.loop(model, blocks))
        framework.thaw(model)
        forget(framework)
        take("first", lambda: PLAN.apply(model))
        by_plan = [framework.flag(parameter) for parameter in model.parameters()]
        if by_plan != by_hand:
            raise SystemExit("the plan and the loop disagree: they do not do the same work")
        take("again", lambda: PLAN.apply(model))
        new = framework.replace(model.blocks[2].attention.key)
        handle = take("replaced", lambda: PLAN.apply(model))
        if framework.flag(new):
            raise SystemExit("the replaced parameter was not noticed")
        handle.remove()
    row = {"tensors": float(tensors), **{label: median(found) for label, found in times.items()}}
    # Ratios of neighbours in time: a busy machine slows both.
    row["first/loop"] = median(a / b for a, b in zip(times["first"], times["loop"], strict=True))
    pairs = zip(times["loop again"], times["again"], strict=True)
    row["loop again/again"] = median(a / b for a, b in pairs)
    return row


def rows(results: list[dict[str, float]]) -> list[str]:
    """Lay the results out: nanoseconds per tensor, and the ratios that are promised."""
    columns = ("loop", "first", "loop again", "again", "replaced")
    lines = [
        f"{'tensors':>9}" + "".join(f"{column:>12}" for column in columns)
        + f"{'first/loop':>14}{'loop again/again':>18}"
    ]  # fmt: skip
    for row in results:
        per_tensor = [f"{1e9 * row[column] / row['tensors']:9.0f} ns" for column in columns]
        ratios = f"{row['first/loop']:13.2f}x{row['loop again/again']:17.2f}x"
        lines.append(f"{int(row['tensors']):9}" + "".join(per_tensor) + ratios)
    return lines


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="plan engine against a hand-written loop")
    parser.add_argument("--framework", choices=("torch", "paddle"), default="torch")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 400_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    given = parser.parse_args()
    framework = {"torch": Torch, "paddle": Paddle}[given.framework]
    import_module(framework.name)
    about = describe_machine(framework.name)
    print("\n".join(about))
    print(f"{len(PLAN.rules)} rules, medians of {given.repeats}, CPU time per tensor\n")
    measure(framework, 500, 1)  # imports, grammar, kernels: once per process, not per plan
    results = [measure(framework, size, given.repeats) for size in given.sizes]
    print("\n".join(rows(results)))
    if given.json:
        given.json.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
