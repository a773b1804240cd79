"""What a cached run has done so far, and whether an epoch found few rows of the one before."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from unifreeze.errors import UnifreezeWarning


@dataclass
class Counts:
    """What a run has done so far; seconds are those of frozen modules alone."""

    hits: int = 0
    misses: int = 0
    uncached: int = 0
    extended: int = 0
    batches: int = 0
    computed: float = 0.0
    read: float = 0.0
    checks: int = 0

    def slower(self, after: float) -> str:
        """Return in words that reading rows takes longer than computing them; "" if it does not.

        Args:
            after: Seconds of reading from which on the figures are believed.
        """
        if self.read < after or not self.misses or not self.hits:
            return ""
        per_read, per_row = self.read / self.hits, self.computed / self.misses
        if per_read <= per_row:
            return ""
        return f"reading a row takes {1e3 * per_read:.3g} ms, computing it {1e3 * per_row:.3g} ms"


def is_compared(number: int, every: int) -> bool:
    """Return whether the pass with a number is the one in so many that is compared.

    Its place among these moves on. Where batches of two kinds come in turn, a fixed place would
    always be one of the same kind.
    """
    block, place = divmod(number, every)
    return place == (every // 2 + 37 * block) % every


class Epochs:
    """Warns once if the second epoch of a block finds few rows of the first."""

    def __init__(self) -> None:
        self._epochs: list[int | None] = []
        self._before = (0, 0)

    def begin_again(self, counts: Counts) -> None:
        """Forget the epochs so far: rows of another boundary are new, whatever the samples are."""
        self._epochs.clear()
        self._before = counts.hits, counts.misses

    def pass_in(self, epoch: int | None, counts: Counts) -> bool:
        """Note that a forward pass begins in an epoch; return whether it is the epoch's first."""
        if epoch is None or (self._epochs and self._epochs[-1] == epoch):
            return False
        self._epochs.append(epoch)
        hits, misses = counts.hits - self._before[0], counts.misses - self._before[1]
        if len(self._epochs) == 3 and hits < misses:
            warnings.warn(
                f"in epoch {self._epochs[1]} {hits:,} rows were given back, and {misses:,} were "
                "new: augmented samples have other bytes each time; leave the augmentation out, "
                "or train without a cache",
                UnifreezeWarning,
                stacklevel=7,
            )
        self._before = counts.hits, counts.misses
        return True
