"""Forward passes that keep the outputs of frozen calls, or give kept ones back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from unifreeze._cache.module_calls import Caller, CallKey, Forward, Frames
from unifreeze._cache.nested_values import Form, put_together, take_apart
from unifreeze._cache.observing import one_of
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.output_rows import Layout, Row, layout_of
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor


class Boundary(NamedTuple):
    """Where the frozen part of a model ends.

    Attributes:
        kept: The calls that return something that is kept, and for each the numbers of its
            tensors that are; nothing but frozen calls reads the other ones.
        skipped: The other frozen calls; nothing but frozen calls reads their outputs.
        axes: For each of all these calls, the axis of rows of each tensor that it returns.
        reads: Native paths of state of other modules on which these calls depend.
    """

    kept: Mapping[CallKey, Sequence[int]]
    skipped: frozenset[CallKey]
    axes: Mapping[CallKey, Sequence[int | None]]
    reads: frozenset[str] = frozenset()


class Result(NamedTuple):
    """What one call returned: what is around its tensors, one element of each, and values."""

    form: Form
    likes: Sequence[LiveTensor]
    arrays: Sequence[Array]


class Recording:
    """A whole forward pass; the outputs of frozen calls are kept on the way.

    Attributes:
        seconds: How long the frozen calls took.
        extra: How long it took to copy their outputs.
    """

    def __init__(
        self,
        backend: CacheOperations,
        boundary: Boundary,
        *,
        layouts: bool,
        keep: bool = True,
        faster: Caller | None = None,
    ) -> None:
        """Begin.

        Args:
            backend: The model's backend.
            boundary: The frozen calls.
            layouts: Look at the outputs of skipped calls, too, for `layouts`.
            keep: Keep the outputs; without, the frozen calls only run.
            faster: Runs the frozen calls; None to run them as they are.
        """
        self._faster = faster
        self.seconds = self.extra = 0.0
        self._backend, self._boundary, self._layouts = backend, boundary, layouts
        self._kept = boundary.kept if keep else {}
        self._frames, self._frozen = Frames(), False
        self._results: dict[CallKey, Result] = {}

    @property
    def complete(self) -> bool:
        """True if all calls of the boundary happened."""
        wanted: Collection[CallKey] = self._boundary.axes if self._layouts else self._kept
        return all(key in self._results for key in wanted)

    def call(
        self, number: int, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Run a call, and keep its outputs if it is one of the boundary."""
        if self._frozen:
            return forward(*args, **kwargs)
        key = self._frames.next_key(number)
        if key not in self._boundary.axes:
            with self._frames.inside(key):
                return forward(*args, **kwargs)
        self._frozen, start = True, perf_counter()
        try:
            if self._faster is None:
                result = forward(*args, **kwargs)
            else:
                result = self._faster(key, number, forward, args, kwargs)
        finally:
            self._frozen = False
            self.seconds += perf_counter() - start
        self.note(key, result)
        return result

    def note(self, key: CallKey, result: Any) -> None:
        """Keep the result of a call, if it is wanted."""
        if key not in self._kept and not (self._layouts and key in self._boundary.axes):
            return
        start = perf_counter()
        tensors, form = take_apart(result, self._backend.is_tensor, once=True)
        arrays = [self._values(key, *numbered) for numbered in enumerate(tensors)]
        likes = [one_of(self._backend, t) for t in tensors] if self._layouts else ()
        self._results[key] = Result(form, likes, arrays)
        self.extra += perf_counter() - start

    def _values(self, key: CallKey, number: int, tensor: LiveTensor) -> Array:
        """Return a tensor's values; zeros that take no memory if nobody will read them."""
        along = self._boundary.axes[key]
        has_rows = number < len(along) and along[number] is not None
        if self._layouts or number in self._kept[key] or not has_rows:
            return self._backend.to_array(tensor)
        return np.broadcast_to(np.float32(0), tuple(map(int, tensor.shape)))

    def layouts(self, rows: int) -> dict[CallKey, Layout]:
        """Return the layout of each frozen call, for inputs like these."""
        axes = self._boundary.axes
        return {
            key: layout_of(row.form, row.likes, row.arrays, axes[key], rows).keeping(
                self._kept.get(key, ())
            )
            for key, row in self._results.items()
        }

    @property
    def results(self) -> Mapping[CallKey, Result]:
        """What each call returned, in the order in which they ended."""
        return self._results

    def arrays(self, key: CallKey) -> Sequence[Array]:
        """Return the values of what a kept call returned; none if it was not made."""
        return self._results[key].arrays if key in self._results else ()

    def fits(self, layouts: Mapping[CallKey, Layout], rows: int) -> bool:
        """Return whether all kept outputs are as their layouts say."""
        kept = self._boundary.kept
        return all(
            layouts[k].fits(self._results[k].form, self._results[k].arrays, rows) for k in kept
        )

    def rows(self, layouts: Mapping[CallKey, Layout], rows: int) -> list[tuple[Row, ...]]:
        """Return for each row what is kept of each call of the boundary."""
        cut = [layouts[k].cut(self._results[k].arrays, rows) for k in self._boundary.kept]
        return [tuple(call[row] for call in cut) for row in range(rows)]


class Replaying:
    """A forward pass in which frozen calls do not run: their outputs are given back.

    Attributes:
        given: The calls whose outputs were given back, or stood for.
        ran: The numbers of the modules that ran.
        seconds: How long it took to put kept rows together.
    """

    def __init__(
        self,
        backend: CacheOperations,
        layouts: Mapping[CallKey, Layout],
        kept: Mapping[CallKey, Sequence[Row]],
        skipped: Collection[CallKey],
        rows: int,
        filler: float = float("nan"),
    ) -> None:
        """Begin.

        Args:
            backend: The model's backend.
            layouts: The layout of each frozen call.
            kept: For each call of which something is kept, its rows.
            skipped: The other frozen calls, whose outputs nobody should read.
            rows: The number of rows.
            filler: What tensors are filled with that are not kept.
        """
        self._filler = filler
        self.given: set[CallKey] = set()
        self.ran: set[int] = set()
        self.seconds = 0.0
        self._backend, self._layouts, self._rows = backend, layouts, rows
        self._kept, self._skipped, self._frames = kept, skipped, Frames()

    def call(
        self, number: int, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Give back the outputs of a frozen call; run all others."""
        key = self._frames.next_key(number)
        if self.gives(key):
            return self.give(key)
        self.ran.add(number)
        with self._frames.inside(key):
            return forward(*args, **kwargs)

    def gives(self, key: CallKey) -> bool:
        """Return whether a call is frozen, so that it does not run."""
        return key in self._kept or key in self._skipped

    def give(self, key: CallKey) -> Any:
        """Return the kept outputs of a frozen call, or what stands for them."""
        self.given.add(key)
        start = perf_counter()
        result = put_together(self._layouts[key].form, self.tensors(key))
        self.seconds += perf_counter() - start
        return result

    def tensors(self, key: CallKey) -> list[LiveTensor]:
        """Return the tensors of a frozen call's result."""
        kept = self._kept.get(key, ())
        return self._layouts[key].join(self._backend, kept, self._rows, self._filler)
