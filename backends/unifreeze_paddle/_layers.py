"""What PaddlePaddle's layers are: kinds, wrappers to see through, tensors and state."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import paddle
from paddle import nn
from paddle.nn.layer.conv import _ConvNd
from paddle.nn.layer.norm import _BatchNormBase, _InstanceNormBase
from paddle.nn.layer.rnn import RNNBase, RNNCellBase
from paddle.nn.quant.qat.conv import QuantedConv2D
from paddle.nn.quant.qat.linear import QuantedLinear
from paddle.nn.quant.quant_layers import QuantizedConv2D, QuantizedConv2DTranspose, QuantizedLinear

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
from unifreeze.errors import DescriptionError
from unifreeze_paddle import _quantised as quantised
from unifreeze_paddle import _recurrent as recurrent
from unifreeze_paddle import _translated as translated

MARK = "_unifreeze_guard"
"""Under which a guarded layer keeps its guard."""

_CONTAINERS = (nn.LayerList, nn.LayerDict, nn.Sequential)

BATCH_NORMS = (_BatchNormBase, nn.BatchNorm)
"""Batch norms, the legacy class included; they keep statistics among their parameters."""

_KIND_BY_CLASS: tuple[tuple[type, str], ...] = (
    *((norm, "norm") for norm in BATCH_NORMS),
    (_InstanceNormBase, "norm"),
    (nn.LayerNorm, "norm"),
    (nn.GroupNorm, "norm"),
    (_ConvNd, "conv"),
    (nn.Linear, "linear"),
    (nn.Bilinear, "linear"),
    (QuantedConv2D, "conv"),
    (QuantizedConv2D, "conv"),
    (QuantizedConv2DTranspose, "conv"),
    (QuantedLinear, "linear"),
    (QuantizedLinear, "linear"),
    (nn.Embedding, "embedding"),
    (RNNBase, "rnn"),
    (RNNCellBase, "rnn"),
    (nn.PReLU, "activation"),
    (nn.Dropout, STOCHASTIC),
    (nn.Dropout2D, STOCHASTIC),
    (nn.Dropout3D, STOCHASTIC),
    (nn.AlphaDropout, STOCHASTIC),
)

_WRAPPED = {
    "paddle.distributed.parallel.DataParallel": "_layers",
    "paddle.distributed.fleet.meta_parallel.meta_parallel_base.MetaParallelBase": "_layers",
    "paddle.hapi.model.Model": "network",
    "paddlenlp.peft.lora.lora_model.LoRAModel": "model",
    "paddleformers.peft.lora.lora_model.LoRAModel": "model",
}

_LISTING = ("named_sublayers", "__eq__", "__hash__")
"""What makes `nn.Layer` list parameters by what layers hold, each layer once."""
_STATISTICS = {"_mean": "mean", "_variance": "var"}
_MEANS_AND_VARIANCES = ("mean", "variance", "var")
_IN_BY_OUT = frozenset(
    {
        "paddle.nn.layer.common.Linear",
        "paddle.nn.quant.qat.linear.QuantedLinear",
        "paddle.nn.quant.quant_layers.QuantizedLinear",
        "paddle.nn.quant.quant_layers.QuantizedColumnParallelLinear",
        "paddle.nn.quant.quant_layers.QuantizedRowParallelLinear",
        "paddle.distributed.fleet.layers.mpu.mp_layers.ColumnParallelLinear",
        "paddle.distributed.fleet.layers.mpu.mp_layers.RowParallelLinear",
        "paddle.distributed.fleet.utils.sequence_parallel_utils.ColumnSequenceParallelLinear",
        "paddle.distributed.fleet.utils.sequence_parallel_utils.RowSequenceParallelLinear",
    }
)
"""Paddle's own layers that store a matrix input by output."""
_OUT_BY_IN = frozenset({"paddle.compat.nn.Linear"})
_EITHER = "paddle.incubate.nn.layer.fused_linear.FusedLinear"
"""It stores a matrix as its own attribute says."""
_QUANTISERS = ("paddle.nn.quant", "paddle.quantization", "paddle.static.quantization")


class PaddleReader(Reader):
    """Reads PaddlePaddle layers for the walk."""

    framework = "paddle"
    mark = MARK

    def __init__(self) -> None:
        self._kinds: dict[type, str] = {}
        self._inner: dict[type, str] = {}
        self._programs: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()
        self._names: dict[type, frozenset[str]] = {}

    def dicts(self, module: Any) -> Dicts:
        """Return the layer's own dictionaries of children, parameters and buffers."""
        own = module.__dict__
        if "_sub_layers" not in own:
            return {}, {}, {}
        return own["_sub_layers"], own["_parameters"], own["_buffers"]

    def listed(self, module: Any) -> Iterable[tuple[str, Any]]:
        """Return the parameters of a layer and all under it, as `nn.Layer` lists them.

        Whatever a class of a user's own makes of `parameters`: some give optimizers only a part.
        """
        named: Iterable[tuple[str, Any]] = nn.Layer.named_parameters(module)
        return named

    def plain(self, module: Any) -> bool:
        """Tell whether `nn.Layer` lists layers of a class by what `dicts` gives of them."""
        cls, own = type(module), module.__dict__
        children, parameters, _ = self.dicts(module)
        return (
            children is own.get("_sub_layers")
            and parameters is own.get("_parameters")
            and all(getattr(cls, name) is getattr(nn.Layer, name) for name in _LISTING)
        )

    def kind(self, module: Any) -> str:
        """Return the layer's kind from the table, "" if unknown."""
        cls = type(module)
        if cls not in self._kinds:
            self._kinds[cls] = _kind(cls)
        return self._kinds[cls]

    def inner(self, module: Any) -> str:
        """Return the name of the child that a wrapper wraps, "" if it is none."""
        cls = type(module)
        if cls not in self._inner:
            names = qualified_bases(cls)
            self._inner[cls] = next((_WRAPPED[name] for name in names if name in _WRAPPED), "")
        return self._inner[cls]

    def choice(self, wrapper: Any) -> Hashable:
        """Return None: what a wrapper wraps always runs."""
        return None

    def idle(self, wrapper: Any, path: str) -> bool:
        """Return False: everything in a wrapper runs."""
        return False

    def adapts(self, module: Any) -> bool:
        """Tell whether a wrapper adds adapting parameters (in Paddle the layers hold them)."""
        return False

    def adapter_leaf(self, module: Any, leaf: str) -> bool:
        """Tell whether one of a layer's own parameters is an adapter's."""
        return leaf.startswith("lora_") and "LoRA" in type(module).__name__

    def swallows(self, module: Any, child: str) -> bool:
        """Tell whether a child's parameters are really this layer's own (never, in Paddle)."""
        return False

    def spread(self, module: Any) -> Mapping[int, str]:
        """Return the roles of what the cells of a recurrent network hold: it is one layer.

        The network registers most of it itself, and only then is it listed under the names it gives
        there. Those may be another tensor's: with a projection, or without a bias, Paddle counts
        past its own list of names. So roles are told by where a tensor hangs in the cells.
        """
        return recurrent.roles(module) if isinstance(module, RNNBase) else {}

    def state_role(self, module: Any, leaf: str, tensor: Any) -> str:
        """Return the role of a tensor that Paddle holds as a parameter though none trains it."""
        if leaf in ("weight", "bias"):
            return ""
        if isinstance(module, translated.CLASSES):
            if module not in self._programs:
                self._programs[module] = translated.statistics(module)
            return self._programs[module].get(leaf, "")
        if leaf in _STATISTICS and isinstance(module, BATCH_NORMS):
            return _STATISTICS[leaf]
        if leaf in ("weight_u", "weight_v") and isinstance(module, nn.SpectralNorm):
            return leaf
        if leaf.endswith(_MEANS_AND_VARIANCES) and _keeps_statistics_as(module, leaf):
            return "mean" if leaf.endswith("mean") else "var"
        # Not by the flag: a training step sets it on these.
        if leaf.startswith("_") and _quantises(type(module)):
            return leaf
        return ""

    def moves(self, module: Any, leaf: str) -> bool:
        """Tell whether training moves state that is held as a parameter."""
        return not isinstance(module, translated.CLASSES) or isinstance(module, translated.MOVING)

    def state(self, module: Any, leaf: str, tensor: Any) -> tuple[str, bool]:
        """Return the role of a buffer and whether training moves it."""
        values = is_floating(tensor) or "complex" in dtype_name(tensor)
        return leaf, values and self.persistent(module, leaf)

    def persistent(self, module: Any, leaf: str) -> bool:
        """Tell whether a layer's state dict holds a buffer."""
        return leaf not in module._non_persistable_buffer_names_set

    def modeless(self, module: Any) -> str:
        """Say why a layer has no inference mode: it never uses what it gathers."""
        if quantised.derives(module):
            return "it takes the range of what passes, in any mode"
        if not isinstance(module, BATCH_NORMS) or isinstance(module, nn.SyncBatchNorm):
            return ""
        own = module.__dict__
        if isinstance(module, nn.BatchNorm):
            batches = own["_trainable_statistics"] and not own["_use_global_stats"]
        else:
            batches = own["_use_global_stats"] is False
        return "it normalises by the batch in inference mode, too" if batches else ""

    def tensor(self, module: Any, leaf: str, tensor: Any) -> Tensor:
        """Describe a parameter; linear weights are in x out in Paddle, out x in in neutral.

        Raises:
            DescriptionError: It is a variable of a static program.
        """
        if not isinstance(tensor, paddle.Tensor):
            raise DescriptionError(
                f"{leaf} of a {type(module).__name__} is a variable of a static program",
                context="such a network is run by its program, which keeps no flags of ours",
                hint="build it in dynamic mode: paddle.disable_static()",
            )
        shape = tuple(int(n) for n in tensor.shape)
        turned = self._turned(module, leaf, shape)
        neutral = shape[::-1] if turned else shape
        if isinstance(module, nn.Bilinear) and leaf == "bias":
            neutral, turned = shape[1:], False
        fixed, impossible = _fixed(module, tensor)
        dtype = dtype_name(tensor)
        return Tensor(shape, neutral, dtype, fixed, impossible, turned is not None)

    def _turned(self, module: Any, leaf: str, shape: tuple[int, ...]) -> bool | None:
        """Tell whether a matrix is stored input by output; None where nothing tells."""
        if recurrent.projects(module, leaf):
            return True
        if len(shape) != 2 or shape[0] == shape[1]:
            return False
        bases = self._bases(type(module))
        if _EITHER in bases:
            return not module.transpose_weight
        if bases & _IN_BY_OUT:
            found = None
            if leaf == "weight" and computes_otherwise(module, "paddle"):
                bias = module._parameters.get("bias")
                found = turned_in_subclass(
                    module, shape, None if bias is None else tuple(bias.shape)
                )
            return True if found is None else found
        if bases & _OUT_BY_IN or self.kind(module):
            return False
        return declared_turned(module, shape)

    def _bases(self, cls: type) -> frozenset[str]:
        if cls not in self._names:
            self._names[cls] = frozenset(qualified_bases(cls))
        return self._names[cls]

    def alike(self, module: Any, leaf: str, tensor: Any) -> Hashable:
        """Return what all parameters share that are described as this one is.

        No weight or bias is state, whatever holds it.
        """
        if leaf not in ("weight", "bias"):
            return None
        shape = tuple(tensor.shape)
        turned = self._turned(module, leaf, shape)
        # Each dtype is one object for good; hashing it takes longer than all the rest.
        return type(module), leaf, tensor.stop_gradient, shape, id(tensor.dtype), turned

    def shape_of(self, tensor: Any) -> tuple[tuple[int, ...], str]:
        """Return shape and neutral dtype of a state tensor."""
        return tuple(int(n) for n in tensor.shape), dtype_name(tensor)


def qualified_bases(cls: type) -> list[str]:
    """Return the dotted names of a class and its bases, the class first."""
    return [f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__]


def largest_norms(layers: Iterable[Any]) -> list[tuple[Any, float]]:
    """Return the tables that shorten the rows they look up, each with the length it allows."""
    tables = [layer for layer in layers if isinstance(layer, nn.Embedding)]
    found = [(table, getattr(table, "_max_norm", None)) for table in tables]
    return [(table, largest) for table, largest in found if largest is not None]


def dtype_name(tensor: Any) -> str:
    """Return a tensor's dtype under its neutral name."""
    return str(tensor.dtype).removeprefix("paddle.")


def is_floating(tensor: Any) -> bool:
    """Tell whether a tensor holds floating-point values."""
    return "float" in str(tensor.dtype)


def _kind(cls: type) -> str:
    if cls in _CONTAINERS:
        return CONTAINER
    return next((kind for base, kind in _KIND_BY_CLASS if issubclass(cls, base)), "")


def _keeps_statistics_as(module: Any, leaf: str) -> bool:
    """Tell whether a norm of a user's own keeps statistics among its parameters, as Paddle's do.

    It has a mean and a variance of one name, and beside them nothing but vectors as long. Where the
    name says no more than that, the author must also have frozen them beside others that train.
    """
    own = {name: tensor for name, tensor in module._parameters.items() if tensor is not None}
    what = next(ending for ending in _MEANS_AND_VARIANCES if leaf.endswith(ending))
    prefix = leaf.removesuffix(what)
    mean = own.get(f"{prefix}mean")
    variance = own.get(f"{prefix}variance", own.get(f"{prefix}var"))
    if mean is None or variance is None:
        return False
    if len({tuple(tensor.shape) for tensor in own.values()}) > 1 or len(mean.shape) != 1:
        return False
    return bool(prefix) or (len(own) > 2 and mean.stop_gradient and variance.stop_gradient)


def _quantises(cls: type) -> bool:
    """Tell whether a layer is one of Paddle's quantisers and observers, or derived from one."""
    return any(name.startswith(_QUANTISERS) for name in qualified_bases(cls))


def _fixed(module: Any, tensor: Any) -> tuple[str, bool]:
    """Say why a parameter is never trained, and whether it cannot be."""
    if not (is_floating(tensor) or tensor.dtype in (paddle.complex64, paddle.complex128)):
        return f"a {dtype_name(tensor)} tensor has no gradient", True
    if "sinusoidal" in type(module).__name__.lower() and tensor.stop_gradient:
        return "a fixed position table", False
    return "", False
