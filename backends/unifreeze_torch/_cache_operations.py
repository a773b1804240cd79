"""What a cache of frozen outputs needs of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch.nn.modules import module as torch_modules
from torch.utils.flop_counter import FlopCounterMode

from unifreeze.backend import Array, CacheOperations, Layer, LiveTensor, Undo
from unifreeze_torch import _faster_prefix as faster


class TorchCacheOperations(CacheOperations):
    """PyTorch's part of the cache."""

    def __init__(self) -> None:
        super().__init__()
        self._singles: dict[Hashable, LiveTensor] = {}

    def requires_gradient(self, tensor: LiveTensor) -> bool:
        """Return whether gradient would flow back through a tensor."""
        return bool(tensor.requires_grad)

    def gradient_enabled(self) -> bool:
        """Return whether operations are recorded for a backward pass now."""
        return bool(torch.is_grad_enabled())

    def with_gradient(self, *, enabled: bool) -> AbstractContextManager[Any]:
        """Record operations for a backward pass meanwhile, or do not."""
        mode: AbstractContextManager[Any] = torch.enable_grad() if enabled else torch.no_grad()
        return mode

    def precision_in_force(self) -> str:
        """Return which automatic casts are in force, as text."""
        casts = [
            f"{device} {torch.get_autocast_dtype(device)}"
            for device in ("cpu", "cuda")
            if torch.is_autocast_enabled(device)
        ]
        precision = torch.get_float32_matmul_precision()
        return " ".join([*casts, precision, str(torch.get_default_dtype())])

    def remember_random(self) -> Callable[[], None]:
        """Return a function that puts the generators back to where they are now."""
        cpu = torch.get_rng_state()
        gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

        def put_back() -> None:
            torch.set_rng_state(cpu)
            if gpu:
                torch.cuda.set_rng_state_all(gpu)

        return put_back

    def random_bits(self) -> Hashable:
        """Return a value that is the same as long as nothing draws from the generators."""
        states = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            states += torch.cuda.get_rng_state_all()
        return tuple(state.numpy().tobytes() for state in states)

    def traces_of(self, tensors: Sequence[LiveTensor]) -> list[Hashable]:
        """Return what most writes to tensors change, without a look at their values."""
        return [*map(attrgetter("_version"), tensors), *map(torch.Tensor.data_ptr, tensors)]

    def placeholder(self, shape: Sequence[int], like: LiveTensor, value: float) -> LiveTensor:
        """Return a tensor of one value that takes no memory: all its elements are one."""
        key = like.dtype, like.device, str(value)
        if key not in self._singles:
            with torch.inference_mode(mode=False):  # else it could be used in no training pass
                self._singles[key] = torch.full((), value, dtype=like.dtype, device=like.device)
        return self._singles[key].expand(tuple(shape))

    def from_rows(self, array: Array, like: LiveTensor) -> LiveTensor:
        """Return a tensor of an array's values; on the CPU they are copied once."""
        if like.device.type == "cpu" and str(like.dtype) == f"torch.{array.dtype}":
            return torch.from_numpy(array).clone()
        return super().from_rows(array, like)

    @contextmanager
    def other_values(self, tensors: Iterable[LiveTensor], factor: float) -> Iterator[None]:
        """Give tensors other values meanwhile, in other memory, without a trace of it."""
        kept = [(tensor, tensor.data) for tensor in tensors if tensor.is_floating_point()]
        try:
            for tensor, data in kept:
                tensor.data = data * factor + 0.03125
            yield
        finally:
            for tensor, data in kept:
                tensor.data = data

    def drop_values(self, tensor: LiveTensor) -> Any:
        """Take a frozen tensor's values out of memory: one NaN stands for all of them."""
        strides = tensor.stride()
        nan = torch.full((), float("nan"), dtype=tensor.dtype, device=tensor.device)
        tensor.data = nan.expand(tensor.shape)
        return strides

    def give_values(self, tensor: LiveTensor, array: Array, before: Any) -> None:
        """Give values to a tensor that has none, in the same order in memory as before."""
        plain = {"dtype": tensor.dtype, "device": tensor.device}
        values = torch.empty_strided(tensor.shape, before, **plain)
        tensor.data = values.copy_(self.from_array(array, tensor))

    def before_state_dicts(self, modules: Iterable[Layer], call: Callable[[], None]) -> Undo:
        """Call a function before the state of any of some modules is read or loaded."""
        hooks = []
        for module in modules:
            hooks.append(module.register_state_dict_pre_hook(lambda *_: call()))
            hooks.append(module.register_load_state_dict_pre_hook(lambda *_: call()))
        return partial(_remove, hooks)

    def check_prefix(self, prefix: str, tensors: Sequence[LiveTensor]) -> None:
        """Refuse a faster way to run frozen modules that PyTorch does not have here."""
        faster.check(prefix, tensors)

    def faster_forward(
        self, prefix: str, module: Layer, forward: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return a function that computes what a frozen module does, faster."""
        way = faster.in_bfloat16 if prefix == "bfloat16" else faster.compiled
        return way(module, forward)

    def as_type(self, tensor: LiveTensor, like: LiveTensor) -> LiveTensor:
        """Return a tensor in the type of another one."""
        return tensor.to(like.dtype)

    def hooks_around(self, module: Layer) -> list[Any]:
        """Return the hooks around a module's forward pass."""
        own = (module._forward_pre_hooks, module._forward_hooks)
        tables = (*own, *self.hooks_around_all())
        return [hook for table in tables for hook in table.values()]

    def hooks_around_all(self) -> Sequence[dict[Any, Any]]:
        """Return PyTorch's tables of hooks around the forward pass of every module."""
        return torch_modules._global_forward_pre_hooks, torch_modules._global_forward_hooks

    def is_exact(self, tensor: LiveTensor) -> bool:
        """Return whether equal computations give equal bits where a tensor is: on the CPU."""
        return bool(tensor.device.type == "cpu")

    @contextmanager
    def counting_operations(self) -> Iterator[Callable[[], int] | None]:
        """Count floating-point operations meanwhile; yields what returns their number."""
        with FlopCounterMode(display=False) as counter:
            yield counter.get_total_flops

    def keeping_for_backward(
        self, keeps: Callable[[LiveTensor], None]
    ) -> AbstractContextManager[Any]:
        """Call a function with each tensor that is kept for a backward pass meanwhile."""

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            keeps(tensor)
            return tensor

        packing: AbstractContextManager[Any]
        packing = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        return packing

    def memory_of(self, tensor: LiveTensor) -> tuple[Hashable, int]:
        """Return where the memory of a tensor is, and how many bytes it takes."""
        storage = tensor.untyped_storage()
        return storage.data_ptr(), int(storage.nbytes())

    def version(self) -> str:
        """Return the framework's name and version."""
        return f"torch {torch.__version__}"


def _remove(hooks: Sequence[Any]) -> None:
    for hook in hooks:
        hook.remove()
