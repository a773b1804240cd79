"""Frozen weights that are out of memory while kept rows stand for them, and their way back."""

from __future__ import annotations

import ctypes
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from unifreeze._cache.frozen_part import FrozenPart, mismatch
from unifreeze._cache.observing import bits_of
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.row_store import RowStore
from unifreeze._cache.weight_watch import WeightWatch
from unifreeze._modules.walking import Walk
from unifreeze._ports.weights import Named, WeightFile, open_weights, save_weights
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor
from unifreeze._protocol.results import Undo
from unifreeze._tables import human_bytes
from unifreeze._undo import nothing
from unifreeze.errors import CacheError, UnifreezeError, counted, listing


class _Dropped(NamedTuple):
    path: str
    tensor: LiveTensor
    bits: str
    before: Any


class AbsentWeights:
    """Frozen weights that have no values here, so that only kept rows can stand for them.

    Attributes:
        weights: The tensors, by their native paths.
        nbytes: How many bytes their values take.
    """

    def __init__(self, weights: Mapping[str, LiveTensor], nbytes: int) -> None:
        self.weights, self.nbytes = dict(weights), nbytes

    def inside(self, walk: Walk, module: int) -> bool:
        """Return whether a module, or one below it, has weights that are out of memory."""
        tree, away = walk.tree, set(map(id, self.weights.values()))
        below = tree.tensor_of[tree.name_starts[module] : tree.name_ends[module]]
        return any(id(walk.tensors[number]) in away for number in below)

    def refuse(self, why: str) -> NoReturn:
        """Raise the error of a pass that needs the weights."""
        raise CacheError(
            f"{why}, and {self.told()}",
            context="so it cannot be computed",
            hint="run.restore_frozen() before it; or keep all rows first: run.fill(batches), with "
            "the model in the same mode",
        )

    def told(self) -> str:
        """Return how much is out of memory, in words."""
        count = counted(len(self.weights), "frozen weight is", "frozen weights are")
        return f"{count} out of memory, {human_bytes(self.nbytes)}"

    def bring_back(self) -> None:
        """Refuse: nobody has taken them out of memory.

        Raises:
            CacheError: Always.
        """
        raise CacheError(
            f"{self.told()}, and was so when the block began",
            hint="load their values into the model outside of the block",
        )


class DroppedWeights(AbsentWeights):
    """Weights whose values were taken out of memory, and the file that holds them meanwhile."""

    def __init__(
        self,
        backend: CacheOperations,
        walk: Walk,
        weights: Mapping[str, LiveTensor],
        file: Path,
        *,
        own: bool,
    ) -> None:
        """Take the values out of memory; on any error they stay.

        Args:
            backend: The model's backend.
            walk: The model as walked.
            weights: The tensors, by their native paths.
            file: The file that holds their values.
            own: True to write that file now, and to delete it when the values are back.

        Raises:
            CacheError: The file cannot be written, or does not hold these values.
        """
        self._backend, self._file, self._own = backend, file, own
        bits = {path: bits_of(backend, [tensor]) for path, tensor in weights.items()}
        if own:
            _write(backend, file, weights)
        else:
            self._check(weights, bits)
        super().__init__(weights, sum(backend.memory_of(tensor)[1] for tensor in weights.values()))
        self._rows = [
            _Dropped(path, tensor, bits[path], backend.drop_values(tensor))
            for path, tensor in weights.items()
        ]
        _return_free_memory()
        self._unhook: Undo = nothing
        self._watches: list[tuple[FrozenPart, WeightWatch]] = []
        owners = {walk.tree.owners[n] for n, name in enumerate(walk.tree.names) if name in weights}
        self._modules = [walk.module(owner) for owner in sorted(owners)]

    def watch_less(self, parts: Sequence[FrozenPart]) -> None:
        """Let frozen parts watch no tensor that has no values."""
        away = set(map(id, self.weights.values()))
        for part in parts:
            self._watches.append((part, part.watch))
            left = [(path, tensor) for path, tensor in part.watch.tensors if id(tensor) not in away]
            part.watch = WeightWatch(self._backend, left)

    def before_state_dicts(self, call: Callable[[], None]) -> None:
        """Call a function before a state dict would lack the values."""
        self._unhook = self._backend.before_state_dicts(self._modules, call)

    def bring_back(self) -> None:
        """Give the tensors their values again, to the bit.

        Raises:
            CacheError: The file is gone, or holds other values.
        """
        self._unhook()
        try:
            with open_weights(self._file) as file:
                for row in self._rows:
                    self._backend.give_values(row.tensor, _values(file, row.path), row.before)
        except (UnifreezeError, OSError, KeyError) as error:
            raise CacheError(
                f"frozen weights are out of memory, and {self._file} cannot be read: "
                f"{str(error).splitlines()[0]}",
                hint="load them into the model as at the start of the run",
            ) from error
        if self._own:
            self._file.unlink(missing_ok=True)
        for part, watch in self._watches:
            part.watch = watch
            watch.check_all()

    def _check(self, weights: Mapping[str, LiveTensor], bits: Mapping[str, str]) -> None:
        backend = self._backend
        try:
            with open_weights(self._file) as file:
                absent = [path for path in weights if path not in file]
                other = [
                    path
                    for path, tensor in weights.items()
                    if path not in absent and not _same(backend, file, path, tensor, bits[path])
                ]
        except UnifreezeError as error:
            raise CacheError(
                f"cannot read {self._file}: {error.fact}",
                hint="give the file of the model's weights",
            ) from error
        if absent or other:
            count = counted(len(absent), "frozen weight")
            fact = f"does not hold {count}" if absent else "holds other values"
            raise CacheError(
                f"{self._file} {fact}, so it cannot bring them back",
                context=listing(absent or other),
                hint="give the file that was loaded into this model; or none, and one is written",
            )


def _return_free_memory() -> None:
    """Let the allocator of C give memory that is free back to the system, where it can be told."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def own_file(folder: Path | None) -> Path:
    """Return a new name for a file of frozen weights: in a folder, or among temporary files."""
    name = f"frozen-{secrets.token_hex(8)}.safetensors"
    return (Path(tempfile.gettempdir()) if folder is None else folder) / name


def weights_to_drop(
    backend: CacheOperations,
    walk: Walk,
    store: RowStore,
    parts: Sequence[FrozenPart],
    run: Callable[..., Any],
    stopped: str,
    rows: int | None,
    given: int,
) -> dict[str, LiveTensor]:
    """Return the frozen weights that kept rows stand for, by native path.

    The model runs on the last batch of each part with other values in these weights; what it
    computes must be the same bits.

    Args:
        backend: The model's backend.
        walk: The model as walked.
        store: The rows.
        parts: The frozen parts whose rows are kept.
        run: Takes a pass, a forward function and inputs, and runs them without a trace.
        stopped: Why no more rows are kept; "" if they are.
        rows: How many rows there are, if that is known.
        given: How many rows were given back since the last that was computed.

    Raises:
        CacheError: Rows may be missing, or something else reads the weights.
    """
    _check_complete(store, parts, stopped, rows, given)
    weights: dict[str, LiveTensor] | None = None
    wanted = []
    for part in parts:
        assert part.example is not None
        inputs, keys, forward = part.example
        kept = store.get(part.group, keys)
        if kept is None:
            raise _missing("a row of the last batch is not kept")
        replaying = part.replaying(backend, inputs, kept)
        wanted.append((part, kept, run(replaying, forward, inputs)))
        here = _unread(walk, backend, set(part.modes) - replaying.ran)
        weights = here if weights is None else {p: t for p, t in weights.items() if p in here}
    if not weights:
        raise CacheError(
            "no frozen weight can leave memory",
            context="each is also read by modules that run, or has no values",
            hint="go on without run.drop_frozen()",
        )
    for part, kept, want in wanted:
        assert part.example is not None
        inputs, _, forward = part.example
        with backend.other_values(list(weights.values()), 1.0625):
            got = run(part.replaying(backend, inputs, kept), forward, inputs)
        exact = all(map(backend.is_exact, inputs.tensors))
        if how := mismatch(backend, want, got, 0.0 if exact else 1e-5):
            raise CacheError(
                f"frozen weights stay in memory: code outside of their modules reads them: {how}",
                hint="go on without run.drop_frozen()",
            )
    return weights


def _check_complete(
    store: RowStore, parts: Sequence[FrozenPart], stopped: str, rows: int | None, given: int
) -> None:
    counts = [store.count(part.group) for part in parts if part.example is not None]
    most = max(counts, default=0)
    if not most:
        raise _missing("no rows are kept yet")
    if stopped:
        raise _missing(f"{counted(most, 'row is', 'rows are')} kept, and no more can be: {stopped}")
    if rows is not None and most < rows:
        raise _missing(f"{most:,} of {counted(rows, 'row')} are kept")
    if rows is None and given < most:
        raise _missing(
            f"{counted(most, 'row is', 'rows are')} kept, and {given:,} were given back since the "
            "last that was computed"
        )


def _missing(why: str) -> CacheError:
    return CacheError(
        f"frozen weights stay in memory, because rows may be missing: {why}",
        hint="say how many rows there are, run.drop_frozen(rows=len(data)); keep them all first, "
        "run.fill(batches); or wait for an epoch in which all are given back",
    )


def _unread(walk: Walk, backend: CacheOperations, quiet: set[int]) -> dict[str, LiveTensor]:
    """Return frozen weights that no modules hold but some, by native path."""
    tree = walk.tree
    owners: dict[int, set[int]] = {}
    for owner, number in zip(tree.owners, tree.tensor_of, strict=True):
        owners.setdefault(number, set()).add(owner)
    chosen = {}
    for number, path in enumerate(walk.first_paths()):
        tensor = walk.tensors[number]
        here = backend.has_values(tensor) and backend.is_floating(tensor)
        if owners[number] <= quiet and here and not backend.get_flag(tensor):
            chosen[path] = tensor
    return chosen


def _write(backend: CacheOperations, file: Path, weights: Mapping[str, LiveTensor]) -> None:
    rows = []
    for path, tensor in weights.items():
        # Types that NumPy lacks come, and are written, as float32, which holds them exactly.
        dtype = str(backend.to_array(tensor[:1] if len(tensor.shape) else tensor).dtype)
        shape = tuple(map(int, tensor.shape))
        rows.append(Named(path, shape, dtype, partial(backend.to_array, tensor)))
    try:
        save_weights(file, rows)
    except UnifreezeError as error:
        raise CacheError(
            f"frozen weights stay in memory: {error.fact}",
            hint="give the file that the weights came from: run.drop_frozen(file=…)",
        ) from error


def _values(file: WeightFile, path: str) -> Array:
    array = file.read(path)
    if file.entry(path).dtype != "bfloat16":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _same(
    backend: CacheOperations, file: WeightFile, path: str, tensor: LiveTensor, bits: str
) -> bool:
    values = _values(file, path)
    if values.shape != tuple(map(int, tensor.shape)):
        return False
    return bits_of(backend, [backend.from_array(values, tensor)]) == bits
