"""What experiments need of Paddle: backward passes, plain optimizers, double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn

from unifreeze.backend import (
    Array,
    Gradients,
    Guard,
    Layer,
    LiveTensor,
    Model,
    ModuleExperiments,
    OptimizerSpec,
    Walk,
    optimizer_defaults,
    read_settings,
)
from unifreeze.errors import TargetError
from unifreeze_paddle import _library_name_tables as shipped
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle import _settings as settings
from unifreeze_paddle import _tensor_values as bits


class PaddleExperiments(ModuleExperiments):
    """Runs a model forward and backward, and trains it with plain optimizers."""

    def train_mode(self, model: Model) -> None:
        """Call `model.train()`, as a training loop does."""
        model.train()

    def turn_random_off(self, walk: Walk) -> None:
        """Use inference mode, except in recurrent networks, which pass no gradient in it."""
        recurrent = [isinstance(layer, nn.layer.rnn.RNNBase) for layer in walk.modules]
        guarded = dict(self.get_guards(walk))
        for number in np.flatnonzero(recurrent).tolist():
            guarded[number] = guarded.get(number, Guard())._replace(still=True)
        self.set_guards(walk, guarded)
        self.set_modes(walk, recurrent)

    def backward(self, outputs: Sequence[LiveTensor], weights: Sequence[Array]) -> bool:
        """Backpropagate the weighted sum of outputs."""
        terms = [
            (output * bits.from_array(weight, output)).sum().astype("float32")
            for output, weight in zip(outputs, weights, strict=True)
            if not output.stop_gradient
        ]
        if terms:
            paddle.add_n(terms).backward()
        return bool(terms)

    def plain_optimizer(
        self, model: Model, spec: OptimizerSpec
    ) -> tuple[Callable[[Gradients], None], Callable[[], None]]:
        """Build an optimizer over all of a model's parameters; return its step and its clear."""
        settings = {
            "learning_rate": spec.lr,
            "parameters": model.parameters(),
            "weight_decay": spec.weight_decay,
        }
        if spec.name == "adamw":
            optimizer = paddle.optimizer.AdamW(**settings)
            return lambda _: optimizers.step_dense(optimizer), optimizer.clear_grad
        optimizer = paddle.optimizer.Momentum(momentum=spec.momentum, **settings)
        return lambda _: optimizer.step(), optimizer.clear_grad

    @contextmanager
    def double(self, walk: Walk) -> Iterator[None]:
        """Compute in double precision meanwhile; the tensors' own memory comes back after."""
        before = paddle.get_default_dtype()
        paddle.set_default_dtype("float64")
        try:
            with bits.in_double(walk.root, [*walk.tensors, *(t for _, t in walk.states())]):
                yield
        finally:
            paddle.set_default_dtype(before)

    def place(self, model: Model, device: str) -> Any:
        """Move a model to "cpu" or "gpu"."""
        if device not in self.capabilities.devices:
            raise TargetError(
                f"paddle sees no {device!r} device here",
                context=f"devices: {', '.join(self.capabilities.devices)}",
                hint="the README says which Paddle package has CUDA",
            )
        paddle.set_device(device)
        return model.to(device=device)

    def device_of(self, model: Model) -> str:
        """Return the kind of device a model is on."""
        return "gpu" if self.anchor(model).place.is_gpu_place() else "cpu"

    def seed(self, seed: int) -> None:
        """Seed Paddle's random generators."""
        paddle.seed(seed)

    def settings(self, module: Layer) -> dict[str, Any]:
        """Return one layer's own settings in neutral terms."""
        return read_settings(module, self.reader.kind(module), settings.LAYERS)

    def optimizer_defaults(self) -> dict[str, dict[str, Any]]:
        """Return the default settings of the framework's optimizers, by their names."""
        return optimizer_defaults(
            settings.OPTIMIZERS, settings.OPTIMIZER_SETTINGS, settings.OPTIMIZER_RULES
        )

    def shipped_map(self, model: Model, others: Iterable[str]) -> dict[str, str]:
        """Return which tensor is which of the other port's, where the model's library says so."""
        return shipped.shipped_map(model, others)
