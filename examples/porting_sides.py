"""One framework's side of a full port: a live model and what its training loop needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import unifreeze as uf

LABELS = {"torch": "PyTorch", "paddle": "PaddlePaddle"}

Batch = tuple[Any, np.ndarray]
"""Inputs, an array or arrays by name, and the labels."""


class Side:
    """A live model under a plan; what differs between the frameworks is in two subclasses."""

    framework: str
    suffix: str

    def __init__(self, library: str, build: Callable[[], Any], seed: int) -> None:
        self.library, self.api = library, import_module(self.framework)
        self.seed(seed)
        self.model = build()
        self.losses: list[float] = []

    @property
    def label(self) -> str:
        """Name the framework and the library of models."""
        return f"{LABELS[self.framework]} ({self.library})"

    def put_under(self, plan: uf.FreezePlan, optimizer: str, settings: Mapping[str, float]) -> None:
        """Apply a plan and build the optimizer that it asks for."""
        self.handle = plan.apply(self.model)
        self.optimizer = self.handle.optimizer(getattr(self.optimizers(), optimizer), **settings)

    def train_on(self, batch: Batch) -> None:
        """Take one step and keep the loss."""
        inputs, labels = batch
        self.model.train()
        loss = self.api.nn.functional.cross_entropy(self.forward(inputs), self.tensor(labels))
        loss.backward()
        self.optimizer.step()
        self.clear()
        self.losses.append(float(loss))

    def forward(self, inputs: Any, model: Any = None) -> Any:
        """Return the logits of some inputs, by this side's model or a copy of it."""
        model = model or self.model
        if isinstance(inputs, Mapping):
            result = model(**{name: self.tensor(array) for name, array in inputs.items()})
        else:
            result = model(self.tensor(inputs))
        return getattr(result, "logits", result)

    def see(self, inputs: Any) -> None:
        """Let running statistics take in some inputs; nothing is trained."""
        self.model.train()
        with self.api.no_grad():
            self.forward(inputs)

    def evaluate(self, inputs: Any, count: int, size: int = 64) -> np.ndarray:
        """Return the logits of so many inputs in inference mode, in double precision."""
        model = self.double(copy.deepcopy(self.model))
        model.eval()
        rows = [slice(start, start + size) for start in range(0, count, size)]
        with self.api.no_grad():
            parts = [self.forward(_part(inputs, few), model).numpy() for few in rows]
        return np.concatenate(parts)

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of every tensor by name."""
        state = self.model.state_dict()
        return {name: tensor.detach().numpy().copy() for name, tensor in state.items()}


class TorchSide(Side):
    """A PyTorch model."""

    framework, suffix = "torch", ".pt"

    def seed(self, seed: int) -> None:
        """Seed the weights."""
        self.api.manual_seed(seed)

    def double(self, model: Any) -> Any:
        """Convert a model to double precision."""
        return model.double()

    def optimizers(self) -> Any:
        """Return the module of optimizers."""
        return self.api.optim

    def tensor(self, array: np.ndarray) -> Any:
        """Return an array as a tensor."""
        return self.api.from_numpy(array)

    def clear(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad()

    def save(self, file: Path) -> None:
        """Write the weights as PyTorch does."""
        self.api.save(self.model.state_dict(), file)

    def load(self, file: Path, own_state: tuple[str, ...]) -> None:
        """Read weights as PyTorch does; counters, which the other port has not, stay."""
        found = self.model.load_state_dict(self.api.load(file, weights_only=True), strict=False)
        if found.unexpected_keys or set(found.missing_keys) - set(own_state):
            raise RuntimeError(f"{file} does not fit: {found}")


class PaddleSide(Side):
    """A PaddlePaddle model."""

    framework, suffix = "paddle", ".pdparams"

    def seed(self, seed: int) -> None:
        """Seed the weights."""
        self.api.seed(seed)

    def double(self, model: Any) -> Any:
        """Convert a model to double precision."""
        return model.to(dtype="float64")

    def optimizers(self) -> Any:
        """Return the module of optimizers."""
        return self.api.optimizer

    def tensor(self, array: np.ndarray) -> Any:
        """Return an array as a tensor."""
        return self.api.to_tensor(array)

    def clear(self) -> None:
        """Drop the gradients."""
        self.optimizer.clear_grad()

    def save(self, file: Path) -> None:
        """Write the weights as Paddle does."""
        self.api.save(self.model.state_dict(), str(file))

    def load(self, file: Path, own_state: tuple[str, ...]) -> None:
        """Read weights as Paddle does."""
        missing, unexpected = self.model.set_state_dict(self.api.load(str(file)))
        if unexpected or set(missing) - set(own_state):
            raise RuntimeError(f"{file} does not fit: {missing} missing, {unexpected} unexpected")


SIDES = {"torch": TorchSide, "paddle": PaddleSide}


def _part(inputs: Any, rows: slice) -> Any:
    """Return some rows of the inputs, floating ones in double precision."""
    if isinstance(inputs, Mapping):
        return {name: _part(array, rows) for name, array in inputs.items()}
    few = inputs[rows]
    return few.astype("float64") if few.dtype.kind == "f" else few


def import_quietly(*, one_thread: bool) -> None:
    """Keep what the libraries say out of the report, and their threads out of each other's way.

    Two frameworks in one process bring two pools of threads, which wait for each other; small
    models are many times faster with one thread each.
    """
    import logging
    import os
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if one_thread:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
