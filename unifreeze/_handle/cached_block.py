"""The cached block of a handle: what its plan has frozen runs once for each row of data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._cache.cached_run import CachedRun
from unifreeze._cache.estimate import Estimate, estimate_savings
from unifreeze._cache.faster_prefix import EXACT, PREFIXES
from unifreeze._cache.folder_store import FolderStore
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.row_store import MemoryStore, read_budget
from unifreeze._handle.in_force import PlanInForce
from unifreeze._handle.training import Training
from unifreeze._protocol import Batch
from unifreeze.errors import ArgumentError, BackendError, TargetError, listing

_DTYPES = ("float32", "float16", "bfloat16")


@partial(checked_methods, public="Handle")
class CachedBlocks:
    """The part of a handle that makes cached blocks."""

    _in_force: PlanInForce
    _training: Training

    def cached(
        self,
        folder: str | Path | None = None,
        *,
        budget: str | int = "20GB",
        dtype: str = "float32",
        prefix: str = "exact",
        ids: str | Callable[..., Any] | None = None,
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
            prefix: In which way frozen modules run where they must, in the first epoch or on data
                that never repeats: "exact" runs them as they are; "inference" (Paddle) exports them
                to `paddle.inference`, and "compile" (PyTorch) compiles them, both equal within 1e-5
                of the largest value; "bfloat16" rounds more, and says how much. Each is compared
                with the modules on the first rows of each form before it is used.
            ids: Know rows again by the ids of their samples, in place of the bytes of their inputs:
                the name of an input that holds them, which is not passed on to a model that does
                not take it; or a function that is called with the model's inputs. The same id must
                stand for the same inputs; whether it does is compared now and then.

        Raises:
            CacheError: The framework has no such prefix. From a forward pass in the block: outputs
                cannot be kept, a frozen weight has changed, what is kept is not right, or the
                prefix computes something else than the modules.

        >>> optimizer = handle.optimizer(AdamW, lr=0.001)
        >>> with handle.cached() as run:
        ...     train(model, optimizer)
        >>> run.counts.misses, run.counts.hits
        (8, 8)
        """
        backend = self._caching("cache")
        if dtype not in _DTYPES:
            raise ArgumentError(f"dtype={dtype!r} is not one of {listing(map(repr, _DTYPES))}")
        if prefix not in PREFIXES:
            raise ArgumentError(f"prefix={prefix!r} is not one of {listing(map(repr, PREFIXES))}")
        if prefix != EXACT:
            backend.check_prefix(prefix, backend.walk(self._in_force.model).tensors)
        size = read_budget(budget)
        store = MemoryStore(size) if folder is None else FolderStore(Path(folder), size)
        plan = self._in_force.phases.expanded.to_yaml()
        return CachedRun(
            backend,
            self._in_force.model,
            store,
            dtype=dtype,
            plan=plan,
            prefix=prefix,
            epoch=lambda: self._training.history.epoch,
            ids=ids,
            phased=len(self._in_force.phases.phases) > 1,
            folder=None if folder is None else Path(folder),
            dropped=self._in_force.dropped,
        )

    def estimate(self, batch: Any, *, examples: int, epochs: int = 3) -> Estimate:
        """Return what the plan saves, and what a cache would add, before any training.

        The model runs on the batch a few times, and three training steps are timed; then it is
        put back to the bit.

        Args:
            batch: One real batch of inputs, as arrays.
            examples: The number of examples of the data.
            epochs: The number of epochs.

        Raises:
            ArgumentError: A number is below 1.
            TargetError: The batch cannot be read.

        >>> estimate = handle.estimate(batch, examples=1000, epochs=3)
        >>> estimate.ends_at, estimate.gradient_bytes, estimate.cache_bytes
        ('head.weight', 84, 24000)
        """
        backend = self._caching("estimate")
        for name, number in (("examples", examples), ("epochs", epochs)):
            if number < 1:
                raise ArgumentError(f"{name}={number} is below 1", hint=f"{name}=3")
        model = self._in_force.model
        return estimate_savings(backend, model, Batch.of(batch), examples=examples, epochs=epochs)

    def _caching(self, action: str) -> CacheOperations:
        """Return the backend, if it can cache outputs of this handle's model."""
        self._in_force.check_lasts(action)
        backend = self._in_force.backend
        if not isinstance(backend, CacheOperations):
            raise BackendError(f"cannot {action}: the backend for {backend.name} has no cache")
        if backend.is_group(self._in_force.model):
            raise TargetError(
                f"cannot {action}: the plan is on several models, which do not run as one",
                hint="apply a plan to each of them",
            )
        return backend
