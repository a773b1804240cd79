"""Rows of a later boundary, computed from kept rows of an earlier one.

When a phase freezes more, only the modules between the two boundaries have to run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from unifreeze._cache.frozen_part import FrozenPart
from unifreeze._cache.input_rows import Inputs
from unifreeze._cache.module_calls import Forward, Frames, Pass
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.replaying import Boundary, Recording, Replaying
from unifreeze._cache.row_store import Kept, RowStore
from unifreeze._modules.walking import Walk
from unifreeze.errors import CacheError


class Extending(Recording):
    """A forward pass that begins with rows of one boundary, and keeps those of a later one."""

    def __init__(self, backend: CacheOperations, boundary: Boundary, replaying: Replaying) -> None:
        """Begin.

        Args:
            backend: The model's backend.
            boundary: The later boundary, whose outputs are kept.
            replaying: Gives back the outputs of the earlier boundary.
        """
        super().__init__(backend, boundary, layouts=False)
        self._replaying, self._all_frames = replaying, Frames()
        self._depth = 0

    def call(
        self, number: int, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Give back the outputs of calls before the earlier boundary; run all others."""
        frames = self._all_frames
        key = frames.next_key(number)
        if self._replaying.gives(key):
            result = self._replaying.give(key)
        else:
            result = self._run(key, forward, args, kwargs)
        self.note(key, result)
        return result

    def _run(self, key: Any, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        frozen = key in self._boundary.axes
        self._depth += frozen
        start = perf_counter()
        try:
            with self._all_frames.inside(key):
                return forward(*args, **kwargs)
        finally:
            self._depth -= frozen
            if frozen and not self._depth:
                self.seconds += perf_counter() - start


def may_extend(backend: CacheOperations, walk: Walk, old: FrozenPart, new: FrozenPart) -> bool:
    """Return whether rows of one frozen part can be the start for those of another one.

    Args:
        backend: The model's backend.
        walk: The model as walked.
        old: The frozen part whose rows are kept.
        new: The frozen part as it is now.
    """
    return bool(
        old.dtype == new.dtype == "float32"
        and (old.entry, old.about) == (new.entry, new.about)
        and set(old.boundary.axes) != set(new.boundary.axes)
        and _holds(old.boundary, new.boundary)
        and old.modes == {number: backend.modes(walk)[number] for number in old.modes}
        and old.modes.keys() <= new.modes.keys()
        and _unchanged(old)
    )


def _holds(old: Boundary, new: Boundary) -> bool:
    """Return whether the earlier calls give all of their tensors that the later boundary keeps."""
    return all(
        set(numbers) <= set(old.kept.get(key, ()))
        for key, numbers in new.kept.items()
        if key in old.axes
    )


def _unchanged(part: FrozenPart) -> bool:
    try:
        part.watch.check_all()
    except CacheError:
        return False
    return True


def recording_of(
    backend: CacheOperations, store: RowStore, part: FrozenPart, inputs: Inputs, keys: Sequence[str]
) -> Recording:
    """Return the pass that computes rows: from rows of an earlier boundary, where they are."""
    base = part.extends.get(inputs.signature)
    rows = None if base is None else store.get(base.group, keys)
    if base is None or rows is None:
        return part.recording(backend)
    return Extending(backend, part.boundary, base.replaying(backend, inputs, rows))


def try_to_extend(
    backend: CacheOperations,
    store: RowStore,
    part: FrozenPart,
    inputs: Inputs,
    keys: Sequence[str],
    run: Callable[[Pass], Any],
) -> None:
    """Look whether rows of an earlier boundary give, to the bit, rows that were just computed.

    Args:
        backend: The model's backend.
        store: All rows.
        part: The frozen part whose rows were just computed.
        inputs: The batch.
        keys: The keys of its rows.
        run: Runs the model on the batch once more, without a trace.
    """
    want = store.get(part.group, keys)
    for base in part.bases if want is not None else ():
        rows = store.get(base.group, keys)
        if rows is None or base.layouts.get(inputs.signature) is None:
            continue
        extending = Extending(backend, part.boundary, base.replaying(backend, inputs, rows))
        run(extending)
        if extending.complete and _same(want or (), part.to_keep(backend, inputs, extending)):
            part.extends[inputs.signature] = base
            return


def _same(first: Sequence[Kept], second: Sequence[Kept]) -> bool:
    """Return whether two lists of rows hold the same bits."""
    return len(first) == len(second) and all(
        [[x.tobytes() for x in call] for call in a] == [[y.tobytes() for y in call] for call in b]
        for a, b in zip(first, second, strict=True)
    )
