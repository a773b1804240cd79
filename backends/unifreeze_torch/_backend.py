"""The PyTorch backend: describes a `torch.nn.Module` and writes the answer back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from unifreeze.backend import (
    Capabilities,
    Finding,
    Guard,
    Layer,
    LiveTensor,
    Model,
    Processes,
    Resolution,
    Undo,
    Walk,
    in_inference_mode,
    overlapping,
    undo_all,
)
from unifreeze.errors import TargetError
from unifreeze_torch import _checks as checks
from unifreeze_torch import _distributed_checkpoints as distributed_checkpoints
from unifreeze_torch import _exchange as exchange
from unifreeze_torch import _fixed_engines as fixed_engines
from unifreeze_torch import _flattened as flattened
from unifreeze_torch import _forward_watches as watches
from unifreeze_torch import _guards as modes
from unifreeze_torch import _held_rows as held_rows
from unifreeze_torch import _layers as layers
from unifreeze_torch import _load_watches as load_watches
from unifreeze_torch import _offloaded_values as offloaded
from unifreeze_torch import _processes as processes
from unifreeze_torch._cache_operations import TorchCacheOperations
from unifreeze_torch._experiment_backend import TorchExperiments
from unifreeze_torch._layers import TorchReader
from unifreeze_torch._optimizer_backend import TorchOptimizers
from unifreeze_torch._tensors import TorchTensors
from unifreeze_torch._trainable_flags import TorchFlags


@dataclass
class _Memo:
    """What is remembered of a walked model: whether all its parameters are on the meta device."""

    on_meta: bool | None = None


class TorchBackend(
    TorchFlags, TorchTensors, TorchExperiments, TorchOptimizers, TorchCacheOperations
):
    """Freezing in PyTorch: `requires_grad`, no stale `.grad`, held modules pinned to inference."""

    name = "torch"
    held_rows = held_rows.held
    module_class = nn.Module
    own_attributes = (TorchReader.mark, offloaded.HOOK)
    saves_in_parts = staticmethod(distributed_checkpoints.asks)
    on_forward = staticmethod(watches.on_forward)

    def __init__(self) -> None:
        super().__init__()
        self.reader = TorchReader()

    @property
    def capabilities(self) -> Capabilities:
        """Facts about the framework."""
        devices = ("cpu", "gpu") if torch.cuda.is_available() else ("cpu",)
        return Capabilities(devices)

    def walk(self, model: Model) -> Walk:
        """Walk a model; FSDP shows the parameters that keep their flags only while it shards."""
        self.check_model(model)
        root = self.root(model)
        for module in layers.sharded(root):
            module.reshard()
        return super().walk(root)

    def has_no_values(self, walk: Walk) -> bool:
        """Return whether all parameters are on the meta device; a parameter cannot leave it."""
        memo = walk.memo_of(_Memo)
        if memo.on_meta is None:
            memo.on_meta = all(map(attrgetter("is_meta"), walk.tensors))
        return memo.on_meta

    def sizes(self, walk: Walk) -> list[Any]:
        """Return each parameter's number of values: its shape would take five times as long."""
        try:
            return list(map(torch.Tensor.numel, walk.tensors))
        except ValueError:  # a lazy layer has yet to see its first batch
            return [-1 if layers.is_lazy(tensor) else tensor.numel() for tensor in walk.tensors]

    def find_shared(self, walk: Walk) -> None:
        """Find parameters that are different objects over the same memory.

        Views are taken to fill the stretch between their first and last byte, so that interleaved
        ones are refused though they could be told apart.
        """
        if self.has_no_values(walk):
            return
        spans = []
        for number, tensor in enumerate(walk.tensors):
            if layers.has_memory(tensor) and type(tensor) is nn.Parameter:
                spans.append((number, tensor.data_ptr(), layers.extent(tensor)))
        walk.tree.shared = overlapping(spans)

    def stored(self, walk: Walk) -> dict[int, Callable[[], Any]]:
        """Return for each placeholder in a model, by identity, a function that loads its values."""
        return offloaded.stored(map(walk.module, self.having(walk, offloaded.HOOK)))

    def wanted_guards(self, walk: Walk, resolution: Resolution) -> dict[int, Guard]:
        """Hold what keeps state, and with `dropout: off` what draws random numbers.

        A recurrent layer without dropout has no training-time behaviour to turn off, and cuDNN
        cannot pass gradient through one in inference mode.
        """
        guards = {index: Guard(still=True) for index in resolution.held}
        for index in resolution.quiet:
            module = walk.module(index)
            if not (isinstance(module, nn.RNNBase) and not module.dropout):
                guards[index] = Guard(still=True)
        return guards

    def get_guards(self, walk: Walk) -> dict[int, Guard]:
        """Return the guards that are on a model's modules now."""
        marked = self.having(walk, self.reader.mark)
        pins = {n: modes.pin_of(walk.module(n)) for n in marked}
        return {n: Guard(still=True, copied=pin.copied) for n, pin in pins.items() if pin}

    def set_guards(self, walk: Walk, guards: Mapping[int, Guard]) -> None:
        """Put exactly these guards on a model, and take off all others."""
        before = self.get_guards(walk)
        if before != guards:
            walk.memo.having.clear()  # before the first is put on: an interrupt may follow
        for index, guard in before.items():
            if guards.get(index) != guard:
                modes.unpin(walk.module(index))
        for index, guard in guards.items():
            modes.pin(walk.module(index), copied=guard.copied)

    def reason_against_rows(self, tensor: LiveTensor) -> str:
        """Return why no rows of a table can train while the others stay; "" if they can."""
        if type(tensor) is not nn.Parameter or tensor.layout is not torch.strided:
            return f"it is a {type(tensor).__name__}, whose rows cannot be copied and put back"
        return super().reason_against_rows(tensor)

    def is_still(self, module: Layer) -> bool:
        """Return whether a module that is held is in inference mode now."""
        pin = modes.pin_of(module)
        return pin is not None and pin.is_quiet()

    def check_walk(self, walk: Walk, model: Model, resolution: Resolution) -> Iterator[Finding]:
        """Say what PyTorch would get wrong."""
        return checks.findings(walk, model, resolution, self.flags_now(walk))

    def hook(
        self, module: Layer, before: Callable[[], None], after: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Call back around a module's forward."""
        if isinstance(module, torch.jit.ScriptModule):
            raise TargetError(
                "a scripted model shows nothing of its forward pass",
                hint="give the model as it was before torch.jit.script",
            )
        first = module.register_forward_pre_hook(lambda *_: before(), prepend=True)
        last = module.register_forward_hook(lambda _module, _inputs, result: after(result))
        return partial(undo_all, (first.remove, last.remove))

    def on_load(self, walk: Walk, loaded: Callable[[], None]) -> Undo:
        """Call back after `load_state_dict`."""
        return load_watches.on_load(walk.root, loaded)

    def runs(self, module: Layer) -> bool:
        """Return True if a module computes something; a plain list of modules does not."""
        return type(module).forward is not nn.Module.forward or "forward" in vars(module)

    def is_compiled(self, walk: Walk) -> bool:
        """Return whether `torch.compile` runs a part of a model."""
        wrapped = any(hasattr(wrapper, "_orig_mod") for _, wrapper in walk.wrappers)
        if exchange.engines_around(walk.tensors):  # around them, or between them and the model
            wrapped = wrapped or any(self.root(c) is walk.root for c in exchange.compiled)
        return wrapped or any(getattr(m, "_compiled_call_impl", None) for m in walk.modules)

    def records_gradients(self) -> bool:
        """Return whether gradients are switched on now."""
        return bool(torch.is_grad_enabled())

    def trains(self, module: Layer) -> bool:
        """Return True if a forward pass now is one of training: in training mode, with gradient."""
        return bool(module.training) and torch.is_grad_enabled()

    @contextmanager
    def inference(self, walk: Walk) -> Iterator[None]:
        """Run without gradient, in inference mode; modes and random state are put back after."""
        stance = getattr(torch.compiler, "set_stance", None)
        eager = stance("force_eager") if stance else nullcontext()
        still = in_inference_mode(self, walk, layers.LOOKUP_TABLES, "max_norm")
        with self.random_state(), torch.no_grad(), eager, still:
            yield

    @contextmanager
    def random_state(self) -> Iterator[None]:
        """Put the random generators back after."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield

    def several(self) -> bool:
        """Return whether this process is one of a group."""
        return processes.are_ready() and torch.distributed.get_world_size() > 1

    def processes(self, model: Model) -> Processes:
        """Return the processes that exchange a model's gradients by DDP or `fully_shard`."""
        if not processes.are_ready():
            return Processes()
        root = self.root(model)
        tensors = list(root.parameters())
        engines = [*exchange.engines_around(tensors), *flattened.around(tensors)]
        ranks = processes.ranks_of(engines, [*layers.sharded(root), root])
        return processes.StoreProcesses(ranks) if len(ranks) > 1 else Processes()

    def is_sharded(self, model: Model) -> bool:
        """Return whether each process holds a part of some parameter."""
        if not processes.are_ready():
            return False
        root = self.root(model)
        parts = layers.sharded(root) or layers.divided(root)
        return bool(parts or flattened.around(root.parameters()))

    def is_gathered(self, model: Model) -> bool:
        """Return whether `summon_full_params` shows all of parameters that are divided."""
        return processes.are_ready() and flattened.are_whole(self.root(model).parameters())

    def wrappings(self, model: Model) -> int:
        """Return how many wrappers have given a model other values, and how many divide it."""
        if not processes.are_ready():
            return 0
        root = self.root(model)
        tensors = list(root.parameters())
        taking = sum(map(exchange.takes_values, exchange.engines_around(tensors)))
        # While `fully_shard` gathers parameters for a pass, they are not divided.
        parts = len(layers.sharded(root)) or len(layers.divided(root))
        return taking + parts + len(flattened.around(tensors)) + len(fixed_engines.around(tensors))

    def rebuild_exchange(self, walk: Walk, changed: Sequence[LiveTensor]) -> None:
        """Build the reducers of DDP wrappers anew; `fully_shard` reads the flags by itself."""
        exchange.rebuild(changed)

    def container(self, models: Mapping[str, Model]) -> Any:
        """Put several models into a `ModuleDict`."""
        return nn.ModuleDict(dict(models))
