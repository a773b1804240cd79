"""A block in which the frozen part of a model runs once for each row, and later is given back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import Any

from unifreeze._cache.frozen_part import (
    FrozenPart,
    check_rows,
    find_frozen_part,
    mismatch,
    suspected,
)
from unifreeze._cache.input_rows import Inputs, read_inputs, row_keys
from unifreeze._cache.module_calls import Forward, ModuleCalls, is_stand_in
from unifreeze._cache.nested_values import take_apart
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.replaying import Recording, Replaying
from unifreeze._cache.row_store import Kept, RowStore
from unifreeze._cache.run_counts import Counts, Epochs
from unifreeze._cache.trial_passes import remember_generators, state_kept
from unifreeze._pictures import html_of
from unifreeze._protocol.live import Model
from unifreeze._tables import human_bytes
from unifreeze.errors import CacheError, UnifreezeWarning, counted, listing

CHECK_EVERY = 100
"""One replayed batch in so many is computed as a whole, too, and compared."""
MEASURED = 1.0
"""Seconds of reading after which it is decided whether reading pays; before, figures are noise."""


class CachedRun(AbstractContextManager["CachedRun"]):
    """A block in which outputs of frozen modules are kept and given back.

    Made by `Handle.cached`; printing it shows what it has done.

    Attributes:
        counts: Rows that were given back, computed and kept, and computed without being kept.
    """

    def __init__(
        self,
        backend: CacheOperations,
        model: Model,
        store: RowStore,
        *,
        dtype: str,
        plan: str = "",
        epoch: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Prepare; nothing changes before the block begins.

        Args:
            backend: The model's backend.
            model: The live model, under a plan.
            store: Where rows are kept.
            dtype: The type in which floating values are stored.
            plan: The plan, as YAML.
            epoch: Returns the epoch that the run was last told of, if any.
        """
        self._epoch, self._told = epoch, Epochs()
        self.counts = Counts()
        self._plan = plan
        self._backend, self._model, self._store, self._dtype = backend, model, store, dtype
        self._parts: dict[str, FrozenPart | None] = {}
        self._why_not: dict[str, str] = {}
        self._declined = ""
        self._flags: list[bool] = []
        self._begun = self._accepted = False
        self._served = 0
        self._unproved: set[str] = set()
        """Groups of rows of earlier runs; the first batch of them is compared with a whole pass."""

    def __enter__(self) -> CachedRun:
        if self._begun:
            raise CacheError(
                "this block has been used already", hint="with handle.cached() as run:"
            )
        self._begun = True
        self._walk = self._backend.walk(self._model)
        if self._backend.is_compiled(self._walk):
            raise CacheError(
                "a part of the model is compiled, so its modules are not called one by one",
                hint="begin the block with the model as it was before it was compiled",
            )
        if is_stand_in(vars(self._walk.root).get("forward")):
            raise CacheError(
                "this model is in a cached block already", hint="leave that block first"
            )
        self._calls = ModuleCalls(self._backend, self._walk, self._pass)
        self._calls.put_in()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._calls.take_out()
        self._store.close()

    def _pass(self, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run one forward pass of the model."""
        if self._backend.runs_itself:
            return forward(*args, **kwargs)
        self._take_changes_in()
        self._told.pass_in(self._epoch(), self.counts)
        inputs = read_inputs(self._backend, args, kwargs)
        part = None if self._declined else self._part(forward, inputs)
        self.counts.batches += 1
        if part is None:
            self.counts.uncached += inputs.rows
            return forward(*args, **kwargs)
        part.watch.check_step()
        self._check_all_weights(part, inputs)
        if inputs.signature not in part.layouts:
            keys = row_keys(self._backend, inputs)
            result, recording = part.learn(self._backend, self._walk, self._calls, forward, inputs)
            return self._keep(part, inputs, keys, result, recording)
        if part.layouts[inputs.signature] is None:
            self.counts.uncached += inputs.rows
            return forward(*args, **kwargs)
        keys = row_keys(self._backend, inputs)
        rows = self._store.get(part.group, keys)
        if rows is not None:
            return self._replay(part, inputs, rows, forward)
        if self._store.full:
            self.counts.uncached += inputs.rows
            return forward(*args, **kwargs)
        recording = Recording(self._backend, part.boundary, layouts=False)
        result = self._recorded(recording, forward, inputs)
        return self._keep(part, inputs, keys, result, recording)

    def _take_changes_in(self) -> None:
        """Begin anew if modules were replaced, or if flags say that other parts train."""
        backend = self._backend
        walk = backend.walk(self._model)
        if walk is not self._walk:
            self._calls.take_out()
            self._walk, self._calls = walk, ModuleCalls(backend, walk, self._pass)
            self._calls.put_in()
            self._flags = []
        flags = [bool(flag) for flag in backend.get_flags(walk.tensors)]
        if flags != self._flags:
            self._flags = flags
            self._parts.clear()
            self._why_not.clear()

    def _part(self, forward: Forward, inputs: Inputs) -> FrozenPart | None:
        """Return the frozen part in the present context; None if its outputs cannot be kept."""
        backend = self._backend
        gradient = "gradient" if backend.gradient_enabled() else "no gradient"
        reaches = any(map(backend.requires_gradient, inputs.tensors))
        about = f"{gradient} {reaches} {backend.precision_in_force()}"
        kinds = " ".join(f"{t.dtype}{len(t.shape)}" for t in inputs.tensors)
        modes = "".join("t" if mode else "e" for mode in backend.modes(self._walk))
        context = f"{about} {modes} {inputs.form.text} {kinds}"
        if context not in self._parts:
            try:
                part = find_frozen_part(
                    backend, self._walk, self._calls, forward, inputs,
                    context=about, dtype=self._dtype,
                )  # fmt: skip
            except CacheError as error:
                if not self._accepted:
                    raise
                self._parts[context] = None
                self._why_not[context] = error.fact
                warnings.warn(
                    f"from here on nothing is cached: {error}", UnifreezeWarning, stacklevel=6
                )
            else:
                if self._store.open(part.group, self._about(part)):
                    self._unproved.add(part.group)
                self._parts[context], self._accepted = part, True
        return self._parts[context]

    def _about(self, part: FrozenPart) -> dict[str, Any]:
        """Return what a folder of rows says of them."""
        exact = "where batch size and padded length repeat, on the same machine"
        return {
            "model": type(self._walk.root).__name__,
            "plan": self._plan,
            "framework": self._backend.version(),
            "weights": part.watch.digest,
            "outputs_of": tuple(part.kept_at),
            "dtype": self._dtype,
            "exact": exact if self._dtype == "float32" else f"no: rounded to {self._dtype}",
        }

    def _check_all_weights(self, part: FrozenPart, inputs: Inputs) -> None:
        """Compare all bits once for each time that as many rows were given as are kept."""
        self._served += inputs.rows
        if self._served >= max(self._store.count(), CHECK_EVERY * inputs.rows):
            self._served = 0
            part.watch.check_all()

    def _recorded(self, recording: Recording, forward: Forward, inputs: Inputs) -> Any:
        args, kwargs = inputs.first(inputs.rows)
        with self._calls.during(recording):
            return forward(*args, **kwargs)

    def _keep(
        self,
        part: FrozenPart,
        inputs: Inputs,
        keys: Sequence[str],
        result: Any,
        recording: Recording,
    ) -> Any:
        """Keep the rows of a whole pass; return its result."""
        layouts = part.layouts.get(inputs.signature)
        # Outputs of another shape: the model has cut the batch by what is in it.
        if layouts is None or not (recording.complete and recording.fits(layouts, inputs.rows)):
            self.counts.uncached += inputs.rows
            return result
        self.counts.misses += inputs.rows
        self.counts.computed += recording.seconds
        for key, kept in zip(keys, part.to_keep(self._backend, inputs, recording), strict=True):
            self._store.put(part.group, key, kept)
        return result

    def _replay(
        self, part: FrozenPart, inputs: Inputs, rows: Sequence[Kept], forward: Forward
    ) -> Any:
        """Run a pass with kept rows; now and then, and where NaN shows up, a whole one, too."""
        self.counts.checks += 1
        suspect = part.is_suspect(self._backend, self._walk)
        if (
            suspect
            or part.group in self._unproved
            or self.counts.checks % CHECK_EVERY == CHECK_EVERY // 2
        ):
            self._unproved.discard(part.group)
            return self._compared(part, inputs, rows, forward)
        put_random_back = self._backend.remember_random()
        start = perf_counter()
        replaying = part.replaying(self._backend, inputs, rows)
        gathered = perf_counter() - start
        result = self._replayed(replaying, forward, inputs)
        self.counts.read += gathered + replaying.seconds
        if self._has_nan(result):
            put_random_back()
            return self._compared(part, inputs, rows, forward)
        self.counts.hits += inputs.rows
        self._decide(inputs)
        return result

    def _replayed(self, replaying: Replaying, forward: Forward, inputs: Inputs) -> Any:
        args, kwargs = inputs.first(inputs.rows)
        with self._calls.during(replaying):
            return forward(*args, **kwargs)

    def _has_nan(self, result: Any) -> bool:
        tensors, _ = take_apart(result, self._backend.is_tensor)
        return any(bool(t.isnan().any()) for t in tensors if self._backend.is_floating(t))

    def _compared(
        self, part: FrozenPart, inputs: Inputs, rows: Sequence[Kept], forward: Forward
    ) -> Any:
        """Run a whole pass, and compare it with what kept rows give; raises if they differ."""
        backend = self._backend
        part.watch.check_all()
        before = remember_generators(backend)
        outer = backend.runs_itself
        try:
            backend.runs_itself = True
            with state_kept(backend, self._walk):
                copy = inputs.copied()
                again = self._replayed(part.replaying(backend, inputs, rows), forward, copy)
        finally:
            backend.runs_itself = outer
            before()
        recording = Recording(backend, part.boundary, layouts=False)
        result = self._recorded(recording, forward, inputs)
        self.counts.uncached += inputs.rows
        if not recording.complete:
            raise self._differs("other modules ran than in the trial", part)
        check_rows(part, rows, part.to_keep(backend, inputs, recording), self._dtype)
        if how := mismatch(backend, result, again, part.limit):
            raise self._differs(how, part)
        return result

    def _differs(self, how: str, part: FrozenPart) -> CacheError:
        return CacheError(
            f"with kept outputs the model computes something else than without: {how}",
            context=suspected(part)
            or "code between modules may take other ways for other values; steps since the "
            f"last comparison (one in {CHECK_EVERY}) may be wrong",
            hint="train without a cache",
        )

    def _decide(self, inputs: Inputs) -> None:
        """Give the cache up if reading rows takes longer than computing them."""
        counts = self.counts
        if (
            counts.read < MEASURED
            or not counts.misses
            or not all(map(self._backend.is_exact, inputs.tensors))
        ):
            return
        per_read, per_row = counts.read / counts.hits, counts.computed / counts.misses
        if per_read > per_row:
            self._declined = (
                f"reading a row takes {1e3 * per_read:.3g} ms, computing it {1e3 * per_row:.3g} ms"
            )

    _repr_html_ = html_of

    def __str__(self) -> str:
        counts, store = self.counts, self._store
        places = [place for part in self._parts.values() if part for place in part.kept_at]
        total = counts.hits + counts.misses + counts.uncached
        lines = [
            f"{counted(total, 'row')}: {counts.hits:,} given back, {counts.misses:,} computed and "
            f"kept, {counts.uncached:,} computed without a cache",
            f"kept: {counted(store.count(), 'row')}, {human_bytes(store.nbytes)}, as {self._dtype}",
        ]
        if places:
            lines.append(f"outputs of: {listing(dict.fromkeys(places))}")
        if counts.hits and counts.misses:
            saved = counts.hits * counts.computed / counts.misses - counts.read
            lines.append(
                f"saved: {saved:.3g} s of frozen modules; reading took {counts.read:.3g} s"
            )
        lines += [f"not cached: {why}" for why in dict.fromkeys(self._why_not.values())]
        lines += [f"stopped keeping rows: {store.full}"] if store.full else []
        lines += [f"given up: {self._declined}"] if self._declined else []
        if self._begun and self._calls.outside:
            lines.append(
                f"{counted(self._calls.outside, 'call')} of modules outside of the model's own "
                "forward pass ran without a cache"
            )
        return "\n".join(lines)
