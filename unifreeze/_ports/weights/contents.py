"""What a weight file holds, in neutral terms: tensors by name, with shape and dtype."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TypeGuard

import numpy as np

from unifreeze._numerics.projections import Array
from unifreeze.errors import WeightFileError, brief, counted, cut, listing, nearest

COPY_AGAIN = "copy or download it again: it ends early, or was changed on the way"
"""The hint for a broken file."""
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
"""Neutral dtype names, and the NumPy dtype of their arrays: bit patterns where NumPy has none."""

MOST_DIMENSIONS = 32
MOST_BYTES = 2**62


@dataclass(frozen=True)
class TensorEntry:
    """Shape and dtype of one tensor in a file.

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
            f"{source}: {brief(name)} is of dtype {cut(dtype, 40)}",
            context=f"known: {listing(DTYPES, limit=len(DTYPES))}",
        )
    sizes = tuple(shape)
    if not is_possible(sizes, dtype):
        shape = brief(sizes)
        raise WeightFileError(f"{source}: {brief(name)} has an impossible shape: {shape}")
    return TensorEntry(sizes, dtype)


def is_possible(shape: tuple[object, ...], dtype: str) -> TypeGuard[tuple[int, ...]]:
    """Return whether a shape is valid, and not too large for any memory."""
    if len(shape) > MOST_DIMENSIONS:
        return False
    sizes = [size for size in shape if type(size) is int and 0 <= size <= MOST_BYTES]
    stretched = prod(max(size, 1) for size in sizes) * np.dtype(DTYPES[dtype]).itemsize
    return len(sizes) == len(shape) and stretched <= MOST_BYTES


@dataclass(frozen=True, eq=False)
class Named:
    """One tensor to be written.

    Attributes:
        name: Its name in the file.
        shape: Its shape.
        dtype: Its neutral dtype name.
        read: Returns its values; bit patterns for dtypes that NumPy lacks. It is called once, when
            the tensor is written.
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
        WeightFileError: Its values are not of the shape and dtype that it announced.
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
        source: Name of the file in messages.
        entries: What it holds, in the order of the file.
        load: Reads one tensor by a name of `entries`.
        metadata: Further text in the file.
        tied: For each second name of a tensor, its first name.
        ignored: Keys in the file that are not weights.
        close: Closes the file.

    Attributes:
        names: The tensors' names, in the order of the file.
        aliases: For each name that is tied to an earlier one, the earliest.
        metadata: Further text in the file.
        ignored: Keys in the file that are not weights.
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
        """Read one tensor into a new array.

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
        """Yield every tensor in the form that `save_weights` takes; nothing is read yet."""
        for name in self.names:
            entry = self._entries[name]
            yield Named(name, entry.shape, entry.dtype, self._reader(name), self.aliases.get(name))

    def under(self, prefix: str) -> WeightFile:
        """Return the tensors whose names begin with a prefix, by names without it.

        The dot after the prefix may be left out. Closing either file closes both.

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
        """Close the file; closing twice does no harm."""
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
    """Return for each later name of a tied tensor its earliest name in the file."""
    first: dict[str, str] = {}
    earliest = {name: first.setdefault(tied.get(name, name), name) for name in names}
    return {name: target for name, target in earliest.items() if target != name}


def open_with(path: Path, read: Callable[[BufferedReader, str], WeightFile]) -> WeightFile:
    """Open a file and read its description; the file is closed if that fails.

    Raises:
        OSError: It cannot be opened, or is not an ordinary file: a pipe may never end.
    """
    check_ordinary(path)
    file = path.open("rb")
    try:
        return read(file, str(path))
    except BaseException:
        file.close()
        raise


def check_ordinary(path: Path) -> None:
    """Refuse pipes, devices and folders; to open some of them takes for ever.

    Raises:
        OSError: It is not an ordinary file, or not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not an ordinary file")


def broken_file(source: str, form: str, reason: object) -> WeightFileError:
    """Return the error for a file that breaks the rules of its format.

    Args:
        source: Name of the file in messages.
        form: What the file is not: "a valid safetensors file".
        reason: The rule that it breaks.
    """
    return WeightFileError(f"{source} is not {form}", context=str(reason), hint=COPY_AGAIN)
