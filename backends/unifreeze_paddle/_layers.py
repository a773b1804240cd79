"""Tables of PaddlePaddle's layers: kinds, wrappers to see through, tensors and state."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from operator import attrgetter
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

from unifreeze.backend import STOCHASTIC, ClassTableReader, Tensor, qualified_bases
from unifreeze.errors import DescriptionError
from unifreeze_paddle import _quantisers as quantisers
from unifreeze_paddle import _recurrent_cells as recurrent_cells
from unifreeze_paddle import _saved_programs as saved_programs

MARK = "_unifreeze_guard"
"""The attribute in which a guarded layer keeps its guard."""

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
_OUT_BY_IN = "paddle.compat.nn.Linear"
_EITHER = "paddle.incubate.nn.layer.fused_linear.FusedLinear"
"""Its attribute `transpose_weight` says how it stores a matrix."""
_QUANTISERS = ("paddle.nn.quant", "paddle.quantization", "paddle.static.quantization")


class PaddleReader(ClassTableReader):
    """Reads PaddlePaddle layers for the walk."""

    framework = "paddle"
    mark = MARK
    module_class = nn.Layer
    children = "_sub_layers"
    unsaved = "_non_persistable_buffer_names_set"
    listing = ("named_sublayers", "__eq__", "__hash__")
    containers = (nn.LayerList, nn.LayerDict, nn.Sequential)
    kinds = _KIND_BY_CLASS
    wrapped = _WRAPPED
    sort = staticmethod(attrgetter("__class__", "shape", "dtype"))

    def __init__(self) -> None:
        super().__init__()
        self._programs: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()

    def regular(self, module: nn.Layer) -> bool:
        """Return whether the class of a layer says all of it but for its children and tensors."""
        return not isinstance(module, RNNBase) and super().regular(module)

    def adapter_leaf(self, module: nn.Layer, leaf: str) -> bool:
        """Return whether one of a layer's own parameters belongs to an adapter."""
        return leaf.startswith("lora_") and "LoRA" in type(module).__name__

    def spread(self, module: nn.Layer) -> Mapping[int, str]:
        """Return the roles of the tensors in a recurrent network's cells: it counts as one layer.

        The network registers most of these tensors a second time, under names of its own. But with
        a projection, or without a bias, Paddle gives a name to the wrong tensor. So the place of a
        tensor in the cells decides its role, and not its name.
        """
        return recurrent_cells.roles_in(module) if isinstance(module, RNNBase) else {}

    def state_role(self, module: nn.Layer, leaf: str, tensor: paddle.Tensor) -> str:
        """Return the role of a tensor that is kept as a parameter although nothing trains it."""
        if leaf in ("weight", "bias"):
            return ""
        if isinstance(module, saved_programs.CLASSES):
            if module not in self._programs:
                self._programs[module] = saved_programs.statistics(module)
            return self._programs[module].get(leaf, "")
        if leaf in _STATISTICS and isinstance(module, BATCH_NORMS):
            return _STATISTICS[leaf]
        if leaf in ("weight_u", "weight_v") and isinstance(module, nn.SpectralNorm):
            return leaf
        if leaf.endswith(_MEANS_AND_VARIANCES) and _keeps_statistics_as(module, leaf):
            return "mean" if leaf.endswith("mean") else "var"
        if tensor.stop_gradient and self.balances(leaf):
            return leaf
        # Their flag says nothing: a training step sets it.
        if leaf.startswith("_") and _quantises(type(module)):
            return leaf
        return ""

    def moves(self, module: nn.Layer, leaf: str) -> bool:
        """Return whether training moves state that is kept as a parameter."""
        return not isinstance(module, saved_programs.CLASSES) or isinstance(
            module, saved_programs.MOVING
        )

    def state(self, module: nn.Layer, leaf: str, tensor: paddle.Tensor) -> tuple[str, bool]:
        """Return the role of a buffer and whether training moves it."""
        values = is_floating(tensor) or "complex" in dtype_name(tensor)
        return leaf, values and self.persistent(module, leaf)

    def modeless(self, module: nn.Layer) -> str:
        """Return why a layer has no inference mode, "" if it has one."""
        if quantisers.derives(module):
            return "it takes the range of what passes, in any mode"
        if not isinstance(module, BATCH_NORMS) or isinstance(module, nn.SyncBatchNorm):
            return ""
        attributes = module.__dict__
        if isinstance(module, nn.BatchNorm):
            trainable = attributes["_trainable_statistics"]
            batches = trainable and not attributes["_use_global_stats"]
        else:
            batches = attributes["_use_global_stats"] is False
        return "it normalises by the batch in inference mode, too" if batches else ""

    def tensor(self, module: nn.Layer, leaf: str, tensor: paddle.Tensor) -> Tensor:
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
        row = super().tensor(module, leaf, tensor)
        if isinstance(module, nn.Bilinear) and leaf == "bias":
            return row._replace(neutral=row.shape[1:])
        return row

    def turned(self, module: nn.Layer, leaf: str, shape: tuple[int, ...]) -> bool | None:
        """Return whether a matrix is stored input by output; None where nothing tells."""
        return recurrent_cells.projects(module, leaf) or super().turned(module, leaf, shape)

    def usually_turned(self, module: nn.Layer) -> bool | None:
        """Return whether layers of a class store matrices input by output; None if unknown."""
        bases = self.bases(module)
        if _EITHER in bases:
            return not module.transpose_weight
        if not _IN_BY_OUT.isdisjoint(bases):
            return True
        return False if _OUT_BY_IN in bases or self.known_kind(module) else None

    def turned_by_class(self, module: nn.Layer) -> bool:
        """Return whether all layers of a class store matrices the same way round."""
        return _EITHER not in self.bases(module) and super().turned_by_class(module)

    def is_linear(self, module: nn.Layer) -> bool:
        """Return whether a layer is one of Paddle's linear layers, or derived from one."""
        return not _IN_BY_OUT.isdisjoint(self.bases(module))

    def frozen(self, tensor: paddle.Tensor) -> bool:
        """Return whether a parameter's flag says that it is frozen."""
        return bool(tensor.stop_gradient)

    def alike(self, module: nn.Layer, leaf: str, tensor: paddle.Tensor) -> Hashable:
        """Return a key that parameters described alike share; None for what may be state.

        A weight or bias is never state, in any layer.
        """
        if leaf not in ("weight", "bias"):
            return None
        shape = tuple(tensor.shape)
        turned = len(shape) == 2 and self.turned(module, leaf, shape)
        # Every dtype is a single object; hashing it takes longer than all the rest.
        return type(module), leaf, tensor.stop_gradient, shape, id(tensor.dtype), turned

    def shape_of(self, tensor: paddle.Tensor) -> tuple[tuple[int, ...], str]:
        """Return shape and neutral dtype of a state tensor."""
        return tuple(int(n) for n in tensor.shape), dtype_name(tensor)


def dtype_name(tensor: paddle.Tensor) -> str:
    """Return a tensor's dtype under its neutral name."""
    return str(tensor.dtype).removeprefix("paddle.")


def is_floating(tensor: paddle.Tensor) -> bool:
    """Return whether a tensor holds floating-point values."""
    return "float" in str(tensor.dtype)


def _keeps_statistics_as(module: nn.Layer, leaf: str) -> bool:
    """Return whether a user's norm keeps statistics among its parameters, as Paddle's norms do.

    It must have a mean and a variance whose names begin alike, and all its parameters must be
    vectors of one length. If their names are just "mean" and "variance", its author must also have
    frozen them, beside parameters that train.
    """
    tensors = {name: tensor for name, tensor in module._parameters.items() if tensor is not None}
    ending = next(ending for ending in _MEANS_AND_VARIANCES if leaf.endswith(ending))
    prefix = leaf.removesuffix(ending)
    mean = tensors.get(f"{prefix}mean")
    variance = tensors.get(f"{prefix}variance", tensors.get(f"{prefix}var"))
    if mean is None or variance is None:
        return False
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1 or len(mean.shape) != 1:
        return False
    return bool(prefix) or (len(tensors) > 2 and mean.stop_gradient and variance.stop_gradient)


def _quantises(cls: type) -> bool:
    """Return whether a class is one of Paddle's quantisers and observers, or derived from one."""
    return any(name.startswith(_QUANTISERS) for name in qualified_bases(cls))
