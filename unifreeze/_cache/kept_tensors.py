"""Which tensors of frozen calls are kept: those that the rest of the model reads, as is proved.

With kept tensors in place of the frozen calls, and fillers in place of what is not kept, outputs
and gradients must be the same bits as those of the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unifreeze._cache.module_calls import CallKey, Plain
from unifreeze._cache.observing import Observing, Returned
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.output_rows import layout_of, relative_gap
from unifreeze._cache.replaying import Replaying
from unifreeze._cache.side_effects import check_left_behind
from unifreeze._cache.trial_passes import Trial, equal
from unifreeze._protocol.live import LiveTensor
from unifreeze.errors import CacheError

_MOST_TRIES = 24
_FILLERS = (float("nan"), float("inf"), float("-inf"), 0.0)
"""Stand for tensors that are not kept. Code that compares values may take NaN for a usual value."""


class KeptTensors:
    """Looks for the tensors of frozen calls that must be kept."""

    def __init__(
        self,
        backend: CacheOperations,
        trial: Trial,
        trained: Sequence[LiveTensor],
        found: Observing,
        axes: Mapping[CallKey, Sequence[int | None]],
    ) -> None:
        """Run the whole model, to compare with.

        Args:
            backend: The model's backend.
            trial: The model on a few rows.
            trained: The parameters whose gradients are compared.
            found: The frozen calls as they were seen.
            axes: For each call that may be kept, the axis of rows of each tensor that it returns.
        """
        self._backend, self._trial, self._trained = backend, trial, trained
        self._found, self._axes = found, axes
        self._want = trial.outcome(Plain(), trained)
        exact = all(backend.is_exact(t) for t in trial.inputs.tensors)
        self._limit = 0.0 if exact else 1e-5
        self._raised = ""
        self._all = [
            (key, number)
            for key, along in axes.items()
            for number, axis in enumerate(along)
            if axis is not None
        ]
        # Whole numbers cannot be NaN: that somebody reads them would not be seen later.
        self._always = {
            (key, n) for key, n in self._all if found.dead[key].arrays[n].dtype.kind not in "fc"
        }
        self._layouts = {}
        for key, along in axes.items():
            seen = found.dead[key]
            self._layouts[key] = layout_of(seen.form, seen.likes, seen.arrays, along, trial.rows)

    def least(self) -> dict[CallKey, Sequence[int]]:
        """Return the smallest set of tensors with which the model computes the same bits.

        Returns:
            For each call of which something is kept, the numbers of its tensors; nothing if even
            with all tensors the model computes something else.

        Raises:
            CacheError: Frozen modules leave something behind in Python that replaying does not.
        """
        for guess in self._guesses():
            if self._holds(guess):
                kept = self._fewer(guess)
                whole = self._trial.left_behind(Plain(), Plain())
                try:
                    replayed = self._trial.left_behind(Plain(), self._replaying(kept, _FILLERS[0]))
                except CacheError as error:
                    self._note(error)
                    break
                check_left_behind(whole, replayed)
                # What frozen modules left anywhere else is now that of other rows.
                return _by_call(kept) if self._holds(kept, _FILLERS[:1]) else {}
        return {}

    def refusal(self, last: str) -> CacheError:
        """Return the error for a model that computes something else with kept tensors.

        Args:
            last: The name of the last frozen module.
        """
        return CacheError(
            "with kept outputs of the frozen modules the model computes something else",
            context=f"the last frozen module is {last}; code between modules writes in place, "
            "depends on which modules ran, or reads what they left behind"
            + (f" ({self._raised})" if self._raised else ""),
            hint="train without a cache, or freeze a part that ends elsewhere",
        )

    def _guesses(self) -> Iterator[list[Returned]]:
        """Yield sets of tensors that may be all that is read, the likeliest first."""
        found, last = self._found, self._all[-1][0]
        used = found.used | self._always
        yield [place for place in self._all if place in used]
        read = self._reached_by_gradient() | used
        yield [place for place in self._all if place in read]
        handed = found.passed_on
        yield [p for p in self._all if p in used or p not in handed or p[0] == last]
        yield self._all

    def _reached_by_gradient(self) -> set[Returned]:
        """Return the tensors that gradient would flow into: code between modules reads them."""
        running = _Reached(self._backend, *self._given(self._all), self._trial.rows)
        try:
            with self._backend.with_gradient(enabled=True):
                self._trial.outcome(running, self._trained)
        except CacheError:
            return set()  # such code may not write to what gradient flows into
        gradient = self._backend.get_gradient
        return {place for place, t in running.given_tensors.items() if gradient(t) is not None}

    def _given(self, kept: Collection[Returned]) -> tuple[Any, Any, Any]:
        """Return layouts, rows and skipped calls for a pass that gives some tensors back."""
        by_call = _by_call(kept)
        layouts = {k: lay.keeping(by_call.get(k, ())) for k, lay in self._layouts.items()}
        count, dead = self._trial.rows, self._found.dead
        rows = {key: layouts[key].cut(dead[key].arrays, count) for key in by_call}
        return layouts, rows, self._axes.keys() - by_call.keys()

    def _replaying(self, kept: Collection[Returned], filler: float) -> _Filled:
        return _Filled(self._backend, *self._given(kept), self._trial.rows, filler)

    def _holds(self, kept: Collection[Returned], fillers: Sequence[float] = _FILLERS) -> bool:
        """Return whether the model computes the same bits with nothing else kept."""
        want = self._want
        for filler in fillers if len(kept) < len(self._all) else fillers[:1]:
            running = self._replaying(kept, filler)
            try:
                got = self._trial.outcome(running, self._trained)
            except CacheError as error:
                self._note(error)
                return False  # code reads what is not kept, or what frozen modules left
            if running.written():
                return False
            same = len(want) == len(got) and all(
                equal(a, b, relative_gap, self._limit) for a, b in zip(want, got, strict=True)
            )
            if not same:
                return False
        return True

    def _note(self, error: CacheError) -> None:
        self._raised = error.fact.partition("alone: ")[2]

    def _fewer(self, kept: list[Returned]) -> list[Returned]:
        """Leave tensors out as long as the proof holds."""
        for fillers in (_FILLERS[:1], _FILLERS):  # one filler tells much sooner
            calls = list(dict.fromkeys(key for key, _ in kept))

            def holds(left: list[Returned], fillers: Sequence[float] = fillers) -> bool:
                return self._holds(left, fillers)

            left = self._without(kept, [[p for p in kept if p[0] == key] for key in calls], holds)
            left = self._without(left, [[place] for place in left], holds)
            if left == kept or self._holds(left):
                return left
        return kept

    def _without(
        self,
        kept: list[Returned],
        units: list[list[Returned]],
        holds: Callable[[list[Returned]], bool],
    ) -> list[Returned]:
        """Leave some of the units out, each as a whole, large ones first."""
        dead = self._found.dead

        def size(unit: list[Returned]) -> int:
            return sum(dead[key].arrays[number].nbytes for key, number in unit)

        units = [unit for unit in units if self._always.isdisjoint(unit)]
        units.sort(key=size, reverse=True)
        left, piece = list(kept), max(1, len(units) // 2)
        tries = 0
        while piece and tries < _MOST_TRIES:
            there = [unit for unit in units if left and unit[0] in left]
            for start in range(0, len(there), piece):
                out = {place for unit in there[start : start + piece] for place in unit}
                fewer = [place for place in left if place not in out]
                tries += 1
                if fewer and holds(fewer):
                    left = fewer
            piece //= 2
        return left


class _Filled(Replaying):
    """A pass in which it is seen that code writes to what stands for tensors that are not kept."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._fillers: list[LiveTensor] = []

    def tensors(self, key: CallKey) -> list[LiveTensor]:
        """Return the tensors of a frozen call's result."""
        tensors = super().tensors(key)
        slots = zip(tensors, self._layouts[key].slots, strict=True)
        self._fillers += [t for t, slot in slots if slot.axis is not None and not slot.kept]
        return tensors

    def written(self) -> bool:
        """Return whether any of them holds something else now."""
        arrays = map(self._backend.to_array, self._fillers)
        return not all(
            np.array_equal(a, np.full_like(a, self._filler), equal_nan=True) for a in arrays
        )


class _Reached(Replaying):
    """A pass with kept tensors into which gradient flows, so that it shows which are read.

    Attributes:
        given_tensors: The kept tensors that were given.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.given_tensors: dict[Returned, LiveTensor] = {}

    def tensors(self, key: CallKey) -> list[LiveTensor]:
        """Return the tensors of a frozen call's result."""
        tensors = super().tensors(key)
        for number, tensor in enumerate(tensors):
            if self._backend.is_floating(tensor):
                self._backend.set_flag(tensor, True)
                self.given_tensors[key, number] = tensor
        return tensors


def _by_call(places: Collection[Returned]) -> dict[CallKey, Sequence[int]]:
    """Return the numbers of the tensors of each call."""
    numbers: dict[CallKey, list[int]] = {}
    for key, number in places:
        numbers.setdefault(key, []).append(number)
    return {key: tuple(those) for key, those in numbers.items()}
