"""The PaddlePaddle backend: describes a `paddle.nn.Layer` and writes the answer back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import paddle
from paddle import nn

from unifreeze.backend import (
    Capabilities,
    Finding,
    Layer,
    LiveTensor,
    Model,
    Resolution,
    Undo,
    Walk,
    in_inference_mode,
    overlapping,
    undo_all,
)
from unifreeze.errors import DescriptionError, counted, listing
from unifreeze_paddle import _checks as checks
from unifreeze_paddle import _forward_watches as watches
from unifreeze_paddle import _held_rows as held_rows
from unifreeze_paddle import _load_watches as loads
from unifreeze_paddle._cache_operations import PaddleCacheOperations
from unifreeze_paddle._experiment_backend import PaddleExperiments
from unifreeze_paddle._layer_guards import PaddleGuards
from unifreeze_paddle._layers import PaddleReader
from unifreeze_paddle._optimizer_backend import PaddleOptimizers
from unifreeze_paddle._tensors import PaddleTensors
from unifreeze_paddle._trainable_flags import PaddleFlags

STATIC_PROGRAMS = (
    paddle.static.Program,
    paddle.static.CompiledProgram,
    paddle.base.framework.Program,
    paddle.base.libpaddle.pir.Program,
)
"""Every form of a static graph."""


@dataclass
class _Memo:
    """What is remembered of a walked model: whether its parameters still wait for their values."""

    lazy: bool = False


class PaddleBackend(
    PaddleFlags,
    PaddleTensors,
    PaddleGuards,
    PaddleExperiments,
    PaddleOptimizers,
    PaddleCacheOperations,
):
    """Freezing in Paddle: `stop_gradient`, no stale gradient, statistics held, kernels helped."""

    name = "paddle"
    held_rows = held_rows.held
    module_class = nn.Layer
    on_forward = staticmethod(watches.on_forward)
    is_compiled = staticmethod(checks.has_static_parts)

    def __init__(self) -> None:
        super().__init__()
        self.reader = PaddleReader()

    @property
    def capabilities(self) -> Capabilities:
        """Facts about the framework."""
        gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
        return Capabilities(("cpu", "gpu") if gpu else ("cpu",))

    def check_model(self, model: Model) -> None:
        """Refuse what is not one of Paddle's layers; static programs have none.

        Raises:
            DescriptionError: It is a static program.
            TargetError: It is something else.
        """
        if isinstance(model, STATIC_PROGRAMS):
            raise DescriptionError(
                "a static program has no layers to freeze",
                context="what trains in it was fixed when its optimizer was added",
                hint="freeze the layer that it is built from, in dynamic mode",
            )
        super().check_model(model)

    def has_no_values(self, walk: Walk) -> bool:
        """Return whether all parameters still wait for their values.

        If they did when last asked, only a hundred are asked again: a model gets all at once.
        """
        few = walk.tensors[:: len(walk.tensors) // 100 + 1]
        memo = walk.memo_of(_Memo)
        asked = few if memo.lazy else walk.tensors
        memo.lazy = not any(map(paddle.Tensor._is_initialized, asked))
        return memo.lazy

    def find_shared(self, walk: Walk) -> None:
        """Find parameters that are different objects over the same memory.

        Raises:
            DescriptionError: A parameter is divided by auto-parallel.
        """
        _refuse_distributed(walk)
        if self.has_no_values(walk):
            walk.tree.shared = overlapping([])
            return
        spans = []
        for number, tensor in enumerate(walk.tensors):
            if tensor._is_initialized():
                size = walk.tree.tensors[number].size * tensor.element_size()
                spans.append((number, tensor.data_ptr(), size))
        walk.tree.shared = overlapping(spans)

    def check_walk(self, walk: Walk, model: Model, resolution: Resolution) -> Iterator[Finding]:
        """Say what Paddle would get wrong."""
        changed = np.flatnonzero(resolution.trainable != self.flags_now(walk))
        guards_change = self.guards_for(walk, resolution) != self.get_guards(walk)
        return checks.findings(walk, model, resolution, changed, guards_change=guards_change)

    def reason_against_rows(self, tensor: LiveTensor) -> str:
        """Return why no rows of a table can train while the others stay; "" if they can."""
        return held_rows.reason_against(tensor) or super().reason_against_rows(tensor)

    def hook(
        self, module: Layer, before: Callable[[], None], after: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Call back around a layer's forward."""

        def first(_layer: Layer, _inputs: Any) -> None:
            before()

        def last(_layer: Layer, _inputs: Any, outputs: Any) -> None:
            after(outputs)

        handles = module.register_forward_pre_hook(first), module.register_forward_post_hook(last)
        return partial(undo_all, [handle.remove for handle in handles])

    def on_load(self, walk: Walk, loaded: Callable[[], None]) -> Undo:
        """Call back after `set_state_dict`."""
        return loads.on_load(walk.root, loaded)

    def runs(self, module: Layer) -> bool:
        """Return True if a layer computes something; a plain list of layers does not."""
        return type(module).forward is not nn.Layer.forward or "forward" in vars(module)

    def records_gradients(self) -> bool:
        """Return whether gradients are switched on now."""
        return bool(paddle.is_grad_enabled())

    def trains(self, module: Layer) -> bool:
        """Return True if a forward pass now is one of training: in training mode, with gradient."""
        return bool(module.training) and paddle.is_grad_enabled()

    def moves_statistics(self, module: Layer) -> bool:
        """Return whether a batch norm would move its statistics: not if it uses the global ones."""
        return bool(module.training) and not getattr(module, "_use_global_stats", False)

    @contextmanager
    def inference(self, walk: Walk) -> Iterator[None]:
        """Run without gradient, in inference mode; modes and random state are put back after."""
        still = in_inference_mode(self, walk, nn.Embedding, "_max_norm")
        with self.random_state(), paddle.no_grad(), still:
            yield

    @contextmanager
    def random_state(self) -> Iterator[None]:
        """Put the random generators back after."""
        state = paddle.get_rng_state()
        try:
            yield
        finally:
            paddle.set_rng_state(state)

    def container(self, models: Mapping[str, Model]) -> Any:
        """Put several models into a `LayerDict`."""
        return nn.LayerDict(dict(models))


def _refuse_distributed(walk: Walk) -> None:
    """Refuse parameters that `shard_tensor` has made: their values cannot be read here."""
    if any(map(paddle.Tensor.is_dist, walk.tensors)):
        made = [number for number, tensor in enumerate(walk.tensors) if tensor.is_dist()]
        paths = walk.first_paths()
        raise DescriptionError(
            f"auto-parallel holds {counted(len(made), 'parameter')} as distributed tensors",
            context=listing(paths[number] for number in made),
            hint="train under paddle.DataParallel or fleet, and leave shard_tensor, shard_layer "
            "and parallelize out",
        )
