"""Where a flag is written in Paddle: `stop_gradient`, and no stale gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter, not_

import paddle

from unifreeze.backend import (
    Guard,
    LiveTensor,
    Model,
    ModuleBackend,
    Processes,
    Resolution,
    Undo,
    Walk,
    undo_all,
)
from unifreeze_paddle import _checks as checks
from unifreeze_paddle import _engines as engines
from unifreeze_paddle import _gradient_exchange as exchange
from unifreeze_paddle import _guards as guards
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle import _tensor_values as bits
from unifreeze_paddle._processes import processes_of
from unifreeze_paddle._wrapped_optimizers import whole_norms

# Past the parameters' own `__setattr__`, which is written in Python.
_set_stop_gradient = paddle.Tensor.stop_gradient.__set__


class PaddleFlags(ModuleBackend):
    """Reads and writes a parameter's flag and gradient; programs are traced anew after."""

    skips_frozen = True
    get_gradient = staticmethod(attrgetter("grad"))  # type: ignore[assignment]

    def get_flag(self, tensor: LiveTensor) -> bool:
        """Return whether a parameter is trainable."""
        return not tensor.stop_gradient

    def get_flags(self, tensors: Sequence[LiveTensor]) -> list[bool]:
        """Return for many parameters whether they are trainable."""
        return list(map(not_, map(attrgetter("stop_gradient"), tensors)))

    def set_flag(self, tensor: LiveTensor, trainable: bool) -> None:
        """Make a parameter trainable or frozen.

        Only `stop_gradient` on the tensor works in every release; `requires_grad` was a plain
        attribute before 3.2, and flags set on a layer do nothing.
        """
        _set_stop_gradient(tensor, not trainable)

    def set_gradient(self, tensor: LiveTensor, gradient: LiveTensor | None) -> None:
        """Set a parameter's gradient; None drops it (clearing would leave zeros)."""
        if gradient is None:
            tensor.clear_gradient(False)
        else:
            bits.set_gradient(tensor, gradient)

    def kept_gradient(self, tensor: LiveTensor) -> LiveTensor | None:
        """Return a copy of a parameter's gradient: `grad` itself dies when it is dropped."""
        return None if tensor.grad is None else bits.copy_gradient(tensor)

    def write(
        self, model: Model, resolution: Resolution, found: Mapping[int, Guard] | None = None
    ) -> Undo:
        """Write the decisions; where no plan covers a parameter, put its own settings back."""
        walk = self.walk(model)
        if resolution.covered is not None:
            checks.refuse_traced(walk, "remove the plan")
        undo = None
        try:
            undo = super().write(model, resolution, found)
            guards.forget_traces()
            exchange.rebuild(walk.tensors)  # also for parameters that are new
            if resolution.covered is not None:
                owned = zip(walk.tree.owners, walk.tree.tensor_of, strict=True)
                kept = {number for owner, number in owned if resolution.covered[owner]}
                optimizers.forget(t for number, t in enumerate(walk.tensors) if number not in kept)
            return partial(undo_all, (undo, guards.forget_traces))
        except BaseException:
            if undo is not None:
                undo_all((undo, guards.forget_traces))
            raise

    def rebuild_exchange(self, walk: Walk, changed: Sequence[LiveTensor]) -> None:
        """Let wrappers exchange the gradients of what trains now."""
        exchange.rebuild(walk.tensors)

    def several(self) -> bool:
        """Return whether this process is one of several."""
        return engines.are_ready()

    def processes(self, model: Model) -> Processes:
        """Return the processes that exchange gradients by DataParallel or by fleet's wrappers."""
        return processes_of(self.walk(model).tensors) if self.several() else Processes()

    def is_divided(self, model: Model) -> bool:
        """Return whether fleet divides what an optimizer keeps for a model (sharding stage 1)."""
        around = engines.engines_around(self.walk(model).tensors) if self.several() else ()
        return any(map(engines.divides, around))

    def gradients(self, model: Model) -> dict[str, float | None]:
        """Return the norm of each gradient; in a step with shards, of the averaged gradient."""
        norms = super().gradients(model)
        walk = self.walk(model)
        names = {path: t.name for path, t in zip(walk.first_paths(), walk.tensors, strict=True)}
        by_name = {names[path]: norm for path, norm in norms.items()}
        whole = whole_norms(by_name, partial(self.processes, model))
        return {path: whole[names[path]] for path in norms}

    def wrappings(self, model: Model) -> int:
        """Return the number of the last wrapper: each gives all processes the values of one."""
        around = engines.engines_around(self.walk(model).tensors)
        return max(map(engines.number_of, around), default=0)

    def flags(self, model: Model, *, trainable: bool) -> Undo:
        """Set every parameter's flag, cheaply; wrappers exchange what trains meanwhile."""
        undo = super().flags(model, trainable=trainable)
        return self._exchanging(model, undo)

    def _exchanging(self, model: Model, undo: Undo) -> Undo:
        """Let wrappers follow flags that have changed for a while, and follow them back."""
        follow = partial(exchange.rebuild_briefly, self.walk(model).tensors)
        follow()
        return partial(undo_all, (undo, follow))

    def freeze_briefly(self, model: Model, resolution: Resolution) -> Undo:
        """Freeze for a while what a resolution freezes; programs are traced again after."""
        checks.refuse_traced(self.walk(model), "change its flags for a while")
        undo = super().freeze_briefly(model, resolution)
        guards.forget_traces()
        return self._exchanging(model, partial(undo_all, (undo, guards.forget_traces)))
