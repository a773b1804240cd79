"""What PaddlePaddle would get wrong about a plan, seen before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from inspect import unwrap
from itertools import chain
from types import CodeType, FunctionType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from paddle import nn

from unifreeze.backend import (
    Finding,
    Resolution,
    Walk,
    freezes_any_of,
    modules_of,
    parameters_beside,
    path_of,
    rewritten_tables,
)
from unifreeze.errors import UnsupportedPlanError
from unifreeze_paddle import _half_frozen_layers as half_frozen_layers
from unifreeze_paddle import _quantisers as quantisers
from unifreeze_paddle import _saved_programs as saved_programs
from unifreeze_paddle import _traced_programs as traced_programs
from unifreeze_paddle._layers import PaddleReader

_SWITCHES = ("enable_recompute", "gradient_checkpointing")
"""What libraries turn recompute on with, as attributes of the layer that does it."""


@dataclass
class _Memo:
    """What the checks remember of a walked model: the numbers of the layers that measure ranges."""

    quantisers: list[int] | None = None


def findings(
    walk: Walk,
    model: Any,
    resolution: Resolution,
    changed: NDArray[np.intp],
    *,
    guards_change: bool,
) -> Iterator[Finding]:
    """Yield every reason why the plan would not hold in PaddlePaddle.

    Args:
        walk: The model as walked.
        model: The model, wrappers included.
        resolution: What the plan decided.
        changed: Numbers of the parameters whose flag would change.
        guards_change: Whether any layer's guard would change.
    """
    yield from _reentrant_recompute(walk, resolution)
    yield from parameters_beside(PaddleReader(), model)
    yield from _quantisers(walk, resolution)
    yield from _saved_programs(walk, resolution)
    yield from rewritten_tables(walk, resolution, nn.Embedding, "_max_norm")
    if not len(changed) and not guards_change:
        return
    for path in traced_whole(walk):
        yield Finding(
            path,
            "to_static(full_graph=True) has already traced it with the flags as they were",
            "apply the plan first, then call to_static and run it",
        )


def _reentrant_recompute(walk: Walk, resolution: Resolution) -> Iterator[Finding]:
    """Reentrant recompute passes no gradient unless its input takes part in it.

    It is seen only where a switch turns it on that libraries use. A model's own code may call it
    without any switch, which shows only when it runs.
    """
    trained = np.flatnonzero(resolution.trainable[resolution.spec.tensor_of])
    if not len(trained):
        return
    blind = [numbers for cls, numbers in walk.by_class.items() if _recomputes_blindly(cls)]
    for index in sorted(chain.from_iterable(blind)):
        switches = [getattr(walk.module(index), switch, False) for switch in _SWITCHES]
        if any(switches) and _in_a_list_of(walk, index, int(trained[0])):
            yield Finding(
                path_of(walk, index),
                "reentrant recompute above a frozen prefix: none of its layers would get a "
                "gradient",
                "train what comes before them too, or turn it off: recompute=False in a "
                "trainer's arguments, else enable_recompute = False on it",
            )


def _quantisers(walk: Walk, resolution: Resolution) -> Iterator[Finding]:
    """A range that has observed nothing, or goes on measuring, must not be frozen as it is."""
    held = {*resolution.held, *resolution.quiet}
    memo = walk.memo_of(_Memo)
    if memo.quantisers is None:
        averaging = {s.owner for s in walk.tree.states if quantisers.averages(s.role)}
        memo.quantisers = sorted(averaging.union(modules_of(walk, quantisers.MEASURING)))
    for index in memo.quantisers:
        frozen = freezes_any_of(walk, resolution, index)
        reason = quantisers.reason_against_holding(
            walk.module(index), held=index in held, frozen=frozen
        )
        if reason:
            yield Finding(path_of(walk, index), *reason)


def _saved_programs(walk: Walk, resolution: Resolution) -> Iterator[Finding]:
    """A layer loaded from a saved program does what that program says."""
    tree = walk.tree
    for index in modules_of(walk, saved_programs.CLASSES):
        numbers = [tree.tensor_of[name] for name in tree.own_names(index)]
        reasons = saved_programs.reasons_against(
            walk.module(index),
            is_root=index == 0,
            held=index in resolution.held,
            trains=any(resolution.trainable[number] for number in numbers),
        )
        yield from (Finding(path_of(walk, index), *reason) for reason in reasons)


def _in_a_list_of(walk: Walk, index: int, name: int) -> bool:
    """Return whether a name is in a list of layers of a module, which recomputes them in turn."""
    tree = walk.tree
    if not tree.name_starts[index] <= name < tree.name_ends[index]:
        return False
    starts, ends = np.asarray(tree.name_starts), np.asarray(tree.name_ends)
    around = np.flatnonzero((starts <= name) & (name < ends))
    return any(isinstance(walk.module(n), nn.LayerList) for n in around.tolist() if n > index)


@cache
def _recomputes_blindly(cls: type) -> bool:
    """Return whether a class recomputes reentrantly, and never asks if its input has a gradient."""
    functions = [unwrap(value) for value in vars(cls).values() if isinstance(value, FunctionType)]
    codes = [code for function in functions for code in _codes(function.__code__)]
    names = {name for code in codes for name in code.co_names}
    keywords = {word for code in codes for word in chain(*filter(_is_tuple, code.co_consts))}
    return "recompute" in names and "stop_gradient" not in names and "use_reentrant" not in keywords


def _is_tuple(value: object) -> bool:
    return isinstance(value, tuple)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def refuse_traced(walk: Walk, what: str) -> None:
    """Refuse to change flags that a program traced whole would not see.

    Raises:
        UnsupportedPlanError: Part of the model has been traced whole.
    """
    for path in traced_whole(walk):
        raise UnsupportedPlanError(
            f"cannot {what}: {path} has been traced whole, with the flags as they are now",
            context="to_static(full_graph=True) does not notice flags that change later",
            hint="take the trace back first: its forward.rollback()",
        )


def traced_whole(walk: Walk) -> list[str]:
    """Return what has been traced whole: paths of layers, and names of programs around them."""
    inside = [n for n in _with_forward(walk) if _is_traced_whole(walk.module(n))]
    forwards = {id(_own_forward(walk.module(n))) for n in inside}
    around = [f for f in traced_programs.traced_with(walk.tensors) if id(f) not in forwards]
    return [*(path_of(walk, n) for n in inside), *map(traced_programs.name_of, around)]


def has_static_parts(walk: Walk) -> bool:
    """Return whether to_static has taken over the forward pass of any layer."""
    forwards = [_own_forward(walk.module(number)) for number in _with_forward(walk)]
    return any("StaticFunction" in type(forward).__name__ for forward in forwards)


def _with_forward(walk: Walk) -> list[int]:
    """Return the layers whose forward is not a plain function of their class."""
    unusual = set(*walk.modules_having("forward"))
    for cls, numbers in walk.by_class.items():
        if not isinstance(getattr(cls, "forward", None), FunctionType):
            unusual.update(numbers)
    return sorted(unusual)


def _own_forward(layer: nn.Layer) -> Any:
    forward = getattr(layer, "forward", None)
    while isinstance(forward, half_frozen_layers.GuardedForward):
        forward = forward.own_forward()
    return forward


def _is_traced_whole(layer: nn.Layer) -> bool:
    """Return whether a layer's forward is a program traced whole; later flags have no effect."""
    forward = _own_forward(layer)
    if type(forward).__name__ != "ASTStaticFunction":
        return False
    return len(cast(Any, forward).program_cache) > 0
