"""Tables of PyTorch's modules: kinds of layers, wrappers to see through, tensors and state."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import repeat
from operator import attrgetter, eq
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from unifreeze.backend import STOCHASTIC, ClassTableReader, Dicts, qualified_bases
from unifreeze_torch import _peft_wrappers as peft_wrappers
from unifreeze_torch import _quantisers as quantisers

_CONTAINERS = (
    nn.ModuleList,
    nn.ModuleDict,
    nn.Sequential,
    nn.utils.parametrize.ParametrizationList,
)

_KIND_BY_CLASS: tuple[tuple[type, str], ...] = (
    (nn.modules.batchnorm._NormBase, "norm"),
    (nn.LayerNorm, "norm"),
    (nn.GroupNorm, "norm"),
    (nn.RMSNorm, "norm"),
    (nn.modules.conv._ConvNd, "conv"),
    (nn.Linear, "linear"),
    (nn.Bilinear, "linear"),
    (nn.MultiheadAttention, "linear"),
    (nn.Embedding, "embedding"),
    (nn.EmbeddingBag, "embedding"),
    (nn.RNNBase, "rnn"),
    (nn.RNNCellBase, "rnn"),
    (nn.PReLU, "activation"),
    (nn.modules.dropout._DropoutNd, STOCHASTIC),
)

LOOKUP_TABLES = (nn.Embedding, nn.EmbeddingBag)

_NEVER_UPDATES = "torchvision.ops.misc.FrozenBatchNorm2d"
_KIND_BY_NAME = {
    # Classes of libraries that need not be installed; all are matched along the class's bases.
    "transformers.pytorch_utils.Conv1D": "linear",
    "torchvision.ops.stochastic_depth.StochasticDepth": STOCHASTIC,
    _NEVER_UPDATES: "norm",
    "timm.layers.drop.DropPath": STOCHASTIC,
}

_WRAPPED = {
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "deepspeed.runtime.engine.DeepSpeedEngine": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": (
        "_fsdp_wrapped_module"
    ),
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": (
        "_checkpoint_wrapped_module"
    ),
    **peft_wrappers.WRAPPED,
}

_STATISTICS = {"running_mean": "mean", "running_var": "var", "num_batches_tracked": "count"}
_RUNNING, _VECTORS = ("running_", "moving_"), ("_u", "_v")
_IN_BY_OUT = "transformers.pytorch_utils.Conv1D"


class TorchReader(ClassTableReader):
    """Reads PyTorch modules for the walk."""

    framework = "torch"
    mark = "train"
    module_class = nn.Module
    children = "_modules"
    unsaved = "_non_persistent_buffers_set"
    listing = ("named_modules", "_named_members", "__eq__", "__hash__")
    containers = _CONTAINERS
    kinds = _KIND_BY_CLASS
    kinds_by_name = _KIND_BY_NAME
    wrapped = _WRAPPED
    sort = staticmethod(attrgetter("__class__", "shape", "dtype"))

    def dicts(self, module: nn.Module) -> Dicts:
        """Return the module's own dictionaries of children, parameters and buffers."""
        if isinstance(module, torch.jit.ScriptModule):
            # A scripted module keeps something that is only like a dictionary.
            actual = module.__dict__.get("_actual_script_module", module)  # a trace hands it on
            return (
                dict(actual.__dict__["_modules"].items()),
                dict(actual._parameters.items()),
                dict(actual._buffers.items()),
            )
        attributes = module.__dict__  # not by `super`: this is called for every module
        if "_modules" not in attributes:  # its constructor has not run yet
            return {}, {}, {}
        return attributes["_modules"], attributes["_parameters"], attributes["_buffers"]

    def regular(self, module: nn.Module) -> bool:
        """Return whether the class of a module says all of it but for its children and tensors."""
        return not isinstance(module, torch.jit.ScriptModule) and super().regular(module)

    def inner(self, module: nn.Module) -> str:
        """Return the path, below a wrapper, of the module it wraps; "" if it is not a wrapper."""
        inner = self._wrapped.get(type(module))  # known, for all modules but the first of a class
        if inner is None:
            inner = super().inner(module)
        # Prompt learning keeps the bare model under `base_model` without a tuner around it.
        if not inner or not hasattr(module, inner):
            return ""
        return peft_wrappers.running_copy(module, self.bases(module)) or inner

    def choice(self, wrapper: nn.Module) -> Hashable:
        """Return which adapters of a wrapper run now; None if it holds none."""
        if not peft_wrappers.chooses(self.bases(wrapper)):
            return None
        return peft_wrappers.running_adapters(wrapper)

    def idle(self, wrapper: nn.Module, path: str) -> bool:
        """Return whether a parameter belongs to a copy, or to an adapter, that does not run now."""
        bases = self.bases(wrapper)
        return peft_wrappers.chooses(bases) and peft_wrappers.is_idle(wrapper, path, bases)

    def adapts(self, module: nn.Module) -> bool:
        """Return whether a wrapper adds parameters that adapt what it wraps."""
        return any(name in peft_wrappers.ADAPTING for name in self.bases(module))

    def swallows(self, module: nn.Module, child: str) -> bool:
        """Return whether a child's parameters really belong to this layer."""
        return child == "parametrizations"

    def state_role(self, module: nn.Module, leaf: str, tensor: torch.Tensor) -> str:
        """Return the role of a parameter that a user's code writes to itself, "" for all others.

        Such are running statistics that do not train, routers' balancing biases, and the vectors of
        GANs' own spectral norms.
        """
        if tensor.requires_grad:
            return ""
        if not (leaf.startswith(_RUNNING) or self.balances(leaf) or _iterates(module, leaf)):
            return ""
        return _STATISTICS.get(leaf, leaf)

    def state(self, module: nn.Module, leaf: str, tensor: torch.Tensor) -> tuple[str, bool]:
        """Return the role of a buffer and whether training moves it."""
        if leaf in _STATISTICS and self.kind(module) == "norm":
            return _STATISTICS[leaf], not is_frozen_norm(module)
        persistent = self.persistent(module, leaf)
        return leaf, persistent and (tensor.is_floating_point() or tensor.is_complex())

    def modeless(self, module: nn.Module) -> str:
        """Return why a module has no inference mode, "" if it has one."""
        if quantisers.only_looks(self.bases(module)):
            return "it only looks at what passes, in any mode"
        steps = any(_iterates(module, leaf) for leaf in self.dicts(module)[1])
        return "its spectral norm makes steps in any mode" if steps else ""

    def usually_turned(self, module: nn.Module) -> bool | None:
        """Return whether layers of a class store matrices input by output; None if unknown."""
        return _IN_BY_OUT in self.bases(module) if self.known_kind(module) else None

    def is_linear(self, module: nn.Module) -> bool:
        """Return whether a layer is derived from PyTorch's linear layer."""
        return type(module) is not nn.Linear and isinstance(module, nn.Linear)

    def fixed(self, module: nn.Module, tensor: torch.Tensor, dtype: str) -> tuple[str, bool]:
        """Say why a parameter is never trained, "" if it may be; and whether it cannot be."""
        inner = getattr(tensor, "__tensor_flatten__", None)
        if inner is not None and type(tensor) not in (torch.Tensor, nn.Parameter):
            parts = [getattr(tensor, name) for name in inner()[0]]
            inside = [part for part in parts if isinstance(part, torch.Tensor)]
            if not all(part.is_floating_point() for part in inside):
                return f"{type(tensor).__name__} stores quantised integers", True
        return super().fixed(module, tensor, dtype)

    def frozen(self, tensor: torch.Tensor) -> bool:
        """Return whether a parameter's flag says that it is frozen."""
        return not tensor.requires_grad

    def alike(self, module: nn.Module, leaf: str, tensor: torch.Tensor) -> Hashable:
        """Return a key that parameters described alike share; None for what may be state."""
        if type(tensor) is not nn.Parameter or leaf.startswith(_RUNNING) or leaf.endswith(_VECTORS):
            return None
        if leaf.endswith("_bias") and self.balances(leaf):
            return None
        shape = tensor.shape
        # Most tensors of a large model are norms and biases: they are not asked about.
        turned = len(shape) == 2 and self.turned(module, leaf, tuple(shape))
        return type(module), tensor.requires_grad, shape, tensor.dtype, turned

    def same_sort(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Return whether parameters of one class have the same shape and dtype.

        The number of a vector's values says its shape, and takes a quarter of the time to read.
        """
        first = tensors[0]
        read: Callable[[torch.Tensor], Any] = attrgetter("shape")
        if first.dim() == 1:
            if {*map(torch.Tensor.dim, tensors)} != {1}:
                return False
            read = torch.Tensor.numel
        sizes = map(eq, map(read, tensors), repeat(read(first)))
        return len({*map(attrgetter("dtype"), tensors)}) == 1 and all(sizes)

    def shape_of(self, tensor: torch.Tensor) -> tuple[tuple[int, ...], str]:
        """Return shape and neutral dtype of a state tensor."""
        if isinstance(tensor, UninitializedTensorMixin):
            return (), str(tensor.dtype).removeprefix("torch.")
        return tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")


def is_lazy(tensor: torch.Tensor) -> bool:
    """Return whether a lazy layer's tensor waits for the first batch to get its shape."""
    return isinstance(tensor, UninitializedTensorMixin)


def made_in_inference_mode(tensor: torch.Tensor) -> bool:
    """Return whether a tensor can be made to require a gradient in inference mode only."""
    return not isinstance(tensor, UninitializedTensorMixin) and tensor.is_inference()


def keeps_statistics(module: nn.Module) -> bool:
    """Return whether a layer is a norm whose running statistics move while it trains."""
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None


def is_frozen_norm(module: nn.Module) -> bool:
    """Return whether a norm is of the class that never updates its statistics, in any mode.

    A user's class with the same name, derived from PyTorch's batch norms, does update them.
    """
    return _NEVER_UPDATES in qualified_bases(type(module))


def has_memory(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is a view of memory that other tensors could view, too."""
    return not tensor.is_meta and tensor.layout is torch.strided


def extent(tensor: torch.Tensor) -> int:
    """Return the number of bytes from a tensor's first to past its last element."""
    if tensor.is_contiguous():
        return int(tensor.nbytes)
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    elements = 1 + sum((size - 1) * stride for size, stride in steps)
    return int(elements * tensor.element_size())


def sharded(root: nn.Module) -> list[nn.Module]:
    """Return the modules that `fully_shard` has taken over; there are none in a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    import torch.distributed.fsdp as fsdp

    return [module for module in root.modules() if isinstance(module, fsdp.FSDPModule)]


def divided(root: nn.Module) -> list[torch.Tensor]:
    """Return the parameters of which each process holds a part, as tensor parallelism does it."""
    return [tensor for tensor in root.parameters() if hasattr(tensor, "device_mesh")]


def _iterates(module: nn.Module, leaf: str) -> bool:
    """Return whether a parameter is a vector of a spectral norm in a module around this one.

    GANs have such code. It calls the weight that trains `weight_bar`, and it updates the vectors in
    any mode.
    """
    return leaf.endswith(_VECTORS) and f"{leaf[:-2]}_bar" in module._parameters
