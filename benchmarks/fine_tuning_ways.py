"""The ways to fine-tune that are compared: by hand, by libraries, by plan, and with a cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import unifreeze as uf
from benchmarks.fine_tuning_networks import PLANS, two_stages

PEERS = ("timm", "Lightning", "finetuning-scheduler", "fastai")
"""Libraries that freeze models of torch."""
PACKAGES = {
    "timm": (("timm",), ()),
    "Lightning": (("lightning", "pytorch-lightning", "torchmetrics"), ("lightning-utilities",)),
    "finetuning-scheduler": (("finetuning-scheduler",), ()),
    "fastai": (
        ("fastai", "fasttransform"),
        ("fastcore", "fastprogress", "fastdownload", "plum-dispatch", "cloudpickle", "matplotlib",
         "pandas", "scipy", "scikit-learn"),
    ),
}  # fmt: skip
"""What pip installs for each: packages that ask for a torch of their own, without that; others."""
FASTER = "faster"
OURS = ("full", "by hand", "two-stage", "by plan", "cached", FASTER)
PREFIX = {"torch": "bfloat16", "paddle": "inference"}
"""The faster prefix of each framework."""


class Way:
    """One way to train a copy of a model.

    Attributes:
        epochs: Seconds of each step, a list for each epoch.
        losses: The loss of each step.
    """

    def __init__(
        self, framework: Any, logits: Callable[[int, Any], Any], optimizer: Any, block: Any
    ) -> None:
        self._framework, self._logits, self._optimizer = framework, logits, optimizer
        self.block = block
        self.epochs: list[list[float]] = []
        self.losses: list[float] = []

    def step(self, number: int, batch: Any, labels: Any) -> None:
        """Train on a batch."""
        start = self._framework.seconds()
        result = self._logits(number, batch)
        loss = self._framework.functional.cross_entropy(result, labels)
        loss.backward()
        self._optimizer.step()
        self._framework.clear(self._optimizer)
        self.losses.append(float(loss))
        self.epochs[-1].append(self._framework.seconds() - start)


def plan_of(kind: str, plan: str) -> uf.FreezePlan:
    """Return the plan for a network, with dropout off in what is frozen."""
    rule = PLANS[kind][plan]
    return uf.FreezePlan.from_yaml(f"unifreeze: 1\nrules: [{{only: '{rule}'}}]\ndropout: off\n")


def make_way(name: str, framework: Any, kind: str, plan: str) -> Way:
    """Build a model and freeze it.

    Raises:
        ImportError: A library is not installed, or does not work beside this torch.
    """
    model = framework.make(kind)
    rules = plan_of(kind, plan)
    block: Any = nullcontext()
    call = lambda _, batch: framework.logits(model, batch)  # noqa: E731
    optimizer = None
    if name in ("by plan", "cached", FASTER):
        handle = rules.apply(model)
        model.train()
        if name != "by plan":
            block = handle.cached(prefix=PREFIX[framework.name] if name == FASTER else "exact")
    elif name == "full":
        model.train()
    else:
        trained = set(rules.resolve(model).trainable_paths)
        if name in PEERS:
            optimizer = _FREEZERS[name](model, trained)
        else:
            framework.train_only(model, trained)
        if name == "two-stage":
            call = _from_features(framework, model, kind, plan)
    return Way(framework, call, optimizer or framework.optimizer(model), block)


def _from_features(framework: Any, model: Any, kind: str, plan: str) -> Any:
    early, late = two_stages(framework, model, kind, plan)
    features: dict[int, Any] = {}

    def call(number: int, batch: Any) -> Any:
        if number not in features:
            with framework.no_grad():
                features[number] = early(batch)
        return late(features[number])

    return call


def _frozen_modules(model: Any, trained: set[str]) -> list[str]:
    """Return the outermost modules without a trained parameter, by name."""
    names: list[str] = []
    for name, module in model.named_modules():
        inside = [f"{name}.{path}" for path, _ in module.named_parameters()]
        if name and inside and not trained & set(inside):
            names += [] if any(name.startswith(f"{n}.") for n in names) else [name]
    return names


def _with_timm(model: Any, trained: set[str]) -> None:
    freeze = import_module("timm.utils").freeze

    model.train()
    freeze(model, _frozen_modules(model, trained))


def _with_lightning(model: Any, trained: set[str]) -> None:
    callbacks = import_module("lightning.pytorch.callbacks")
    model.train()
    frozen = [model.get_submodule(name) for name in _frozen_modules(model, trained)]
    callbacks.BackboneFinetuning.freeze(frozen, train_bn=False)


def _with_scheduler(model: Any, trained: set[str]) -> None:
    library = import_module("finetuning_scheduler")
    phases = import_module("finetuning_scheduler.strategy_adapters").StrategyAdapter
    model.train()
    library.FinetuningScheduler.freeze(model, train_bn=False)
    phases.base_ft_phase(model, thaw_pl=sorted(trained), init_thaw=True)


def _with_fastai(model: Any, trained: set[str]) -> Any:
    adam = import_module("fastai.optimizer").Adam
    model.train()
    named = dict(model.named_parameters())
    groups = [[p for n, p in named.items() if (n in trained) is wanted] for wanted in (False, True)]
    optimizer = adam(groups, lr=1e-5, wd=0.01)
    optimizer.freeze_to(-1)
    return optimizer


_FREEZERS: dict[str, Callable[[Any, set[str]], Any]] = {
    "timm": _with_timm,
    "Lightning": _with_lightning,
    "finetuning-scheduler": _with_scheduler,
    "fastai": _with_fastai,
}
