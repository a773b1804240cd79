"""What a cache of frozen outputs needs of Paddle."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from operator import attrgetter
from typing import Any

import paddle
import xxhash
from paddle.base.framework import _dygraph_tracer

from unifreeze.backend import Array, CacheOperations, Layer, LiveTensor, Undo
from unifreeze_paddle import _faster_prefix as faster

_MOST_PLACEHOLDERS = 64


class PaddleCacheOperations(CacheOperations):
    """Paddle's part of the cache."""

    def __init__(self) -> None:
        super().__init__()
        self._placeholders: dict[Hashable, LiveTensor] = {}

    def requires_gradient(self, tensor: LiveTensor) -> bool:
        """Return whether gradient would flow back through a tensor."""
        return not tensor.stop_gradient

    def gradient_enabled(self) -> bool:
        """Return whether operations are recorded for a backward pass now."""
        return bool(paddle.is_grad_enabled())

    def with_gradient(self, *, enabled: bool) -> AbstractContextManager[Any]:
        """Record operations for a backward pass meanwhile, or do not."""
        return _gradient_mode(enabled=enabled)

    def precision_in_force(self) -> str:
        """Return which automatic casts are in force, as text."""
        tracer = _dygraph_tracer()
        if tracer is None:
            return ""
        lists = [sorted(names) for names in tracer._get_amp_op_list()]
        casts = f"{tracer._amp_level} {tracer._amp_dtype}"
        if any(lists):
            casts += f" {xxhash.xxh3_64(repr(lists).encode()).hexdigest()}"
        return f"{casts} {paddle.get_default_dtype()}"

    def remember_random(self) -> Callable[[], None]:
        """Return a function that puts the generators back to where they are now."""
        state = paddle.get_rng_state()
        return lambda: paddle.set_rng_state(state)

    def random_bits(self) -> Hashable:
        """Return a value that is the same as long as nothing draws from the generators."""
        # The text has an address in it, which differs each time.
        return tuple(re.sub("0x[0-9a-f]+", "", str(state)) for state in paddle.get_rng_state())

    def traces_of(self, tensors: Sequence[LiveTensor]) -> list[Hashable]:
        """Return what many writes to tensors change, without a look at their values."""
        versions = map(attrgetter("inplace_version"), tensors)
        return [*versions, *map(paddle.Tensor.data_ptr, tensors)]

    def placeholder(self, shape: Sequence[int], like: LiveTensor, value: float) -> LiveTensor:
        """Return a tensor of one value, the same one for each shape.

        Not one whose elements are all the same in memory: with such a tensor Paddle never returns.
        """
        key = tuple(shape), str(like.dtype), str(like.place), str(value)
        # Code may have written to it in place.
        if key not in self._placeholders or self._placeholders[key].inplace_version:
            if len(self._placeholders) >= _MOST_PLACEHOLDERS:
                self._placeholders.clear()
            self._placeholders[key] = paddle.full(list(shape), value, dtype=like.dtype)
        return self._placeholders[key]

    def from_rows(self, array: Array, like: LiveTensor) -> LiveTensor:
        """Return a tensor of an array's values; Paddle has copied them."""
        return self.from_array(array, like)

    @contextmanager
    def other_values(self, tensors: Iterable[LiveTensor], factor: float) -> Iterator[None]:
        """Give tensors other values meanwhile, in other memory, without a trace of it."""
        changing = [t for t in tensors if t._is_initialized() and self.is_floating(t)]
        with paddle.no_grad():
            others = [tensor * factor + 0.03125 for tensor in changing]
            # Of a detached tensor the memory would change together with the tensor's own.
            keepers = [tensor * 1 for tensor in changing]
        for keeper, tensor in zip(keepers, changing, strict=True):
            _share(keeper, tensor)
        try:
            for tensor, other in zip(changing, others, strict=True):
                _share(tensor, other)
            yield
        finally:
            for tensor, keeper in zip(changing, keepers, strict=True):
                _share(tensor, keeper)

    def drop_values(self, tensor: LiveTensor) -> Any:
        """Take a frozen tensor's values out of memory; it keeps its shape, and any use fails."""
        before = tensor.dtype, tensor.place
        tensor._clear_data()
        return before

    def give_values(self, tensor: LiveTensor, array: Array, before: Any) -> None:
        """Give values to a tensor that has none; values that somebody has loaded stay."""
        if not tensor._is_initialized():
            dtype, place = before
            _share(tensor, paddle.to_tensor(array, place=place).astype(dtype))

    def before_state_dicts(self, modules: Iterable[Layer], call: Callable[[], None]) -> Undo:
        """Call a function once the state of any of some layers is read; it holds their tensors."""
        hooks = [module.register_state_dict_hook(lambda _: call()) for module in modules]
        return partial(_remove, hooks)

    def check_prefix(self, prefix: str, tensors: Sequence[LiveTensor]) -> None:
        """Refuse a faster way to run frozen layers that Paddle does not have here."""
        faster.check(prefix, tensors)

    def faster_forward(
        self, prefix: str, module: Layer, forward: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return a function that computes what a frozen layer does, faster."""
        return faster.in_bfloat16(forward) if prefix == "bfloat16" else faster.Exported(module)

    def as_type(self, tensor: LiveTensor, like: LiveTensor) -> LiveTensor:
        """Return a tensor in the type of another one."""
        return tensor.astype(like.dtype)

    def hooks_around(self, module: Layer) -> list[Any]:
        """Return the hooks around a layer's forward pass."""
        return [*module._forward_pre_hooks.values(), *module._forward_post_hooks.values()]

    def is_exact(self, tensor: LiveTensor) -> bool:
        """Return whether equal computations give equal bits where a tensor is: on the CPU."""
        return bool(tensor.place.is_cpu_place())

    def keeping_for_backward(
        self, keeps: Callable[[LiveTensor], None]
    ) -> AbstractContextManager[Any]:
        """Call a function with each tensor that is kept for a backward pass meanwhile."""

        def pack(tensor: paddle.Tensor) -> paddle.Tensor:
            keeps(tensor)
            return tensor

        return _packed(pack)

    def memory_of(self, tensor: LiveTensor) -> tuple[Hashable, int]:
        """Return where the memory of a tensor is, and how many bytes it takes."""
        if not tensor._is_initialized():
            return 0, 0
        return int(tensor.data_ptr()), int(tensor.size) * int(tensor.element_size())

    def version(self) -> str:
        """Return the framework's name and version."""
        return f"paddle {paddle.__version__}"


@contextmanager
def _gradient_mode(*, enabled: bool) -> Iterator[None]:
    with paddle.enable_grad() if enabled else paddle.no_grad():
        yield


@contextmanager
def _packed(pack: Callable[[LiveTensor], LiveTensor]) -> Iterator[None]:
    with paddle.autograd.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def _remove(hooks: Sequence[Any]) -> None:
    for hook in hooks:
        hook.remove()


def _share(tensor: LiveTensor, source: LiveTensor) -> None:
    tensor.value().get_tensor()._share_data_nocheck_with(source.value().get_tensor())
