"""What PyTorch's modules are: kinds of layers, wrappers to see through, tensors and state."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from unifreeze.backend import (
    CONTAINER,
    STOCHASTIC,
    Dicts,
    Reader,
    Tensor,
    computes_otherwise,
    declared_turned,
    turned_in_subclass,
)
from unifreeze_torch import _adapters as adapters
from unifreeze_torch import _quantised as quantised

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
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": (
        "_fsdp_wrapped_module"
    ),
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": (
        "_checkpoint_wrapped_module"
    ),
    **adapters.WRAPPED,
}

_STATISTICS = {"running_mean": "mean", "running_var": "var", "num_batches_tracked": "count"}
_RUNNING, _VECTORS = ("running_", "moving_"), ("_u", "_v")
_LISTING = ("named_modules", "_named_members", "__eq__", "__hash__")
"""What makes `nn.Module` list parameters by what modules hold, each module once."""
_IN_BY_OUT = "transformers.pytorch_utils.Conv1D"


class TorchReader(Reader):
    """Reads PyTorch modules for the walk."""

    framework = "torch"
    mark = "train"

    def __init__(self) -> None:
        self._kinds: dict[type, str] = {}
        self._inner: dict[type, str] = {}
        self._bases: dict[type, list[str]] = {}

    def dicts(self, module: Any) -> Dicts:
        """Return the module's own dictionaries of children, parameters and buffers."""
        own = module.__dict__
        if isinstance(module, torch.jit.ScriptModule):
            # It keeps something that is only like a dictionary.
            parts = own["_modules"], module._parameters, module._buffers
            return dict(parts[0].items()), dict(parts[1].items()), dict(parts[2].items())
        return own["_modules"], own["_parameters"], own["_buffers"]

    def listed(self, module: Any) -> Iterable[tuple[str, Any]]:
        """Return the parameters of a module and all under it, as `nn.Module` lists them.

        Whatever a class of a user's own makes of `parameters`: some give optimizers only a part.
        """
        named: Iterable[tuple[str, Any]] = nn.Module.named_parameters(module)
        return named

    def plain(self, module: Any) -> bool:
        """Tell whether `nn.Module` lists modules of a class by what `dicts` gives of them."""
        cls, own = type(module), module.__dict__
        children, parameters, _ = self.dicts(module)
        return (
            children is own["_modules"]
            and parameters is own.get("_parameters")
            and all(getattr(cls, name) is getattr(nn.Module, name) for name in _LISTING)
        )

    def kind(self, module: Any) -> str:
        """Return the module's kind from the layer table, "" if unknown."""
        cls = type(module)
        if cls not in self._kinds:
            self._kinds[cls] = _kind(cls)
        return self._kinds[cls]

    def inner(self, module: Any) -> str:
        """Return the path, below a wrapper, of the module it wraps; "" if it is not a wrapper."""
        cls = type(module)
        if cls not in self._inner:
            names = self._bases_of(module)
            self._inner[cls] = next((_WRAPPED[name] for name in names if name in _WRAPPED), "")
        inner = self._inner[cls]
        # Prompt learning keeps the bare model under `base_model` without a tuner around it.
        if not inner or not hasattr(module, inner):
            return ""
        return adapters.running_copy(module, self._bases_of(module)) or inner

    def _bases_of(self, module: Any) -> list[str]:
        cls = type(module)
        if cls not in self._bases:
            self._bases[cls] = qualified_bases(cls)
        return self._bases[cls]

    def choice(self, wrapper: Any) -> Hashable:
        """Return which adapters of a wrapper run now; None if it holds none."""
        if not adapters.chooses(self._bases_of(wrapper)):
            return None
        return adapters.running_adapters(wrapper)

    def idle(self, wrapper: Any, path: str) -> bool:
        """Tell whether a parameter belongs to a copy, or to an adapter, that does not run now."""
        bases = self._bases_of(wrapper)
        return adapters.chooses(bases) and adapters.is_idle(wrapper, path, bases)

    def adapts(self, module: Any) -> bool:
        """Tell whether a wrapper adds parameters that adapt what it wraps."""
        return any(name in adapters.ADAPTING for name in self._bases_of(module))

    def adapter_leaf(self, module: Any, leaf: str) -> bool:
        """Tell whether one of a layer's own parameters is an adapter's (never, in PyTorch)."""
        return False

    def swallows(self, module: Any, child: str) -> bool:
        """Tell whether a child's parameters are really this layer's own."""
        return child == "parametrizations"

    def spread(self, module: Any) -> Mapping[int, str]:
        """Return {}: PyTorch's layers register what is theirs themselves."""
        return {}

    def state_role(self, module: Any, leaf: str, tensor: Any) -> str:
        """Return the role of what a user's own code keeps as a parameter and writes to itself.

        Statistics that do not train, and the vectors of a spectral norm as GANs have it.
        """
        if tensor.requires_grad or not (leaf.startswith(_RUNNING) or _iterates(module, leaf)):
            return ""
        return _STATISTICS.get(leaf, leaf)

    def moves(self, module: Any, leaf: str) -> bool:
        """Return True; see `state_role`."""
        return True

    def state(self, module: Any, leaf: str, tensor: Any) -> tuple[str, bool]:
        """Return the role of a buffer and whether training moves it."""
        if leaf in _STATISTICS and self.kind(module) == "norm":
            return _STATISTICS[leaf], not is_frozen_norm(module)
        persistent = self.persistent(module, leaf)
        return leaf, persistent and (tensor.is_floating_point() or tensor.is_complex())

    def persistent(self, module: Any, leaf: str) -> bool:
        """Tell whether a module's state dict holds a buffer."""
        return leaf not in module._non_persistent_buffers_set

    def modeless(self, module: Any) -> str:
        """Say why a module has no inference mode: what it keeps moves in any mode."""
        if quantised.only_looks(self._bases_of(module)):
            return "it only looks at what passes, in any mode"
        steps = any(_iterates(module, leaf) for leaf in self.dicts(module)[1])
        return "its spectral norm makes steps in any mode" if steps else ""

    def tensor(self, module: Any, leaf: str, tensor: Any) -> Tensor:
        """Describe a parameter."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        if isinstance(tensor, UninitializedTensorMixin):
            return Tensor((), (), dtype, "", False)
        shape = tuple(tensor.shape)
        turned = self._turned(module, leaf, shape)
        fixed, impossible = _fixed(module, tensor)
        neutral = shape[::-1] if turned else shape
        return Tensor(shape, neutral, dtype, fixed, impossible, turned is not None)

    def _turned(self, module: Any, leaf: str, shape: tuple[int, ...]) -> bool | None:
        """Tell whether a matrix is stored input by output; None where nothing tells."""
        if len(shape) != 2 or shape[0] == shape[1]:
            return False
        if self.kind(module):
            if leaf == "weight" and _is_own_linear(module):
                bias = module._parameters.get("bias")
                found = turned_in_subclass(
                    module, shape, None if bias is None else tuple(bias.shape)
                )
                if found is not None:
                    return found
            return _IN_BY_OUT in self._bases_of(module)
        return declared_turned(module, shape)

    def alike(self, module: Any, leaf: str, tensor: Any) -> Hashable:
        """Return what all parameters share that are described as this one is."""
        if type(tensor) is not nn.Parameter or leaf.startswith(_RUNNING) or leaf.endswith(_VECTORS):
            return None
        turned = self._turned(module, leaf, tuple(tensor.shape))
        return type(module), tensor.requires_grad, tensor.shape, tensor.dtype, turned

    def shape_of(self, tensor: Any) -> tuple[tuple[int, ...], str]:
        """Return shape and neutral dtype of a state tensor."""
        if isinstance(tensor, UninitializedTensorMixin):
            return (), str(tensor.dtype).removeprefix("torch.")
        return tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")


def _is_own_linear(module: Any) -> bool:
    """Tell whether a layer derives from the framework's linear layer and computes otherwise."""
    derived = type(module) is not nn.Linear and isinstance(module, nn.Linear)
    return derived and computes_otherwise(module, "torch")


def is_lazy(tensor: Any) -> bool:
    """Tell whether a lazy layer's tensor waits for the first batch to get its shape."""
    return isinstance(tensor, UninitializedTensorMixin)


def made_in_inference_mode(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor can only in inference mode be made to require a gradient."""
    return not isinstance(tensor, UninitializedTensorMixin) and tensor.is_inference()


def qualified_bases(cls: type) -> list[str]:
    """Return the dotted names of a class and its bases, the class first."""
    return [f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__]


def largest_norms(modules: Iterable[Any]) -> list[tuple[Any, float]]:
    """Return the tables that shorten the rows they look up, each with the length it allows."""
    tables = [m for m in modules if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    return [(table, table.max_norm) for table in tables if table.max_norm is not None]


def keeps_statistics(module: Any) -> bool:
    """Tell whether a layer is a norm whose running statistics move while it trains."""
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None


def is_frozen_norm(module: Any) -> bool:
    """Tell whether a norm is of the class that never updates its statistics, in any mode.

    A class that is only called so, and computes as PyTorch's batch norms do, updates them.
    """
    return _NEVER_UPDATES in qualified_bases(type(module))


def has_memory(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is a view of memory that others could view too."""
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


def sharded(root: nn.Module) -> list[Any]:
    """Return the modules that `fully_shard` has taken over; without a process group none."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    import torch.distributed.fsdp as fsdp

    return [module for module in root.modules() if isinstance(module, fsdp.FSDPModule)]


def _kind(cls: type) -> str:
    if cls in _CONTAINERS:
        return CONTAINER
    for base, kind in _KIND_BY_CLASS:
        if issubclass(cls, base):
            return kind
    return next((_KIND_BY_NAME[n] for n in qualified_bases(cls) if n in _KIND_BY_NAME), "")


def _fixed(module: Any, tensor: Any) -> tuple[str, bool]:
    """Say why a parameter is never trained, and whether it cannot be."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return f"a {str(tensor.dtype).removeprefix('torch.')} tensor has no gradient", True
    inner = getattr(tensor, "__tensor_flatten__", None)
    if inner is not None and type(tensor) not in (torch.Tensor, nn.Parameter):
        parts = [getattr(tensor, name) for name in inner()[0]]
        if any(not part.is_floating_point() for part in parts if isinstance(part, torch.Tensor)):
            return f"{type(tensor).__name__} stores quantised integers", True
    if _keeps_fixed_tables(module) and not tensor.requires_grad:
        return "a fixed position table", False
    return "", False


def _iterates(module: Any, leaf: str) -> bool:
    """Tell whether a parameter is a vector of a spectral norm that a module around this one keeps.

    Such code calls the weight that trains `weight_bar`, and makes its steps in any mode.
    """
    return leaf.endswith(_VECTORS) and f"{leaf[:-2]}_bar" in module._parameters


def _keeps_fixed_tables(module: Any) -> bool:
    return "sinusoidal" in type(module).__name__.lower()
