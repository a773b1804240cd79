"""What the examples of docstrings mention without making it: models, plans, a batch, a folder."""

from __future__ import annotations

import copy
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import unifreeze as uf


class ExampleNames:
    """Each name that examples know, made when an example mentions it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where an example may write."""

    # Models of two blocks and a head, and what they are trained with.

    @cached_property
    def torch(self) -> Any:
        return import_module("torch")

    @cached_property
    def make_model(self) -> Any:
        return import_module("tests.support.kits.torch_kit").kit.plain.make

    @cached_property
    def model(self) -> Any:
        return self.make_model()

    @property
    def torch_model(self) -> Any:
        return self.model

    @property
    def discriminator(self) -> Any:
        return self.model

    @cached_property
    def paddle_model(self) -> Any:
        return import_module("tests.support.kits.paddle_kit").kit.plain.make()

    @cached_property
    def batch(self) -> Any:
        return import_module("tests.support.kits.torch_kit").kit.plain.batch.args[0]

    @cached_property
    def new_head(self) -> Any:
        return self.torch.nn.Linear(6, 3)

    @cached_property
    def generator(self) -> Any:
        return self.torch.nn.Linear(4, 6)

    @cached_property
    def noise(self) -> Any:
        return self.torch.ones(8, 4)

    @cached_property
    def AdamW(self) -> Any:  # noqa: N802 - the framework's name
        return self.torch.optim.AdamW

    def loss(self, model: Any) -> Any:
        return model(self.torch.from_numpy(self.batch)).square().mean()

    def generator_loss(self, outputs: Any) -> Any:
        return outputs.square().mean()

    def train(self, model: Any, optimizer: Any) -> None:
        for _ in range(2):
            self.loss(model).backward()
            optimizer.step()
            optimizer.zero_grad()

    def train_head(self, model: Any) -> None:
        self.train(model, self.AdamW(model.head.parameters()))

    def fit(self, model: Any, handle: Any) -> None:
        self.train(model, handle.optimizer(self.AdamW, lr=0.001))

    def evaluate(self, model: Any) -> float:
        return float(self.loss(model))

    @cached_property
    def deepcopy(self) -> Any:
        return copy.deepcopy

    # Plans, and what comes of them.

    @cached_property
    def plan(self) -> uf.FreezePlan:
        return uf.FreezePlan().only("head")

    @cached_property
    def phases(self) -> uf.FreezePlan:
        head = uf.FreezePlan().phase("head", rules={"only": "head"}, lr=1e-3)
        return head.phase("all", at={"epoch": 2}, add={"train": "all"}, lr=1e-4)

    @cached_property
    def handle(self) -> uf.Handle:
        return self.plan.apply(self.model)

    @cached_property
    def optimizer(self) -> Any:
        return self.handle.optimizer(self.AdamW, lr=0.001)

    @cached_property
    def record_file(self) -> Path:
        from unifreeze._evidence import make_record
        from unifreeze.backend import Batch, ProbeConfig, load_backend

        probe = ProbeConfig(Batch.of(self.batch))
        record = make_record(
            self.plan, self.model, load_backend("torch"), probe, device="cpu", name="model"
        )
        record.save(self.folder / "torch.json")
        return self.folder / "torch.json"


NAMES = tuple(name for name in (*vars(ExampleNames), "folder") if not name.startswith("_"))
