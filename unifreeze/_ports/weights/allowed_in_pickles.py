"""What a pickle of weights may build: arrays, dtypes, numbers and containers, without running it.

Each global that a pickle may name is replaced by a function of this module. NumPy's own
reconstruction is never called: it would make arrays of objects, or of any size, on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np

from unifreeze._numerics.projections import Array
from unifreeze._ports.weights.contents import DTYPES, TensorEntry, is_possible
from unifreeze.errors import WeightFileError, brief, cut

NUMPY = {code[1:]: name for name, code in reversed(list(DTYPES.items()))}
"""Neutral names by NumPy's codes; where two names share a code, NumPy's own name."""


@dataclass(frozen=True)
class FileSpan:
    """Bytes that stay in the file until they are needed.

    Attributes:
        start: Offset of the first.
        size: How many.
        text: The bytes are UTF-8 text with one character for each real byte, as protocol 2 writes
            bytes.
    """

    start: int
    size: int
    text: bool

    def read(self, file: BinaryIO) -> bytes:
        """Read the real bytes; raises ValueError where the text is not of that form."""
        file.seek(self.start)
        raw = file.read(self.size)
        return raw.decode("utf-8").encode("latin1") if self.text else raw


@runtime_checkable
class Buildable(Protocol):
    """What a pickle may complete with a state after it was made."""

    def build(self, state: Any) -> None:
        """Take the state."""


class StoredDtype:
    """A NumPy dtype as a pickle describes it: one kind of number."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or code not in NUMPY:
            raise ValueError(f"an array of dtype {brief(code)}, which is not a plain number")
        self.name = NUMPY[code]

    def build(self, state: Any) -> None:
        """Check the byte order; anything but a plain little-endian number is refused."""
        if state[1] not in ("<", "|") or any(part is not None for part in state[2:5]):
            raise ValueError("an array that is big-endian or has fields")


class StoredArray:
    """An array as a pickle describes it; the bytes of a large one are still in the file."""

    entry: TensorEntry | None = None
    fortran = False
    data: FileSpan | bytes = b""

    def build(self, state: Any) -> None:
        """Set shape, dtype and bytes, whose sizes must agree exactly."""
        _, shape, kind, fortran, data = state
        if not (isinstance(shape, tuple) and isinstance(kind, StoredDtype)):
            raise ValueError("an array without a shape or a dtype")
        if not is_possible(shape, kind.name):
            raise ValueError(f"an array of the impossible shape {brief(shape)}")
        self.entry, self.fortran = TensorEntry(shape, kind.name), bool(fortran)
        self.data = data if isinstance(data, FileSpan) else encode(data, "latin1")
        size = self.data.size if isinstance(self.data, FileSpan) else len(self.data)
        doubled = isinstance(self.data, FileSpan) and self.data.text  # UTF-8 of latin-1 text
        if not self.entry.nbytes <= size <= self.entry.nbytes * (1 + doubled):
            raise ValueError(f"an array {self.entry} with {size} bytes")

    def read(self, file: BinaryIO) -> Array:
        """Read it into a new array in C order."""
        raw = self.data.read(file) if isinstance(self.data, FileSpan) else self.data
        if self.entry is None or len(raw) != self.entry.nbytes:
            raise ValueError(f"an array {self.entry} with {len(raw)} bytes")
        flat = np.frombuffer(raw, DTYPES[self.entry.dtype])
        array = flat.reshape(self.entry.shape, order="F" if self.fortran else "C")
        return np.array(array, order="C")


def encode(text: Any, encoding: Any) -> Any:
    """Stand in for `_codecs.encode`, with which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise ValueError(f"text in {brief(encoding)}")
    if not isinstance(text, str | FileSpan | bytes):
        raise ValueError(f"bytes that are a {type(text).__name__}")
    return text.encode("latin1") if isinstance(text, str) else text


def reconstruct(kind: Any, shape: Any, code: Any) -> StoredArray:
    """Stand in for NumPy's `_reconstruct`: an array without shape and values yet."""
    if kind is not ndarray or shape != (0,):
        raise ValueError("an array of another class")
    return StoredArray()


def ndarray(*arguments: Any) -> None:
    """Stand in for `numpy.ndarray`, which pickles name but never call."""
    raise ValueError("numpy.ndarray itself")


def dtype(code: Any, *rest: Any) -> StoredDtype:
    """Stand in for `numpy.dtype`."""
    return StoredDtype(code)


def scalar(kind: Any, raw: Any) -> Any:
    """Stand in for a NumPy scalar: a plain number."""
    data = encode(raw, "latin1")
    if not isinstance(kind, StoredDtype) or not isinstance(data, bytes):
        raise ValueError("a number without a dtype or bytes")
    return np.frombuffer(data, DTYPES[kind.name], count=1)[0].item()


def ordered(pairs: Any = ()) -> dict[Any, Any]:
    """Stand in for `OrderedDict`: a dictionary, which keeps its order."""
    items: dict[Any, Any] = {}
    for key, value in pairs:
        put(items, key, value)
    return items


def put(container: dict[Any, Any], key: Any, value: Any) -> None:
    """Set an item whose key is new; keys are texts or numbers, which have short hashes."""
    if type(key) not in (str, int, float, bool, NoneType):
        raise ValueError(f"a key that is a {type(key).__name__}, and not text")
    if key in container:
        raise ValueError(f"the key {brief(key)} twice")
    container[key] = value


def no_bytes() -> bytes:
    """Stand in for `bytes()`, as protocol 2 writes empty bytes."""
    return b""


_COMMON: Mapping[str, Callable[..., Any]] = {
    "_codecs.encode": encode,
    "collections.OrderedDict": ordered,
    "numpy.ndarray": ndarray,
    "numpy.dtype": dtype,
}
ADMITTED: Mapping[str, Callable[..., Any]] = {
    **_COMMON,
    **{f"{root}.tuple": tuple for root in ("builtins", "__builtin__")},
    **{f"{root}.bytes": no_bytes for root in ("builtins", "__builtin__")},
    **{f"numpy.{core}.multiarray._reconstruct": reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": scalar for core in ("core", "_core")},
}
"""What a pickle may name, and the function that is called instead."""


def admitted(source: str, module: str, name: str) -> Callable[..., Any]:
    """Return the function that is called instead of a global.

    Raises:
        WeightFileError: Weights do not need it.
    """
    function = ADMITTED.get(f"{module}.{name}")
    if function is None:
        raise WeightFileError(
            f"{source} asks to run {cut(module, 100)}.{cut(name, 100)}",
            context="nothing was run: weights need only arrays, text, numbers and containers",
            hint="load it where you trust it, and save its state_dict() alone",
        )
    return function
