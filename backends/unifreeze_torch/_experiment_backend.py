"""What experiments need of PyTorch: backward passes, plain optimizers, double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from unifreeze.backend import (
    Array,
    Gradients,
    LiveTensor,
    Model,
    ModuleExperiments,
    OptimizerSpec,
    Walk,
)
from unifreeze_torch import _settings as settings
from unifreeze_torch import _tensor_values as bits


class TorchExperiments(ModuleExperiments):
    """Runs a model forward and backward, and trains it with plain optimizers."""

    device_hint = "docs/en/getting-started.md says which torch build has CUDA"
    layer_table = settings.LAYERS
    optimizer_tables = settings.OPTIMIZERS, settings.OPTIMIZER_SETTINGS, settings.OPTIMIZER_RULES

    def seed(self, seed: int) -> None:
        """Seed all generators.

        Without an accelerator torch notes each call for one that may come, with the stack; that
        takes as long as a layer.
        """
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)

    def backward(self, outputs: Sequence[LiveTensor], weights: Sequence[Array]) -> bool:
        """Backpropagate the weighted sum of outputs."""
        terms = [
            (output * bits.from_array(weight, output)).sum()
            for output, weight in zip(outputs, weights, strict=True)
            if output.requires_grad
        ]
        if terms:
            torch.stack([term.float() for term in terms]).sum().backward()
        return bool(terms)

    def plain_optimizer(
        self, model: Model, spec: OptimizerSpec
    ) -> tuple[Callable[[Gradients], None], Callable[[], None]]:
        """Build an optimizer over all of a model's parameters; return its step and its clear."""
        parameters = list(model.parameters())
        optimizer: torch.optim.Optimizer
        if spec.name == "adamw":
            optimizer = torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                parameters, lr=spec.lr, weight_decay=spec.weight_decay, momentum=spec.momentum
            )
        return lambda _: optimizer.step(), optimizer.zero_grad

    @contextmanager
    def double(self, walk: Walk) -> Iterator[None]:
        """Compute in double precision meanwhile; the tensors' own memory comes back after."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with bits.in_double(walk.tensors, walk.slots):
                yield
        finally:
            torch.set_default_dtype(before)

    def place(self, model: Model, device: str) -> Any:
        """Move a model to "cpu" or "gpu"."""
        super().place(model, device)
        return model.to("cuda" if device == "gpu" else "cpu")

    def device_of(self, model: Model) -> str:
        """Return the kind of device a model is on."""
        return "gpu" if self.anchor(model).device.type == "cuda" else "cpu"
