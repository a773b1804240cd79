"""The frozen part of a model as it is in one context: where it ends, and how its rows are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from unifreeze._cache.faster_prefix import FasterPrefix
from unifreeze._cache.input_rows import Inputs
from unifreeze._cache.module_calls import CallKey, Forward, ModuleCalls
from unifreeze._cache.nested_values import take_apart
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.output_rows import ROUNDING, Layout, Row, relative_gap, same_rows
from unifreeze._cache.python_state import PythonState
from unifreeze._cache.replaying import Boundary, Recording, Replaying
from unifreeze._cache.row_store import Kept, narrowed, widened
from unifreeze._cache.settings_watch import SettingsWatch
from unifreeze._cache.side_effects import check_hooks
from unifreeze._cache.soundness import Search, covered, depends_on_rows
from unifreeze._cache.trial_passes import (
    TRIAL_ROWS,
    Trial,
    equal,
    remember_generators,
    state_kept,
)
from unifreeze._cache.weight_watch import WeightWatch, frozen_tensors
from unifreeze._modules.walking import Walk
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor
from unifreeze.errors import CacheError

LOSSY = 5e-2
"""How much outputs may differ, relative to the largest value, where rows are stored rounded."""


@dataclass
class FrozenPart:
    """What is known of the frozen part of a model.

    Attributes:
        boundary: Where it ends.
        watch: Notices that a weight of it has changed.
        group: Names what its rows depend on: weights, modes, versions, and where it ends.
        kept_at: Native paths of the modules whose outputs are kept.
        dtype: The type in which floating values are stored.
        entry: The number of the module that is called: 0 for the model as a whole.
        about: What else the rows depend on: gradient, automatic casts.
        modes: For each of its modules, by number, whether it is in training mode.
        settings: Notices that something else in Python that it may depend on was changed.
        suspects: What was changed since rows were compared.
        layouts: By signature of inputs, how outputs are put together; None for a signature with
            which the model computes something else.
        why_not: By such a signature, in words what is wrong with it.
        faster: A faster way to run its modules; None to run them as they are.
        bases: Earlier frozen parts that end before this one, and whose rows are still right.
        extends: By signature, the base whose rows were shown to give the rows of this part.
        example: The last batch: its inputs, the keys of its rows, and the function that it went to.
    """

    boundary: Boundary
    watch: WeightWatch
    group: str
    kept_at: list[str]
    dtype: str
    entry: int = 0
    about: str = ""
    modes: Mapping[int, bool] = field(default_factory=dict)
    settings: SettingsWatch = field(kw_only=True)
    suspects: list[str] = field(default_factory=list)
    layouts: dict[str, Mapping[CallKey, Layout] | None] = field(default_factory=dict)
    why_not: dict[str, str] = field(default_factory=dict)
    faster: FasterPrefix | None = None
    bases: list[FrozenPart] = field(default_factory=list)
    extends: dict[str, FrozenPart] = field(default_factory=dict)
    example: tuple[Inputs, Sequence[str], Forward] | None = None

    @property
    def limit(self) -> float:
        """How much outputs may differ between a replayed batch and a whole pass."""
        return ROUNDING if self.dtype == "float32" and not self.rounds else LOSSY

    @property
    def rounds(self) -> bool:
        """True if its modules run in a type that rounds more."""
        return self.faster is not None and self.faster.rounds

    def leave_out(self, signature: str, why: str) -> None:
        """Keep no rows of inputs of a signature, and say why."""
        self.layouts[signature] = None
        self.why_not[signature] = why

    def refuses(self, inputs: Inputs) -> bool:
        """Return whether its modules are not run in the faster way on inputs of a form."""
        return self.faster is not None and self.faster.refuses(self.group, inputs)

    def took(self, recording: Recording, rows: int) -> None:
        """Count the time of a pass in the faster way, if there is one."""
        if self.faster is not None:
            self.faster.took(recording, rows)

    def recording(
        self, backend: CacheOperations, *, layouts: bool = False, keep: bool = True
    ) -> Recording:
        """Return a whole pass, in which frozen calls run in the faster way if there is one."""
        faster = None if self.faster is None else self.faster.caller(self.group)
        return Recording(backend, self.boundary, layouts=layouts, keep=keep, faster=faster)

    def is_suspect(self, backend: CacheOperations, walk: Walk) -> bool:
        """Return whether something in Python was changed, so that rows should be compared.

        Raises:
            CacheError: A hook was put on a frozen module.
        """
        changed = self.settings.changed()
        self.suspects = [name for name in changed if "hook" not in name.rpartition(".")[2]]
        if changed:
            check_hooks(backend, walk, covered(walk, list(self.boundary.axes)))
        return bool(self.suspects)

    def replaying(
        self, backend: CacheOperations, inputs: Inputs, rows: Sequence[Kept]
    ) -> Replaying:
        """Return a pass that gives kept rows back."""
        layouts = self.layouts[inputs.signature]
        assert layouts is not None
        kept = {
            key: [wide(row[number], self.dtype) for row in rows]
            for number, key in enumerate(self.boundary.kept)
        }
        return Replaying(backend, layouts, kept, self.boundary.skipped, inputs.rows)

    def to_keep(self, backend: CacheOperations, inputs: Inputs, recording: Recording) -> list[Kept]:
        """Return for each row of a recorded pass what is kept of it."""
        layouts = self.layouts[inputs.signature]
        assert layouts is not None
        return self._narrowed(recording.rows(layouts, inputs.rows))

    def _narrowed(self, rows: list[Kept]) -> list[Kept]:
        if self.dtype == "float32":
            return rows
        kept = [tuple(tuple(narrowed(a, self.dtype) for a in call) for call in row) for row in rows]
        if self.dtype == "float16":
            self._check_range(rows, kept)
        return kept

    def _check_range(self, rows: Sequence[Kept], kept: Sequence[Kept]) -> None:
        """Refuse values that are finite, and infinite in float16."""
        for row, half in zip(rows, kept, strict=True):
            for place, pieces, narrow in zip(self.kept_at, row, half, strict=True):
                for a, b in zip(pieces, narrow, strict=True):
                    if b.dtype == np.float16 and np.isinf(b).sum() > np.isinf(a).sum():
                        raise CacheError(
                            f"{place} returns {np.abs(a[np.isfinite(a)]).max():.3g}, which is too "
                            "large for float16",
                            hint='keep rows with dtype="bfloat16"',
                        )

    def learn(
        self,
        backend: CacheOperations,
        walk: Walk,
        calls: ModuleCalls,
        forward: Forward,
        inputs: Inputs,
        exact: Recording | None = None,
    ) -> tuple[Any, Recording]:
        """Run a whole pass with inputs of a new signature, and prove that replaying it is right.

        Args:
            backend: The model's backend.
            walk: The model as walked.
            calls: Its calls.
            forward: Its forward function.
            inputs: The batch.
            exact: A pass by the modules as they are, if this one is by a faster way.

        Returns:
            The result of the whole pass, and what was recorded.
        """
        args, kwargs = inputs.first(inputs.rows)
        copy = inputs.copied()
        before, python = remember_generators(backend), PythonState(backend, walk)
        held = python.remember()
        recording = self.recording(backend, layouts=True)
        with calls.during(recording):
            result = forward(*args, **kwargs)
        if not recording.complete:
            self.leave_out(inputs.signature, "other modules run than in the trial")
            return result, recording
        layouts = recording.layouts(inputs.rows)
        self.layouts[inputs.signature] = layouts
        after, outer = remember_generators(backend), backend.runs_itself
        replaying = self.replaying(backend, inputs, self.to_keep(backend, inputs, recording))
        try:
            backend.runs_itself = True
            before()
            args, kwargs = copy.copied().first(inputs.rows)
            now = PythonState(backend, walk)  # with tables that are made in the first pass
            with state_kept(backend, walk, python=now), calls.during(replaying):
                python.put_back(held)  # counters in live code
                again = forward(*args, **kwargs)
            if len(self.layouts) == 1:
                alone = Recording(backend, self.boundary, layouts=False)
                with state_kept(backend, walk, python=now):
                    self._check_alone(alone, calls, forward, copy, exact or recording)
        finally:
            after()
            backend.runs_itself = outer
        same_bits = self.dtype == "float32" and all(map(backend.is_exact, inputs.tensors))
        if how := mismatch(backend, result, again, 0.0 if same_bits else self.limit):
            self.leave_out(inputs.signature, f"with kept outputs, {how}")
        self.settings.refresh()  # tables that are made in the first pass
        return result, recording

    def _check_alone(
        self,
        alone: Recording,
        calls: ModuleCalls,
        forward: Forward,
        inputs: Inputs,
        recording: Recording,
    ) -> None:
        """Compare the last rows of a batch with the same rows in a batch of their own.

        Raises:
            CacheError: They differ: rows depend on other rows in batches of this size.
        """
        order = list(range(inputs.rows))[::-1][: -(-inputs.rows // 2)]
        layouts = self.layouts[inputs.signature]
        if layouts is None or inputs.rows <= TRIAL_ROWS:
            return
        args, kwargs = inputs.taken(order)
        with calls.during(alone):
            forward(*args, **kwargs)
        fits = alone.complete and alone.fits(layouts, len(order))
        for key, place in zip(self.boundary.kept, self.kept_at, strict=True):
            read, those = self.boundary.kept[key], range(len(order))
            axes = [self.boundary.axes[key][n] for n in read]
            whole, part = ([r.arrays(key)[n] for n in read] for r in (recording, alone))
            if not fits or not same_rows(whole, part, axes, inputs.rows, order, those):
                raise depends_on_rows(place)


def find_frozen_part(
    backend: CacheOperations,
    walk: Walk,
    calls: ModuleCalls,
    forward: Forward,
    inputs: Inputs,
    *,
    context: str,
    dtype: str,
    entry: int = 0,
) -> FrozenPart:
    """Find the frozen part of a model as it is now.

    Args:
        backend: The model's backend.
        walk: The model as walked.
        calls: Its calls.
        forward: Its forward function.
        inputs: A real batch.
        context: What the results depend on besides weights, modes and inputs.
        dtype: The type in which floating values are stored.
        entry: The number of the module whose forward function it is.

    Raises:
        CacheError: Its outputs cannot be kept; the message names the module and the cure.
    """
    trial = Trial(backend, walk, calls, forward, inputs)
    boundary = Search(backend, walk, trial).boundary()
    modules = covered(walk, list(boundary.axes))
    watch = WeightWatch(backend, frozen_tensors(backend, walk, modules, boundary.reads))
    around = {0, *(number for key in boundary.axes for number, _ in key[:-1])}
    settings = SettingsWatch(backend, walk, modules, sorted(around - set(modules)))
    modes = backend.modes(walk)
    names = [
        f"{'.'.join(f'{walk.tree.paths[n]}#{k}' for n, k in key)} {list(numbers)}"
        for key, numbers in boundary.kept.items()
    ]
    parts = [
        backend.version(),
        f"{walk.tree.paths[entry]} {context}" if entry else context,
        dtype,
        watch.digest,
        *names,
        settings.digest(),
        *(f"{walk.tree.paths[n]} {walk.tree.types[n]} {modes[n]}" for n in modules),
    ]
    group = xxhash.xxh3_128("\n".join(parts).encode()).hexdigest()
    kept_at = [walk.tree.paths[key[-1][0]] for key in boundary.kept]
    held = {number: modes[number] for number in modules}
    return FrozenPart(
        boundary, watch, group, kept_at, dtype, entry, context, held, settings=settings
    )


def mismatch(backend: CacheOperations, first: Any, second: Any, limit: float) -> str:
    """Return how two results of a model differ; "" if they are equal up to a limit."""
    a, b = (take_apart(value, backend.is_tensor)[0] for value in (first, second))
    if len(a) != len(b):
        return f"{len(a)} outputs and {len(b)}"
    for number, (x, y) in enumerate(zip(a, b, strict=True)):
        arrays: tuple[Array, Array] = backend.to_array(x), backend.to_array(y)
        if not equal(*arrays, relative_gap, limit):
            return f"output {number} differs by {relative_gap(*arrays):.1e} of its largest value"
    return ""


def has_nan(backend: CacheOperations, result: Any) -> bool:
    """Return whether a result of a model holds NaN."""
    tensors, _ = take_apart(result, backend.is_tensor)
    return any(_sums_to_nan(t) and bool(t.isnan().any()) for t in tensors if backend.is_floating(t))


def _sums_to_nan(tensor: LiveTensor) -> bool:
    """Return whether a tensor may hold NaN: its sum is quicker to have than an answer for each."""
    if int(tensor.element_size()) == 1:  # eight bits are not summed up
        return True
    total = tensor.detach().sum().item()
    return bool(total != total)


def wide(row: Row, dtype: str) -> Row:
    """Return what is kept of a row of a call in the types that the call returned."""
    return row if dtype == "float32" else tuple(widened(array, dtype) for array in row)
