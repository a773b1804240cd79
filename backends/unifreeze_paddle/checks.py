"""What PaddlePaddle would get wrong about a plan, seen before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any, cast

import numpy as np
import paddle
from numpy.typing import NDArray

from unifreeze.backend.protocol import Finding
from unifreeze.backend.walking import Walk, wrappers
from unifreeze.errors import UnsupportedPlanError
from unifreeze.resolution import Resolution
from unifreeze_paddle import guards
from unifreeze_paddle.layers import PaddleReader, qualified_bases


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


def _forward_of(cls: type) -> Any:
    return getattr(cls, "forward", None)


def _traced_whole(layer: Any) -> bool:
    """Tell whether a layer's forward is a program traced whole; later flags have no effect."""
    forward = getattr(layer, "forward", None)
    while isinstance(forward, guards.GuardedForward):
        forward = forward.own_forward()
    if type(forward).__name__ != "ASTStaticFunction":
        return False
    return len(cast(Any, forward).program_cache) > 0
