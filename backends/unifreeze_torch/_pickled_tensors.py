"""What a pickle of PyTorch may build: tensors by their place in a file, without running it.

torch's own reader takes no part: it maps files into memory and believes the sizes in them, and a
small file can make it reach the end of the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from unifreeze.backend import ADMITTED_IN_PICKLES, DTYPES, Array, is_possible
from unifreeze.errors import WeightFileError, brief, cut

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_DTYPES = {
    **{name: name for name in DTYPES},
    **{"half": "float16", "float": "float32", "double": "float64"},
    **{"short": "int16", "int": "int32", "long": "int64"},
    **{"cfloat": "complex64", "cdouble": "complex128"},
}


@dataclass(frozen=True)
class Storage:
    """Values that tensors share, by their name in the file.

    Attributes:
        key: The name of its record.
        dtype: The neutral dtype of its values; uint8 where tensors say their own.
        count: How many values.
    """

    key: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        """How many bytes its record must have."""
        return self.count * np.dtype(DTYPES[self.dtype]).itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a pickle describes it.

    Attributes:
        storage: Its storage; None where it is not an ordinary tensor.
        dtype: Its neutral dtype.
        offset: Position of its first value in the storage.
        shape: Its shape.
        strides: Steps between values, in values.
        changed: The values are conjugated or negated when they are read.
        sort: What it is, where it is not an ordinary tensor.
    """

    storage: Storage | None
    dtype: str = ""
    offset: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    changed: tuple[str, ...] = ()
    sort: str = ""

    def build(self, state: Any) -> None:
        """Leave attributes out that someone gave to the tensor."""

    @property
    def span(self) -> tuple[int, int]:
        """Its first byte in the storage, and how many it spans."""
        size = np.dtype(DTYPES[self.dtype]).itemsize
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        return self.offset * size, (reach + 1) * size if prod(self.shape) else 0

    def values(self, raw: bytearray) -> Array:
        """Return its values from the bytes that it spans, as a new array in C order."""
        code = np.dtype(DTYPES[self.dtype])
        if not prod(self.shape):
            return np.empty(self.shape, code)
        steps = tuple(step * code.itemsize for step in self.strides)
        flat = np.frombuffer(raw, code)
        view = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        array = np.array(view, order="C")
        for change in self.changed:
            array = np.conj(array) if change == "conj" else np.negative(array)
        return array


class OddThing:
    """Stands for anything of PyTorch that is not a tensor: a device, a dtype, a generator."""

    def build(self, state: Any) -> None:
        """Leave its state out."""


class Attributed(dict[Any, Any]):
    """A dictionary that may have attributes: state dicts have `_metadata`."""

    def build(self, state: Any) -> None:
        """Leave the attributes out."""


class StorageType:
    """A class of storages, as a persistent identifier names it."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __call__(self, *arguments: Any) -> OddThing:
        """Stand for a storage by itself."""
        return OddThing()


class DtypeName(str):
    """A dtype of PyTorch, by its neutral name."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> OddThing:
        """Refuse to be called: dtypes are values."""
        raise ValueError("it calls a dtype")


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any, dtype: str = ""
) -> StoredTensor:
    """Stand in for `_rebuild_tensor_v2`."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    dtype = dtype or storage.dtype
    whole = isinstance(shape, tuple) and is_possible(shape, dtype)
    steps = isinstance(strides, tuple) and is_possible(strides, dtype)
    if not (whole and steps and len(shape) == len(strides) and type(offset) is int and offset >= 0):
        raise ValueError(f"a tensor of the impossible shape {brief(shape)}")
    flags = rest[2] if len(rest) > 2 and isinstance(rest[2], dict) else {}
    changed = tuple(name for name in ("conj", "neg") if flags.get(name) is True)
    tensor = StoredTensor(storage, dtype, offset, shape, strides, changed)
    begin, length = tensor.span
    if begin + length > storage.nbytes:
        raise ValueError(f"a tensor that goes past the end of its storage {brief(storage.key)}")
    return tensor


def _untyped_tensor(*parts: Any) -> StoredTensor:
    """Stand in for `_rebuild_tensor_v3`, whose storage has bytes and no dtype."""
    storage, offset, shape, strides, _grad, _hooks, dtype, *rest = parts
    if not isinstance(dtype, DtypeName) or dtype not in DTYPES:
        return _odd_tensor("a tensor of a dtype that no file here can hold")()
    return _tensor(storage, offset, shape, strides, None, None, *rest, dtype=str(dtype))


def _parameter(data: Any = None, *rest: Any) -> Any:
    """Stand in for `_rebuild_parameter`: the tensor itself."""
    return data


def _of_type(function: Any = None, kind: Any = None, arguments: Any = (), *rest: Any) -> Any:
    """Stand in for `_rebuild_from_type_v2`: buffers, and tensors with attributes."""
    known = [_tensor, _untyped_tensor, _parameter]
    if not any(function is one for one in known) or not isinstance(arguments, tuple):
        return _odd_tensor("a tensor of a class of its own")()
    return function(*arguments)


def _odd_tensor(sort: str) -> Callable[..., StoredTensor]:
    return lambda *_: StoredTensor(None, sort=sort)


def _attributed(pairs: Any = ()) -> Attributed:
    """Stand in for `OrderedDict`."""
    return Attributed(ADMITTED_IN_PICKLES["collections.OrderedDict"](pairs))


def _size(numbers: Any = ()) -> tuple[Any, ...]:
    """Stand in for `torch.Size`."""
    return tuple(numbers)


_TORCH: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _attributed,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v3": _untyped_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    **{f"torch.{name}": DtypeName(meant) for name, meant in _DTYPES.items()},
    **{f"torch.{name}": StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.storage.{name}": StorageType(dtype) for name, dtype in _STORAGES.items()},
}


def admit(source: str, module: str, name: str) -> Callable[..., Any]:
    """Return the function that is called instead of a global.

    Raises:
        WeightFileError: Weights do not need it.
    """
    whole = f"{cut(module, 100)}.{cut(name, 100)}"
    function = _TORCH.get(whole) or ADMITTED_IN_PICKLES.get(whole)
    if function is not None:
        return function
    if module.partition(".")[0] == "torch":
        rebuilt = name.startswith("_rebuild") or "Tensor" in name
        return _odd_tensor(whole) if rebuilt else lambda *_: OddThing()
    raise WeightFileError(
        f"{source} asks for more than weights need",
        context=f"nothing was run: it asks to run {whole}",
        hint="load it where you trust it, and save its state_dict() alone",
    )


def read_identifier(identifier: Any) -> Storage:
    """Return the storage that a persistent identifier stands for; a view of it in old files."""
    if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] != "storage":
        raise ValueError("an identifier that is not that of a storage")
    _, kind, key, _device, count, *view = identifier
    if not isinstance(kind, StorageType) or not isinstance(key, str) or type(count) is not int:
        raise ValueError("a storage without a type, a name or a size")
    storage = Storage(key, kind.dtype, count)
    if not is_possible((count,), kind.dtype) or any(part is not None for part in view):
        raise ValueError(f"an impossible storage of {brief(count)} values")
    return storage
