"""What experiments need of Paddle: backward passes, plain optimizers, double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn

from unifreeze.backend import (
    Array,
    Gradients,
    Guard,
    LiveTensor,
    Model,
    ModuleExperiments,
    OptimizerSpec,
    Walk,
)
from unifreeze_paddle import _library_name_tables as shipped
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle import _settings as settings
from unifreeze_paddle import _tensor_values as bits


class PaddleExperiments(ModuleExperiments):
    """Runs a model forward and backward, and trains it with plain optimizers."""

    device_hint = "docs/en/getting-started.md says which Paddle package has CUDA"
    layer_table = settings.LAYERS
    optimizer_tables = settings.OPTIMIZERS, settings.OPTIMIZER_SETTINGS, settings.OPTIMIZER_RULES
    seed = staticmethod(paddle.seed)
    shipped_map = staticmethod(shipped.shipped_map)

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
        super().place(model, device)
        paddle.set_device(device)
        return model.to(device=device)

    def device_of(self, model: Model) -> str:
        """Return the kind of device a model is on."""
        return "gpu" if self.anchor(model).place.is_gpu_place() else "cpu"
