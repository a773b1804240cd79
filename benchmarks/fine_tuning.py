"""What fine-tuning costs with parts frozen: by hand, by plan, and with the frozen part cached.

All contenders train copies of one model on the same batches, in turn for each batch, in one
process and one thread; a figure is the sum of their CPU times over an epoch:

    full       everything trains
    by hand    flags set in a loop, and frozen modules in eval mode
    two-stage  by hand: features are computed once, then the rest of the model trains on them
    by plan    a plan, without a cache
    cached     the same under handle.cached()

Ratios are those of one run. The limit is that of handle.estimate, by operations. How far losses
differ from those by hand is printed; where dropout is live, each way draws other numbers.

    OMP_NUM_THREADS=1 python benchmarks/fine_tuning.py --framework paddle --model ernie --plan top
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import unifreeze as uf
from benchmarks.machine import describe_machine
from examples.ernie import models as ernie
from examples.resnet import models as resnet

PLANS = {
    "resnet": {"head": "head", "top": 'head | path:"layer4"'},
    "ernie": {
        "head": "classifier",
        "top": "head | blocks[-2:]",
        "embeddings": "head | blocks[-2:] | embeddings",
    },
}


class Torch:
    """What the benchmark needs to know of torch."""

    name = "torch"

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self.library, self.tensor = torch, torch.from_numpy
        self.layers, self.functional = torch.nn, torch.nn.functional

    def make(self, model: str) -> Any:
        """Build a network, the same each time."""
        self.library.manual_seed(0)
        return resnet.torch_resnet50() if model == "resnet" else ernie.torch_ernie()

    def train_only(self, model: Any, trained: set[str]) -> None:
        """Freeze by hand: flags, then modules without a trainable parameter."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name in trained
        model.train()
        for module in model.modules():
            if not any(p.requires_grad for p in module.parameters()):
                module.eval()

    def optimizer(self, model: Any) -> Any:
        """Build AdamW over what trains."""
        trained = [p for p in model.parameters() if p.requires_grad]
        return self.library.optim.AdamW(trained, lr=1e-5)

    def clear(self, optimizer: Any) -> None:
        """Drop gradients."""
        optimizer.zero_grad()

    def logits(self, model: Any, batch: Any) -> Any:
        """Return a model's logits."""
        result = model(batch)
        return getattr(result, "logits", result)

    def no_grad(self) -> Any:
        """Return a block without gradient."""
        return self.library.no_grad()

    def parts(self, model: Any) -> tuple[Any, list[Any], Callable[[Any], Any]]:
        """Return a text model's embeddings, its layers, and what follows them."""
        body = model.ernie

        def rest(hidden: Any) -> Any:
            return model.classifier(model.dropout(body.pooler(hidden)))

        return body.embeddings, list(body.encoder.layer), rest


class Paddle:
    """What the benchmark needs to know of Paddle."""

    name = "paddle"

    def __init__(self) -> None:
        import paddle

        self.library, self.tensor = paddle, paddle.to_tensor
        self.layers, self.functional = paddle.nn, paddle.nn.functional

    def make(self, model: str) -> Any:
        """Build a network, the same each time."""
        self.library.seed(0)
        return resnet.paddle_resnet50() if model == "resnet" else ernie.paddle_ernie()

    def train_only(self, model: Any, trained: set[str]) -> None:
        """Freeze by hand: flags, then modules without a trainable parameter."""
        for name, parameter in model.named_parameters():
            if not name.endswith(("._mean", "._variance")):
                parameter.stop_gradient = name not in trained
        model.train()
        for module in model.sublayers(include_self=True):
            if all(p.stop_gradient for p in module.parameters()):
                module.eval()

    def optimizer(self, model: Any) -> Any:
        """Build AdamW over what trains."""
        trained = [p for p in model.parameters() if not p.stop_gradient]
        return self.library.optimizer.AdamW(1e-5, parameters=trained, weight_decay=0.01)

    def clear(self, optimizer: Any) -> None:
        """Drop gradients."""
        optimizer.clear_grad()

    def logits(self, model: Any, batch: Any) -> Any:
        """Return a model's logits."""
        return model(batch)

    def no_grad(self) -> Any:
        """Return a block without gradient."""
        return self.library.no_grad()

    def parts(self, model: Any) -> tuple[Any, list[Any], Callable[[Any], Any]]:
        """Return a text model's embeddings, its layers, and what follows them."""
        body = model.ernie

        def rest(hidden: Any) -> Any:
            return model.classifier(model.dropout(body.pooler(hidden)))

        return body.embeddings, list(body.encoder.layers), rest


def two_stages(
    framework: Any, model: Any, kind: str, plan: str
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return what computes features, and what trains on them, written for these models."""
    if kind == "resnet":

        def early(x: Any) -> Any:
            relu = framework.functional.relu
            x = model.maxpool(relu(model.bn1(model.conv1(x))))
            x = model.layer3(model.layer2(model.layer1(x)))
            return model.avgpool(model.layer4(x)) if plan == "head" else x

        def late(x: Any) -> Any:
            x = x if plan == "head" else model.avgpool(model.layer4(x))
            return model.fc(x.flatten(1))

        return early, late
    embeddings, layers, rest = framework.parts(model)
    cut = len(layers) - 2 if plan == "top" else len(layers)

    def through(hidden: Any, some: list[Any]) -> Any:
        for layer in some:
            result = layer(hidden)
            hidden = result[0] if isinstance(result, tuple) else result
        return hidden

    if plan == "head":
        pooler = getattr(model, "ernie").pooler  # noqa: B009
        return (
            lambda ids: pooler(through(embeddings(ids), layers)),
            lambda pooled: model.classifier(model.dropout(pooled)),
        )
    return (
        lambda ids: through(embeddings(ids), layers[:cut]),
        lambda hidden: rest(through(hidden, layers[cut:])),
    )


class Contender:
    """One way to train, with the time that it took in each epoch."""

    def __init__(self, framework: Any, logits: Callable[[int, Any], Any], optimizer: Any) -> None:
        self._framework, self._logits, self._optimizer = framework, logits, optimizer
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def step(self, number: int, batch: Any, labels: Any) -> None:
        """Train on a batch."""
        start = time.process_time()
        result = self._logits(number, batch)
        loss = self._framework.functional.cross_entropy(result, labels)
        loss.backward()
        self._optimizer.step()
        self._framework.clear(self._optimizer)
        self.losses.append(float(loss))
        self.seconds[-1] += time.process_time() - start


def contenders(
    framework: Any, kind: str, plan: str, resolved: Any, chosen: set[str]
) -> Iterator[tuple[str, Contender, Any]]:
    """Yield the name of each way to train, the way, and the block that it runs in."""
    for name in chosen:
        model = framework.make(kind)
        block: Any = nullcontext()
        if name in ("by plan", "cached"):
            handle = resolved.apply(model)
            model.train()
            block = handle.cached() if name == "cached" else block
        elif name == "full":
            model.train()
        else:
            framework.train_only(model, set(resolved.resolve(model).trainable_paths))
        call = lambda _, batch, m=model: framework.logits(m, batch)  # noqa: E731
        if name == "two-stage":
            call = _two_stage_call(framework, model, kind, plan)
        yield name, Contender(framework, call, framework.optimizer(model)), block


def _two_stage_call(framework: Any, model: Any, kind: str, plan: str) -> Any:
    early, late = two_stages(framework, model, kind, plan)
    features: dict[int, Any] = {}

    def call(number: int, batch: Any) -> Any:
        if number not in features:
            with framework.no_grad():
                features[number] = early(batch)
        return late(features[number])

    return call


def data(kind: str, batches: int, size: int, length: int) -> list[tuple[Any, Any]]:
    """Return batches of made-up inputs and labels."""
    random = np.random.default_rng(0)
    if kind == "resnet":
        images = random.standard_normal((batches, size, 3, length, length), np.float32)
        return [(part, random.integers(0, 1000, size)) for part in images]
    ids = random.integers(1, 1000, (batches, size, length))
    return [(part, random.integers(0, 2, size)) for part in ids]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--framework", choices=("torch", "paddle"), default="torch")
    parser.add_argument("--model", choices=tuple(PLANS), default="ernie")
    parser.add_argument("--plan", default="top")
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128, help="of texts, or of images' sides")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    framework = Torch() if options.framework == "torch" else Paddle()
    plan = uf.FreezePlan.from_yaml(
        f"unifreeze: 1\nrules: [{{only: '{PLANS[options.model][options.plan]}'}}]\ndropout: off\n"
    )
    names = ["full", "by hand", "by plan"]
    if options.plan != "embeddings":
        names += ["two-stage", "cached"]
    batches = data(options.model, options.batches, options.batch, options.length)
    first = framework.make(options.model)
    estimate = plan.apply(first).estimate(
        batches[0][0], examples=options.batches * options.batch, epochs=options.epochs
    )
    del first
    ways = list(contenders(framework, options.model, options.plan, plan, dict.fromkeys(names)))
    run = _train(framework, ways, batches, options.epochs)
    print("\n".join(describe_machine(framework.name)))
    _report({name: way for name, way, _ in ways}, estimate, options.epochs)
    print(run if run is not None else estimate.why_not)


def _train(framework: Any, ways: list[Any], batches: list[Any], epochs: int) -> Any:
    for _, _, block in ways:
        block.__enter__()
    for epoch in range(epochs):
        for _, way, _ in ways:
            way.seconds.append(0.0)
        for number in np.random.default_rng(epoch).permutation(len(batches)).tolist():
            inputs, labels = (framework.tensor(part) for part in batches[number])
            for _, way, _ in ways:
                way.step(number, inputs, labels)
    for _, _, block in ways:
        block.__exit__(None, None, None)
    return next((block for name, _, block in ways if name == "cached"), None)


def _report(ways: dict[str, Contender], estimate: Any, epochs: int) -> None:
    for name, way in ways.items():
        if name not in ("full", "two-stage", "by hand"):
            gap = np.abs(np.subtract(way.losses, ways["by hand"].losses)).max()
            print(f"{name}: losses differ from those by hand by {gap:.1e} at most")
    print(
        f"{'':10} {'epoch 1':>9} {'epoch 2':>9}   full/this in epochs 1, 2, and {epochs} together"
    )
    full = ways["full"].seconds
    for name, way in ways.items():
        first, second = way.seconds[0], way.seconds[-1]
        ratios = full[0] / first, full[-1] / second, sum(full) / sum(way.seconds)
        times = "   ".join(f"{ratio:.2f}x" for ratio in ratios)
        print(f"{name:10} {first:8.2f}s {second:8.2f}s   {times}")
    print(
        f"limit by operations: {estimate.limit:.2f}x without, {estimate.cached_limit:.3g}x with a "
        f"cache; predicted {estimate.predicted:.2f}x and {estimate.predicted_cached:.3g}x"
    )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB, all")


if __name__ == "__main__":
    main()
