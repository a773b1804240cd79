"""Batches whose rows are given back, and how they are compared with whole passes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from unifreeze._cache.dropped_weights import AbsentWeights
from unifreeze._cache.frozen_part import FrozenPart, has_nan, mismatch, wide
from unifreeze._cache.input_rows import Inputs
from unifreeze._cache.known_parts import KnownParts
from unifreeze._cache.module_calls import Forward
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.output_rows import relative_gap
from unifreeze._cache.replaying import Recording
from unifreeze._cache.row_store import Kept
from unifreeze._cache.run_counts import Counts, is_compared
from unifreeze._cache.sample_ids import SampleIds
from unifreeze._modules.walking import Walk
from unifreeze.errors import CacheError, listing

CHECK_EVERY = 100
"""One replayed batch in so many is computed as a whole, too, and compared."""
MEASURED = 1.0
"""Seconds of reading after which it is decided whether reading pays; before, figures are noise."""


class GivenBack:
    """The part of a cached run that gives kept rows back."""

    counts: Counts
    _backend: CacheOperations
    _walk: Walk
    _known: KnownParts
    _ids: SampleIds | None
    _dtype: str
    _declined: str
    _given_since: int
    _away: AbsentWeights | None
    _apart: Callable[..., Any]
    _recorded: Callable[..., Any]

    def _replay(
        self, part: FrozenPart, inputs: Inputs, rows: Sequence[Kept], forward: Forward
    ) -> Any:
        """Run a pass with kept rows; now and then, and where NaN shows up, a whole one, too."""
        self.counts.checks += 1
        suspect = part.is_suspect(self._backend, self._walk)
        due = is_compared(self.counts.checks, CHECK_EVERY)
        if self._away is None and (suspect or part.group in self._known.unproved or due):
            self._known.unproved.discard(part.group)
            if suspect and part.faster is not None:
                part.faster.doubt()
            return self._compared(part, inputs, rows, forward)
        put_random_back = self._backend.remember_random()
        start = perf_counter()
        replaying = part.replaying(self._backend, inputs, rows)
        gathered = perf_counter() - start
        result = self._recorded(replaying, forward, inputs)
        self.counts.read += gathered + replaying.seconds
        if self._away is None and has_nan(self._backend, result):
            put_random_back()
            return self._compared(part, inputs, rows, forward)
        self.counts.hits += inputs.rows
        self._given_since += inputs.rows
        if self._away is None:
            self._decide(inputs)
        return result

    def _compared(
        self, part: FrozenPart, inputs: Inputs, rows: Sequence[Kept], forward: Forward
    ) -> Any:
        """Run a whole pass, and compare it with what kept rows give; raises if they differ."""
        backend = self._backend
        part.watch.check_all()
        again = self._apart(part.replaying(backend, inputs, rows), forward, inputs.copied())
        # A faster way may hold copies of weights, so it is the modules that are believed.
        whole = Recording(backend, part.boundary, layouts=False)
        recording = part.recording(backend) if part.rounds else whole
        result = self._recorded(recording, forward, inputs)
        self.counts.uncached += inputs.rows
        self._given_since += inputs.rows
        if not recording.complete:
            raise differs("other modules ran than in the trial", part, CHECK_EVERY)
        fresh = part.to_keep(backend, inputs, recording)
        with contextlib.nullcontext() if self._ids is None else self._ids.blamed():
            check_rows(part, rows, fresh, self._dtype)
        if how := mismatch(backend, result, again, part.limit):
            raise differs(how, part, CHECK_EVERY)
        return result

    def _decide(self, inputs: Inputs) -> None:
        """Give the cache up if reading rows takes longer than computing them."""
        if all(map(self._backend.is_exact, inputs.tensors)):
            self._declined = self.counts.slower(after=MEASURED)


def check_rows(part: FrozenPart, kept: Sequence[Kept], fresh: Sequence[Kept], dtype: str) -> None:
    """Compare kept rows with new ones.

    Raises:
        CacheError: One differs; the message names the row and the module.
    """
    for row, (old, new) in enumerate(zip(kept, fresh, strict=True)):
        for place, a, b in zip(part.kept_at, old, new, strict=True):
            for x, y in zip(wide(a, dtype), wide(b, dtype), strict=True):
                gap = relative_gap(x, y)
                if gap > part.limit:
                    raise CacheError(
                        f"row {row} of this batch: what is kept of {place} differs from what it "
                        f"computes now, by {gap:.1e} of the largest value",
                        context=_suspected(part)
                        or "a frozen module depends on something that no trial has shown, or "
                        "rows in the folder are of a model with other settings",
                        hint="give a new folder; if that does not help, train without a cache",
                    )


def differs(how: str, part: FrozenPart, every: int) -> CacheError:
    """Return the error for a model that computes something else with kept rows than without.

    Args:
        how: How the results differ.
        part: The frozen part whose rows were given back.
        every: One batch in so many is compared.
    """
    return CacheError(
        f"with kept outputs the model computes something else than without: {how}",
        context=_suspected(part)
        or "code between modules may take other ways for other values; steps since the "
        f"last comparison (one in {every}) may be wrong",
        hint="train without a cache",
    )


def _suspected(part: FrozenPart) -> str:
    """Return what may have made kept rows wrong; "" if nothing was seen."""
    names = listing(part.suspects)
    return f"{names} was changed from outside since rows were kept" if part.suspects else ""
