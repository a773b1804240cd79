"""What beginners give in place of the right thing, and which of it is right where."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import unifreeze as uf
from tests.support.public_names import Public
from unifreeze._evidence import make_record
from unifreeze._protocol import ProbeConfig

PHASES = uf.FreezePlan.from_yaml("""
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: all, at: {epoch: 1}, rules: [{train: all}]}
""")
HEAD = uf.FreezePlan().only("head")


@dataclass
class World:
    """A framework, and values of every kind in it.

    Attributes:
        framework: Its name.
        folder: A folder to write into.
    """

    framework: str
    folder: Path
    instances: dict[str, Any] = field(default_factory=dict)

    @property
    def kit(self):
        return import_module(f"tests.support.kits.{self.framework}_kit").kit

    @property
    def batch(self):
        return self.kit.plain.batch.args[0]

    @property
    def optimizers(self):
        return import_module({"torch": "torch.optim", "paddle": "paddle.optimizer"}[self.framework])

    def model(self):
        return self.kit.plain.make()

    def tensor(self):
        return self.kit.backend.objects(self.model())["head.weight"]

    def optimizer(self):
        tensors = [self.tensor()]
        if self.framework == "torch":
            return self.optimizers.SGD(tensors, lr=0.1)
        return self.optimizers.SGD(learning_rate=0.1, parameters=tensors)

    def huge(self):
        """A model whose own text is pages long."""
        made = self.model()
        made.tail = type(made.blocks)([type(made.head)(2, 3 + n) for n in range(200)])
        assert len(repr(made)) > 5000
        return made

    def handle(self):
        return PHASES.apply(self.model())

    def instance(self, kind: str) -> Any:
        """Return an object whose methods are called."""
        if kind not in self.instances:
            self.instances[kind] = INSTANCES[kind](self)
        return self.instances[kind]

    @cached_property
    def ready(self):
        """A model that stays as it is: calls that are refused change nothing."""
        return self.model()

    @cached_property
    def wrong(self) -> dict[str, Any]:
        """A value of every kind."""
        return {name: make(self) for name, make in WRONG.items()}


def _compared(world):
    plans = {"head": HEAD}
    return uf.compare_plans(plans, world.model, lambda m, h: None, lambda m: 1.0, progress=False)


def _reported(world):
    handle = world.handle()
    handle.step(epoch=0)
    return handle.report(metrics={"val_loss": 1.0})


def _record(world):
    config = ProbeConfig(world.kit.plain.batch, steps=1)
    return make_record(HEAD, world.model(), world.kit.backend, config, device="cpu", name="plain")


def _step(world):
    return uf.check_step(HEAD, world.model(), world.model(), batch=world.batch)


INSTANCES = {
    "AlignmentReport": lambda world: uf.align(
        world.model(), world.model(), batch=world.batch, steps=2
    ),
    "CachedRun": lambda world: world.handle().cached(),
    "Capture": lambda world: uf.capture(world.model()),
    "Comparison": _compared,
    "Estimate": lambda world: world.handle().estimate(world.batch, examples=10),
    "FreezePlan": lambda world: HEAD,
    "Handle": World.handle,
    "Pairing": lambda world: uf.pair(world.model(), world.model(), batch=world.batch),
    "Phase": lambda world: PHASES.phases[0],
    "Picture": lambda world: HEAD.resolve(world.model()).to_svg(),
    "PlanRow": lambda world: world.instance("Comparison").rows[0],
    "Ported": lambda world: uf.port_weights(world.model(), world.model(), batch=world.batch),
    "Record": _record,
    "Report": lambda world: uf.check_parity(HEAD, world.model(), world.model(), batch=world.batch),
    "Resolution": lambda world: HEAD.resolve(world.model()),
    "RunReport": _reported,
    "Selector": lambda world: uf.Selector("head"),
    "StepReport": _step,
    "Suggestion": lambda world: uf.suggest(world.model(), examples=2000),
    "Timeline": lambda world: PHASES.timeline(world.model()),
    "Verified": lambda world: world.handle().verify(),
}
"""An object of each public class."""

WRONG: dict[str, Callable[[World], Any]] = {
    "None": lambda world: None,
    "a flag": lambda world: True,
    "a number": lambda world: 3,
    "a share": lambda world: 0.5,
    "text": lambda world: "zzz",
    "empty text": lambda world: "",
    "a long text": lambda world: "head | " * 5000,
    "bytes": lambda world: b"head",
    "texts": lambda world: ["head", "norm"],
    "texts in a tuple": lambda world: ("head", "norm"),
    "texts in a set": lambda world: {"head", "norm"},
    "a long list": lambda world: list(range(100_000)),
    "a document": lambda world: {"rules": [{"only": "head"}]},
    "an empty mapping": lambda world: {},
    "metrics": lambda world: {"val_loss": 0.5},
    "a class": lambda world: dict,
    "an object": lambda world: object(),
    "a function": lambda world: lambda: None,
    "an error": lambda world: ValueError("no"),
    "an array": lambda world: np.zeros((8, 6), np.float32),
    "a tensor": World.tensor,
    "a model": World.huge,
    "a model's class": lambda world: type(world.model()),
    "models": lambda world: [world.model(), world.model()],
    "an optimizer": World.optimizer,
    "an optimizer's class": lambda world: world.optimizers.SGD,
    "a plan": lambda world: HEAD,
    "a plan's class": lambda world: uf.FreezePlan,
    "a handle": World.handle,
    "a resolution": lambda world: HEAD.resolve(world.model()),
    "a selector": lambda world: uf.Selector("head"),
    "a path": lambda world: world.folder / "nothing.yaml",
    "a state dict": lambda world: dict(world.kit.backend.objects(world.model())),
}
"""What a beginner may give, by what it is."""

MODEL = {"a model"}
ANYTHING = {
    "model": MODEL,
    "one": MODEL,
    "other": MODEL,
    "source": MODEL,
    "target": MODEL,
    "batch": {
        *("None", "a flag", "a number", "a share", "a long list", "an array", "a tensor"),
        *("an empty mapping", "metrics", "a state dict"),
    },
    "optimizer": {"an optimizer", "None"},
    "optimizers": {"an optimizer"},
    "data": set(),
}
"""For parameters of any type: what is right, or wrong for a reason that its type does not show."""

GOOD: dict[str, Callable[[World], Any]] = {
    **dict.fromkeys(("model", "one", "other", "source", "target"), lambda world: world.ready),
    "plan": lambda world: HEAD,
    "what": lambda world: "backbone",
    "match": lambda world: "head",
    "place": lambda world: "head",
    "pattern": lambda world: "head.*",
    "batch": lambda world: world.batch,
    "batches": lambda world: [world.batch],
    "text": lambda world: "unifreeze: 1\nrules: [{only: head}]",
    "path": lambda world: world.folder / "file",
    "folder": lambda world: world.folder / "best",
    "data": lambda world: {},
    "policy": lambda world: "hold",
    "phase": lambda world: 0,
    "number": lambda world: 0,
    "metric": lambda world: "loss",
    "mode": lambda world: "min",
    "state": lambda world: {},
    "call": lambda world: lambda phase: None,
    "cls": lambda world: world.optimizers.SGD,
    "optimizer": World.optimizer,
    "metrics": lambda world: {"loss": 1.0},
    "plans": lambda world: {"head": HEAD},
    "layer": lambda world: "no_such_library.layers.Dense",
    "kind": lambda world: "linear",
    "make_model": lambda world: world.model,
    "train": lambda world: lambda model, handle: None,
    "evaluate": lambda world: lambda model: 1.0,
    "examples": lambda world: 10,
    "epochs": lambda world: 3,
    "make": lambda world: world.model,
    "backend": lambda world: world.kit.backend,
    "plain": lambda world: world.kit.plain,
    "tied": lambda world: world.kit.tied,
    "loose": lambda world: world.kit.loose,
    "Selector.text": lambda world: "head",
    "pairing": lambda world: world.instance("Pairing"),
    "port_file.source": lambda world: world.folder / "weights.safetensors",
    "port_file.target": lambda world: world.folder / "ported.safetensors",
    "Pairing.read.source": lambda world: "here",
    "Record.read.source": lambda world: "here",
    "Example.batch": lambda world: world.kit.plain.batch,
}
"""What is right, by the parameter's name, or by the function's with it."""


def good(world: World, public: Public, parameter: str) -> Any:
    """Return a value that is right."""
    names = [name for name in (f"{public.name}.{parameter}", parameter) if name in GOOD]
    assert names, f"say in GOOD what is right for {parameter!r} of {public}"
    return GOOD[names[0]](world)


def wrong_values(world: World, public: Public, parameter: str) -> dict[str, Any]:
    """Return the values that a parameter must refuse, by what they are."""
    annotation = public.annotation(parameter)
    if annotation in (Any, object):
        assert parameter in ANYTHING, f"say in ANYTHING what {parameter!r} of {public} takes"
        right = ANYTHING[parameter]
        return {name: value for name, value in world.wrong.items() if name not in right}
    return {name: value for name, value in world.wrong.items() if is_wrong(annotation, value)}


def is_wrong(annotation: Any, value: Any) -> bool:
    """Tell whether a value is not of an annotated type, as far as its class alone shows it."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    wanted = typing.get_args(annotation) if is_union else (annotation,)
    return not any(_is_of(value, one) for one in wanted)


def _is_of(value: Any, wanted: Any) -> bool:
    origin = typing.get_origin(wanted) or wanted
    if wanted is None or origin is Any:
        return origin is Any or value is None
    if origin is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(wanted)
    if origin in (int, float):
        return isinstance(value, int if origin is int else (int, float)) and value is not True
    if origin in (Iterable, Sequence) and isinstance(value, str | bytes | Mapping):
        return False
    return callable(value) if origin is Callable else isinstance(value, origin)
