"""The cached block of a handle: what its plan has frozen runs once for each row of data."""

from __future__ import annotations

from pathlib import Path

from unifreeze._arguments import checked_methods
from unifreeze._cache.cached_run import CachedRun
from unifreeze._cache.folder_store import FolderStore
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.row_store import MemoryStore, read_budget
from unifreeze._handle.in_force import PlanInForce
from unifreeze.errors import ArgumentError, BackendError, listing

_DTYPES = ("float32", "float16", "bfloat16")


@checked_methods
class CachedBlocks:
    """The part of a handle that makes cached blocks."""

    _in_force: PlanInForce

    def cached(
        self,
        folder: str | Path | None = None,
        *,
        budget: str | int = "20GB",
        dtype: str = "float32",
    ) -> CachedRun:
        """Return a block in which what is frozen runs once for each row, and is then given back.

        The training loop inside stays as it is. Rows are known again by the bytes of their inputs;
        a batch in which one is new runs as a whole. Before anything is given back, small trial
        passes prove on real rows that the model computes the same bits.

        Args:
            folder: Where rows are kept; None for memory.
            budget: The most bytes that are kept; what does not fit is computed each time.
            dtype: How floating values are kept: "float32" keeps all bits; "float16" and
                "bfloat16" take half the room, and what the model computes is rounded.

        Raises:
            CacheError: From a forward pass in the block: outputs cannot be kept, a frozen weight
                has changed, or what is kept is not right.

        >>> optimizer = handle.optimizer(AdamW, lr=0.001)
        >>> with handle.cached() as run:
        ...     train(model, optimizer)
        >>> run.counts.misses, run.counts.hits
        (8, 8)
        """
        self._in_force.check_lasts("cache")
        backend = self._in_force.backend
        if not isinstance(backend, CacheOperations):
            raise BackendError(f"the backend for {backend.name} has no cache")
        if dtype not in _DTYPES:
            raise ArgumentError(f"dtype={dtype!r} is not one of {listing(map(repr, _DTYPES))}")
        size = read_budget(budget)
        store = MemoryStore(size) if folder is None else FolderStore(Path(folder), size)
        plan = self._in_force.phases.expanded.to_yaml()
        return CachedRun(backend, self._in_force.model, store, dtype=dtype, plan=plan)
