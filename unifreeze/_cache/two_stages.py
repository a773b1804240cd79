"""Work in two stages: keep all rows first, then train with the frozen weights out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._cache.dropped_weights import (
    AbsentWeights,
    DroppedWeights,
    own_file,
    weights_to_drop,
)
from unifreeze._cache.filling import fill
from unifreeze._cache.known_parts import KnownParts
from unifreeze._cache.module_calls import ModuleCalls
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.row_store import RowStore
from unifreeze._cache.run_counts import Counts
from unifreeze._modules.walking import Walk
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.results import Undo
from unifreeze._undo import nothing
from unifreeze.errors import CacheError


@partial(checked_methods, public="CachedRun")
class TwoStages:
    """The part of a cached run that fills the cache and takes frozen weights out of memory."""

    counts: Counts
    _backend: CacheOperations
    _model: Model
    _walk: Walk
    _calls: ModuleCalls
    _store: RowStore
    _known: KnownParts
    _folder: Path | None
    _declined: str
    _begun: bool
    _left: bool
    _dropped: Callable[[Iterable[LiveTensor], Undo], None]
    _apart: Callable[..., Any]
    _away: AbsentWeights | None = None
    _given_since = 0
    """Rows that were given back since the last that was computed."""
    _lost = 0
    """Rows that were computed and could not be kept."""

    @property
    def complete(self) -> bool:
        """True if, since the last row was computed, as many were given back as are kept.

        After `fill` it is true if all rows were kept.
        """
        return 0 < self._store.count() <= self._given_since

    def fill(
        self, batches: Iterable[Any], progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        """Run the model on each batch, so that all rows are kept before training begins.

        Args:
            batches: What the training loop calls the model with: tensors or arrays alone, in a
                tuple, or by name. The model runs in the mode in which it is now, with gradient or
                without as it is now: rows of training and of validation are kept apart.
            progress: Is told a text, how many batches have run, and how many there are.

        Raises:
            CacheError: There is no batch, or the model does not run on one.
        """
        self._check_inside("fill the cache")
        lost = self._lost
        fill(self._backend, self._model, batches, progress)
        if self._lost == lost and not self._store.full:
            self._given_since = max(self._given_since, self._store.count())

    def drop_frozen(self, *, rows: int | None = None, file: str | Path | None = None) -> int:
        """Take those frozen weights out of memory whose outputs are kept; return their bytes.

        A batch with a row that is not kept is an error from then on. Whatever needs the values
        brings them back first: a state dict, a phase that begins, the end of the block.

        Args:
            rows: How many rows there are; without it, all kept rows must have been given back
                since the last row was computed, or `fill` must have kept them.
            file: The file that the weights were loaded from; without it one is written, and
                deleted at the end.

        Raises:
            CacheError: Rows may be missing, something else reads the weights, or the file does not
                hold them; they stay in memory.
        """
        self._check_inside("drop frozen weights")
        if self._away is None:
            weights = weights_to_drop(
                self._backend, self._walk, self._store, list(self._known), self._apart,
                self._declined or self._store.full, rows, self._given_since,
            )  # fmt: skip
            place = own_file(self._folder) if file is None else Path(file)
            away = DroppedWeights(self._backend, self._walk, weights, place, own=file is None)
            self._away = away
            away.watch_less(list(self._known))
            self._known.drop_copies()
            away.before_state_dicts(self.restore_frozen)
            self._calls.no_copy = away.told()
            self._dropped(away.weights.values(), self.restore_frozen)
        return self._away.nbytes

    def restore_frozen(self) -> None:
        """Bring the weights back that `drop_frozen` took out of memory; nothing if none are out.

        Raises:
            CacheError: Their file is gone or has changed.
        """
        if self._away is not None:
            self._away.bring_back()
            self._away, self._calls.no_copy = None, ""
            self._dropped((), nothing)

    def _not_kept(self, rows: int) -> None:
        """Count rows that are computed and not kept."""
        self.counts.uncached += rows
        self._given_since, self._lost = 0, self._lost + rows

    def _check_inside(self, action: str) -> None:
        if not self._begun or self._left:
            raise CacheError(
                f"cannot {action} outside of the block", hint="with handle.cached() as run:"
            )
