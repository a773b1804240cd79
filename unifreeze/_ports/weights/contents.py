"""Weights at rest, which no plan reads: what a weight file holds, in neutral terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from types import TracebackType
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from unifreeze.errors import WeightFileError, counted, listing, nearest

Array = NDArray[Any]
COPY_AGAIN = "copy or download it again: it ends early, or was changed on the way"
"""What to do about a broken file."""
TensorProgress = Callable[[str, int, int], None]
"""Called after each tensor with its name, how many are done, and how many there are."""

DTYPES: Mapping[str, str] = {
    "bool": "|b1",
    "uint8": "|u1",
    "int8": "|i1",
    "uint16": "<u2",
    "int16": "<i2",
    "uint32": "<u4",
    "int32": "<i4",
    "uint64": "<u8",
    "int64": "<i8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "complex64": "<c8",
    "complex128": "<c16",
    "bfloat16": "<u2",
    "float8_e4m3fn": "|u1",
    "float8_e5m2": "|u1",
    "float8_e8m0fnu": "|u1",
}
"""Neutral dtype names with the NumPy dtype of their arrays: bit patterns for what NumPy lacks."""

MOST_DIMENSIONS = 32
MOST_BYTES = 2**62


@dataclass(frozen=True)
class TensorEntry:
    """What a file says about one tensor.

    Attributes:
        shape: Its shape as stored.
        dtype: Its neutral dtype name, a key of `DTYPES`.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """How many bytes its values take."""
        return prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def make_entry(source: str, name: str, shape: Iterable[object], dtype: str) -> TensorEntry:
    """Build an entry from what a file claims.

    Raises:
        WeightFileError: The dtype is unknown, or no memory could hold the shape.
    """
    if dtype not in DTYPES:
        raise WeightFileError(
            f"{source}: {name!r} is of dtype {dtype}",
            context=f"known: {listing(DTYPES, limit=len(DTYPES))}",
        )
    sizes = tuple(shape)
    if not is_possible(sizes, dtype):
        raise WeightFileError(f"{source}: {name!r} has an impossible shape: {sizes!r:.120}")
    return TensorEntry(sizes, dtype)


def is_possible(shape: tuple[object, ...], dtype: str) -> TypeGuard[tuple[int, ...]]:
    """Tell whether a shape is one, and memory could be addressed that holds it."""
    sizes = [size for size in shape if type(size) is int and size >= 0]
    stretched = prod(max(size, 1) for size in sizes) * np.dtype(DTYPES[dtype]).itemsize
    return len(sizes) == len(shape) <= MOST_DIMENSIONS and stretched <= MOST_BYTES


@dataclass(frozen=True, eq=False)
class Named:
    """One tensor to be written.

    Attributes:
        name: Its name in the file.
        shape: Its shape.
        dtype: Its neutral dtype name.
        read: Gives its values, for dtypes that NumPy lacks as bit patterns; called when it is
            written, once, and what it gives is dropped after.
        alias_of: The name, earlier in the same file, of the tensor that this one is tied to.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Array]
    alias_of: str | None = None

    @property
    def entry(self) -> TensorEntry:
        """Its shape and dtype."""
        return TensorEntry(self.shape, self.dtype)


def values_of(tensor: Named) -> Array:
    """Read a tensor that is to be written, in C order.

    Raises:
        WeightFileError: What it gives is not of the shape and dtype it announced.
    """
    array = np.asarray(tensor.read())
    code = np.dtype(DTYPES[tensor.dtype])
    if array.shape != tensor.shape or array.dtype != code:
        raise WeightFileError(
            f"{tensor.name!r} was announced as {tensor.entry}",
            context=f"it gave {array.dtype}{list(array.shape)}; its arrays are {code.name}",
        )
    return array.astype(code, order="C", copy=False)


class WeightFile:
    """A weight file open for reading, one tensor at a time; use it in a `with` statement.

    Args:
        source: How messages call the file.
        entries: What it holds, in the order of the file.
        load: Reads one tensor by a name of `entries`.
        metadata: Text that the file carries besides.
        tied: For second names of a tensor, the name it is tied to.
        ignored: Keys in the file that are no weights and were passed over.
        close: Gives up the file.

    Attributes:
        names: The tensors' names, in the order of the file.
        aliases: For each name that is tied to an earlier one, the earliest.
        metadata: Text that the file carries besides.
        ignored: Keys in the file that are no weights and were passed over.
    """

    def __init__(
        self,
        source: str,
        entries: Mapping[str, TensorEntry],
        load: Callable[[str], Array],
        *,
        metadata: Mapping[str, str] | None = None,
        tied: Mapping[str, str] | None = None,
        ignored: Iterable[str] = (),
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.source, self.names = source, tuple(entries)
        self.aliases = _earliest(self.names, tied or {})
        self.metadata, self.ignored = dict(metadata or {}), tuple(ignored)
        self._entries, self._load, self._close, self._open = dict(entries), load, close, True

    def entry(self, name: str) -> TensorEntry:
        """Return shape and dtype of a tensor.

        Raises:
            WeightFileError: The file holds no such tensor.
        """
        if name not in self._entries:
            raise WeightFileError(
                f"{self.source} holds no {name!r}",
                context=f"{counted(len(self.names), 'name')}: {listing(self.names)}",
                hint=f"did you mean {near[0]!r}?" if (near := nearest(name, self.names)) else "",
            )
        return self._entries[name]

    def read(self, name: str) -> Array:
        """Read one tensor into an array of its own.

        Returns:
            Its values, of the entry's shape; bfloat16 and float8 as bit patterns (uint16, uint8).

        Raises:
            WeightFileError: The file holds no such tensor, was closed, or was cut meanwhile.
        """
        self.entry(name)
        if not self._open:
            raise WeightFileError(f"{self.source} is closed", hint="read inside the `with` block")
        try:
            return self._load(name)
        except OSError as error:
            reason = error.strerror or error
            raise WeightFileError(f"cannot read {name!r} of {self.source}: {reason}") from None

    def named(self) -> Iterator[Named]:
        """Give every tensor in the form that `save_weights` takes; nothing is read yet."""
        for name in self.names:
            entry = self._entries[name]
            yield Named(name, entry.shape, entry.dtype, self._reader(name), self.aliases.get(name))

    def under(self, prefix: str) -> WeightFile:
        """Give what stands under one prefix, by names without it; the rest is passed over.

        The dot behind it may be left out. Closing either closes both.

        Raises:
            WeightFileError: No name begins with it.
        """
        whole = [name[len(prefix) :] for name in self.names if _is_in(name, prefix)]
        prefix += "." if whole and all(rest.startswith(".") for rest in whole) else ""
        entries = {n.removeprefix(prefix): e for n, e in self._entries.items() if _is_in(n, prefix)}
        if not entries:
            first = dict.fromkeys(f"{name.partition('.')[0]}." for name in self.names)
            raise WeightFileError(
                f"no name in {self.source} begins with {prefix!r}",
                context=f"they begin with: {listing(map(repr, first))}",
            )
        rest = [name for name in self.names if not _is_in(name, prefix)]
        tied = {name: first for name, first in self.aliases.items() if name not in rest}
        return WeightFile(
            self.source,
            entries,
            lambda name: self.read(prefix + name),
            metadata=self.metadata,
            tied={n.removeprefix(prefix): first.removeprefix(prefix) for n, first in tied.items()},
            ignored=(*self.ignored, *rest),
            close=self.close,
        )

    def _reader(self, name: str) -> Callable[[], Array]:
        return lambda: self.read(name)

    def close(self) -> None:
        """Give up the file; closing twice does no harm."""
        if self._open:
            self._open = False
            self._close()

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return f"<WeightFile {self.source}: {counted(len(self), 'tensor')}>"

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def _is_in(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name != prefix


def _earliest(names: Iterable[str], tied: Mapping[str, str]) -> dict[str, str]:
    """Name each tied tensor by whichever of its names comes first."""
    first: dict[str, str] = {}
    found = {name: first.setdefault(tied.get(name, name), name) for name in names}
    return {name: earliest for name, earliest in found.items() if earliest != name}
