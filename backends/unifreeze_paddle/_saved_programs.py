"""Layers that `paddle.jit.load` makes from a saved program: numbered tensors without layers.

A tensor is a statistic if an operation of the program takes it as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paddle import nn
from paddle.jit.pir_translated_layer import PirTranslatedLayer
from paddle.jit.translated_layer import TranslatedLayer

from unifreeze.errors import DescriptionError

CLASSES = (PirTranslatedLayer, TranslatedLayer)
MOVING = (TranslatedLayer,)
"""Layers that update statistics in training mode; the others always run in inference mode."""

_OPERANDS = {"batch_norm": {1: "mean", 2: "var"}, "spectral_norm": {1: "weight_u", 2: "weight_v"}}
"""For each operation, by name: the positions of operands that are state, and their roles."""
_INPUTS = {
    "batch_norm": {"Mean": "mean", "Variance": "var"},
    "spectral_norm": {"U": "weight_u", "V": "weight_v"},
}
"""The same for programs of the old format, by the names of inputs."""


def statistics(layer: nn.Layer) -> dict[str, str]:
    """Return the role of each statistic of a layer loaded from a saved program, by its leaf.

    Raises:
        DescriptionError: The program cannot be read.
    """
    try:
        roles = {}
        for holder in layer._program_holder_dict.values():
            plain = holder._suffix_varname_dict
            for name, role in _taken_as_state(holder.infer_program):
                known = layer._persistable_var_name_dict
                leaf = known.get(name) or known.get(plain.get(name))
                if leaf is not None:
                    roles[leaf] = role
        return roles
    except AttributeError as error:
        raise DescriptionError(
            f"the program of a {type(layer).__name__} cannot be read: {error}",
            context="it numbers its tensors, and does not say which of them are statistics",
            hint="build the network from its code, and load its weights",
        ) from error


def reasons_against(
    layer: nn.Layer, *, is_root: bool, held: bool, trains: bool
) -> Iterator[tuple[str, str]]:
    """Yield why a plan would not work on a loaded layer, each reason with its cure.

    A layer's own `train()` and `eval()` change the mode of its program; those of a model around it
    do not.

    Args:
        layer: The layer.
        is_root: It is the model itself, so that training loops change its mode.
        held: The plan holds its statistics.
        trains: The plan trains some of it.
    """
    stays_in_inference = layer._is_test and not is_root
    if held and isinstance(layer, MOVING) and not stays_in_inference:
        yield (
            "its saved program updates its statistics while it trains, and cannot be told not to",
            "build the network from its code and load its weights, or put it into another layer "
            "and call eval() on it once",
        )
    if trains and stays_in_inference:
        yield (
            "its saved program is in inference mode, and gives no gradient to what the plan trains",
            "call train() on the layer itself: train() of a model around it does not reach it",
        )


def _taken_as_state(program: Any) -> Iterator[tuple[str, str]]:
    """Yield each tensor that is state, by its name in the program, with its role."""
    old = not hasattr(program, "global_block")
    blocks = [program.block(n) for n in range(program.num_blocks())] if old else []
    for block in blocks or [program.global_block()]:
        for op in _operations(block):
            if old:
                for name, role in _INPUTS.get(_kind(op.type()), {}).items():
                    yield from ((variable, role) for variable in op.input(name))
            else:
                for position, role in _OPERANDS.get(_kind(op.name()), {}).items():
                    source = op.operands_source()[position].get_defining_op()
                    yield source.attrs().get("parameter_name", ""), role


def _operations(block: Any) -> list[Any]:
    if hasattr(block, "op_size"):
        return [block.op(n) for n in range(block.op_size())]
    return list(block.ops)


def _kind(operation: str) -> str:
    """Return the plain name of an operation, also if it works in place or across processes."""
    return operation.removeprefix("pd_op.").removeprefix("sync_").rstrip("_")
