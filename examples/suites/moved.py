"""What the usual advice moves: `x.stop_gradient = True` on what a part of the network returns.

The programs in the folders beside this file train two steps with a plan, and again as advised.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle


@contextmanager
def stop_gradient_after(part: Any, *, after_steps: int = 0) -> Iterator[None]:
    """Do as advised: set the flag on whatever the part returns, in the forward pass.

    Args:
        part: The layer that is to be frozen, with all before it.
        after_steps: How many passes come first in which it trains.
    """
    passes = 0

    def set_flags(_layer: Any, _inputs: Any, outputs: Any) -> None:
        nonlocal passes
        passes += 1
        for x in paddle.utils.flatten(outputs) if passes > after_steps else []:
            x.stop_gradient = True

    hook = part.register_forward_post_hook(set_flags)
    try:
        yield
    finally:
        hook.remove()


class Moved:
    """Counts the weights and statistics of parts of a network that are not as they were.

    Args:
        parts: Layers.
        after_steps: Count from the end of this many forward passes of the first part on.
    """

    def __init__(self, *parts: Any, after_steps: int = 0) -> None:
        # Paddle lists the statistics of norms among a layer's parameters, with the flag set.
        tensors = [tensor for part in parts for tensor in part.state_dict().values()]
        self._weights = [tensor for tensor in tensors if not tensor.stop_gradient]
        self._statistics = [tensor for tensor in tensors if tensor.stop_gradient]
        self._before, self._left = self._bits(), after_steps
        self._hook = parts[0].register_forward_pre_hook(self._look) if after_steps else None

    def _look(self, _layer: Any, _inputs: Any) -> None:
        if self._left == 0 and self._hook:
            self._before = self._bits()
            self._hook.remove()
        self._left -= 1

    def _bits(self) -> list[list[bytes]]:
        kinds = (self._weights, self._statistics)
        return [[tensor.numpy().tobytes() for tensor in tensors] for tensors in kinds]

    def __str__(self) -> str:
        counts = []
        for kind, before, after in zip(
            ("weights", "statistics"), self._before, self._bits(), strict=True
        ):
            moved = sum(old != new for old, new in zip(before, after, strict=True))
            counts.append(f"{moved} of {len(after)} {kind}")
        return ", ".join(counts) + " moved"
