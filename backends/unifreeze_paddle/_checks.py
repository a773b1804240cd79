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
import paddle
from numpy.typing import NDArray
from paddle import nn

from unifreeze.backend import Finding, Resolution, Walk, parameters_beside, wrappers
from unifreeze.errors import UnsupportedPlanError
from unifreeze_paddle import _half_frozen as lending
from unifreeze_paddle import _quantised as quantised
from unifreeze_paddle import _translated as translated
from unifreeze_paddle._layers import PaddleReader, largest_norms, qualified_bases

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
    """Give every reason why the plan would not hold in PaddlePaddle.

    Args:
        walk: The model as walked.
        model: The model, wrappers included.
        resolution: What the plan decided.
        changed: Numbers of the parameters whose flag would change.
        guards_change: Some layer's guard would.
    """
    yield from _reentrant_recompute(walk, resolution)
    yield from parameters_beside(PaddleReader(), model)
    yield from _quantisers(walk, resolution)
    yield from _saved_programs(walk, resolution)
    yield from _rewritten_tables(walk, resolution)
    if not len(changed) and not guards_change:
        return
    for path in traced_whole(walk):
        yield Finding(
            path,
            "to_static(full_graph=True) has already traced it with the flags as they were",
            "apply the plan first, then call to_static and run it",
        )
    if len(changed) and paddle.distributed.get_world_size() > 1:
        yield from _distributed(walk, model, resolution, changed)


def _reentrant_recompute(walk: Walk, resolution: Resolution) -> Iterator[Finding]:
    """Reentrant recompute passes no gradient unless its input takes part in it.

    Only where it is turned on by a switch that libraries use; what a model's own code calls without
    one cannot be seen before it runs.
    """
    tree = walk.tree
    trained = np.flatnonzero(resolution.trainable[resolution.spec.tensor_of])
    if not len(trained):
        return
    blind = [numbers for cls, numbers in walk.by_class.items() if _recomputes_blindly(cls)]
    for index in sorted(chain.from_iterable(blind)):
        switches = [getattr(walk.module(index), switch, False) for switch in _SWITCHES]
        if any(switches) and _in_a_list_of(walk, index, int(trained[0])):
            yield Finding(
                tree.paths[index] or "the model",
                "reentrant recompute above a frozen prefix: none of its layers would get a "
                "gradient",
                "train what comes before them too, or turn it off: recompute=False in a "
                "trainer's arguments, else enable_recompute = False on it",
            )


def _quantisers(walk: Walk, resolution: Resolution) -> Iterator[Finding]:
    """A range that has observed nothing, or goes on measuring, must not be frozen as it is."""
    tree, held = walk.tree, {*resolution.held, *resolution.quiet}
    memo = walk.memo_of(_Memo)
    if memo.quantisers is None:
        found = {s.owner for s in tree.states if quantised.averages(s.role)}
        sorts = [n for cls, n in walk.by_class.items() if issubclass(cls, quantised.MEASURING)]
        memo.quantisers = sorted(found.union(*sorts))
    for index in memo.quantisers:
        own = [tree.tensor_of[name] for name in tree.own_names(index)]
        frozen = not all(resolution.trainable[number] for number in own)
        reason = quantised.reason_against_holding(
            walk.module(index), held=index in held, frozen=frozen
        )
        if reason:
            yield Finding(tree.paths[index] or "the model", *reason)


def _saved_programs(walk: Walk, resolution: Resolution) -> Iterator[Finding]:
    """A layer loaded from a saved program does what that says."""
    tree = walk.tree
    sorts = [n for cls, n in walk.by_class.items() if issubclass(cls, translated.CLASSES)]
    for index in sorted(chain.from_iterable(sorts)):
        own = [tree.tensor_of[name] for name in tree.own_names(index)]
        reasons = translated.reasons_against(
            walk.module(index),
            is_root=index == 0,
            held=index in resolution.held,
            trains=any(resolution.trainable[number] for number in own),
        )
        yield from (Finding(tree.paths[index] or "the model", *reason) for reason in reasons)


def _rewritten_tables(walk: Walk, resolution: Resolution) -> Iterator[Finding]:
    """A table with a largest norm shortens the rows it looks up, whatever its flag and mode."""
    numbers = [
        n for cls, found in walk.by_class.items() if issubclass(cls, nn.Embedding) for n in found
    ]
    tables = {id(walk.module(number)): walk.tree.paths[number] for number in numbers}
    for table, _ in largest_norms(map(walk.module, numbers)):
        weight = walk.tree.tensor(id(table.weight))
        if weight is not None and not resolution.trainable[weight]:
            yield Finding(
                tables[id(table)] or "the model",
                "max_norm rewrites the frozen table in every forward pass, in any mode",
                "set _max_norm = None on it",
            )


def _in_a_list_of(walk: Walk, index: int, name: int) -> bool:
    """Tell whether a name is in a list of layers in a module, which it recomputes one by one."""
    tree = walk.tree
    if not tree.name_starts[index] <= name < tree.name_ends[index]:
        return False
    starts, ends = np.asarray(tree.name_starts), np.asarray(tree.name_ends)
    around = np.flatnonzero((starts <= name) & (name < ends))
    return any(isinstance(walk.module(n), nn.LayerList) for n in around.tolist() if n > index)


@cache
def _recomputes_blindly(cls: type) -> bool:
    """Tell whether a class recomputes reentrantly, and never asks if its input has a gradient."""
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


def _distributed(
    walk: Walk, model: Any, resolution: Resolution, changed: NDArray[np.intp]
) -> Iterator[Finding]:
    """DataParallel fixes at wrapping what it synchronises."""
    tree = walk.tree
    around = [(0, wrapper) for wrapper, _ in wrappers(PaddleReader(), model)]
    for index, wrapper in [*around, *walk.wrappers]:
        if "paddle.distributed.parallel.DataParallel" not in qualified_bases(type(wrapper)):
            continue
        numbers = tree.tensor_of[tree.name_starts[index] : tree.name_ends[index]]
        if len(inside := np.intersect1d(changed, np.asarray(numbers, np.intp))):
            yield Finding(
                tree.names[resolution.spec.first_names[inside[0]]],
                f"{len(inside)} flags would change under a DataParallel wrapper, "
                "which would stop synchronising gradients without an error",
                "apply the plan first, then wrap",
            )


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
    """Return the paths of layers whose forward is a program traced whole."""
    likely = set(walk.modules_having("forward"))
    for cls, numbers in walk.by_class.items():
        if not isinstance(_forward_of(cls), FunctionType):
            likely.update(numbers)
    return [
        walk.tree.paths[number] or "the model"
        for number in sorted(likely)
        if _traced_whole(walk.module(number))
    ]


def has_static_parts(walk: Walk) -> bool:
    """Tell whether to_static has taken over the forward pass of any layer."""
    likely = set(walk.modules_having("forward"))
    for cls, numbers in walk.by_class.items():
        if not isinstance(_forward_of(cls), FunctionType):
            likely.update(numbers)
    return any("StaticFunction" in type(_own_forward(walk.module(n))).__name__ for n in likely)


def _own_forward(layer: Any) -> Any:
    forward = getattr(layer, "forward", None)
    while isinstance(forward, lending.GuardedForward):
        forward = forward.own_forward()
    return forward


def _forward_of(cls: type) -> Any:
    return getattr(cls, "forward", None)


def _traced_whole(layer: Any) -> bool:
    """Tell whether a layer's forward is a program traced whole; later flags have no effect."""
    forward = _own_forward(layer)
    if type(forward).__name__ != "ASTStaticFunction":
        return False
    return len(cast(Any, forward).program_cache) > 0
