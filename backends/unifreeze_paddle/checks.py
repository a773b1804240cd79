"""What PaddlePaddle would get wrong about a plan, seen before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import paddle

from unifreeze.backend.protocol import Finding
from unifreeze.backend.walking import Walk
from unifreeze.resolution import Resolution
from unifreeze_paddle import guards
from unifreeze_paddle.layers import qualified_bases


def findings(
    walk: Walk, model: Any, resolution: Resolution, *, guards_change: bool
) -> Iterator[Finding]:
    """Give every reason why the plan would not hold in PaddlePaddle."""
    changed = [
        resolution.spec.tree.names[resolution.spec.first_names[number]]
        for number, tensor in enumerate(walk.tensors)
        if tensor.stop_gradient == bool(resolution.trainable[number])
    ]
    if not changed and not guards_change:
        return
    for index, layer in enumerate(walk.modules):
        if _traced_whole(layer):
            yield Finding(
                walk.tree.paths[index] or "the model",
                "to_static(full_graph=True) has already traced it with the flags as they were",
                "apply the plan first, then call to_static and run it",
            )
    wrapped = "paddle.distributed.parallel.DataParallel" in qualified_bases(type(model))
    if changed and wrapped and paddle.distributed.get_world_size() > 1:
        yield Finding(
            changed[0],
            f"{len(changed)} flags would change under a DataParallel wrapper, "
            "which would stop synchronising gradients without an error",
            "apply the plan first, then wrap",
        )


def _traced_whole(layer: Any) -> bool:
    """Tell whether a layer's forward is a program traced whole; later flags have no effect."""
    forward = layer.forward
    while isinstance(forward, guards.GuardedForward):
        forward = forward.own_forward()
    if type(forward).__name__ != "ASTStaticFunction":
        return False
    return len(forward.program_cache) > 0
