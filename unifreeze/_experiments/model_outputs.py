"""A live model's floating outputs, and the fixed weights that make a loss of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unifreeze._modules.tensor_operations import TensorOperations
from unifreeze._numerics.outputs import loss_weights, outputs_in
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor
from unifreeze._protocol.sketch_data import Chosen
from unifreeze.errors import TargetError, listing


def floating_outputs(
    backend: TensorOperations, result: Any, *, caches: bool = False
) -> dict[str, LiveTensor]:
    """Return the floating tensors in a model's result by where they are in it; see `outputs_in`."""
    tensors = outputs_in(result, backend.is_tensor, caches=caches)
    return {key: tensor for key, tensor in tensors.items() if backend.is_floating(tensor)}


def shape_of(tensor: LiveTensor) -> tuple[int, ...]:
    """Return a live tensor's shape as plain numbers."""
    return tuple(int(size) for size in tensor.shape)


def shown_outputs(outputs: Mapping[str, LiveTensor]) -> str:
    """Write a model's outputs for a message."""
    return listing(f"{key} {list(shape_of(tensor))}" for key, tensor in outputs.items()) or "none"


def seeded_weights(
    outputs: Mapping[str, LiveTensor], chosen: Chosen, seed: int
) -> dict[str, Array]:
    """Return the weights of the outputs that a loss is made of.

    Args:
        outputs: A model's floating outputs.
        chosen: Keys of those to use, with the names that seed their weights.
        seed: Seed of the weights.
    """
    return {key: loss_weights(name, shape_of(outputs[key]), seed) for key, name in chosen.items()}


def no_gradient(outputs: Mapping[str, LiveTensor]) -> TargetError:
    """Return the error for a model none of whose outputs is a function of a parameter."""
    return TargetError(
        "the model returns no floating tensor that a gradient could come from",
        context=f"it returns: {shown_outputs(outputs)}",
    )
