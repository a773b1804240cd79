"""A faster way to run frozen modules, held to what the modules themselves compute."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from unifreeze._brief_values import cut
from unifreeze._cache.input_rows import Inputs
from unifreeze._cache.module_calls import Caller, CallKey, Forward, ModuleCalls
from unifreeze._cache.nested_values import put_together, take_apart
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.output_rows import relative_gap
from unifreeze._cache.replaying import Boundary, Recording
from unifreeze._cache.run_counts import is_compared
from unifreeze._modules.walking import Walk
from unifreeze._protocol.live import LiveTensor
from unifreeze.errors import CacheError, UnifreezeWarning, counted

EXACT, INFERENCE, BFLOAT16, COMPILE = "exact", "inference", "bfloat16", "compile"
PREFIXES = (EXACT, INFERENCE, BFLOAT16, COMPILE)
"""The ways to run frozen modules; the first is to run them as they are."""
CLOSE = 1e-5
"""How much outputs may differ, relative to the largest value, where no type rounds more."""
ROUGH = 0.1
"""The same for bfloat16, which changes the outputs of deep networks by 0.01 to 0.03."""
COMPARE_EVERY = 100
"""One batch in so many is run by the modules, too, and compared."""

_Form: TypeAlias = tuple[str, str, int]
"""A group of rows, a signature of inputs, and the number of rows of a batch."""


class FasterPrefix:
    """The faster way in which a run computes the outputs of frozen modules.

    It is only used for batches of a form for which it was compared with the modules before.

    Attributes:
        kind: Which way it is.
        gap: The largest difference that was measured where the frozen part ends, relative to the
            largest value.
    """

    def __init__(self, backend: CacheOperations, kind: str) -> None:
        self.kind, self.gap = kind, 0.0
        self._backend = backend
        self._fast: dict[tuple[str, CallKey, str], Forward] = {}
        self._apart: set[str] = set()  # groups that have functions of their own
        self._refused: dict[_Form, str] = {}
        self._proved: set[_Form] = set()
        self._known: set[_Form] = set()
        self._likes: dict[tuple[str, CallKey], Sequence[LiveTensor]] = {}
        self._passes = self._compared = 0
        self._seconds, self._rows = [0.0, 0.0], [0, 0]

    @property
    def rounds(self) -> bool:
        """True if it computes in another type, so that outputs are not those of the modules."""
        return self.kind == BFLOAT16

    def begin(self, walk: Walk, calls: ModuleCalls) -> None:
        """Take the modules of a model as those to run; what was prepared for others is dropped."""
        self._walk, self._calls = walk, calls

    def forget(self) -> None:
        """Drop what was prepared, and copies of weights with it."""
        self._fast.clear()
        self._apart.clear()
        self._proved.clear()

    def doubt(self) -> None:
        """Compare each form again: something was changed from outside."""
        self._proved.clear()

    def is_due(self, group: str, inputs: Inputs) -> bool:
        """Return whether a batch is to be compared: the first of its form, and one in a hundred."""
        self._passes += 1
        form = group, inputs.signature, inputs.rows
        if form in self._refused:
            return False
        return form not in self._proved or is_compared(self._passes, COMPARE_EVERY)

    def refuses(self, group: str, inputs: Inputs) -> bool:
        """Return whether batches of a form run by their modules."""
        return (group, inputs.signature, inputs.rows) in self._refused

    def caller(self, group: str) -> Caller:
        """Return what runs frozen calls for the rows of a group."""
        return partial(self._call, group)

    def took(self, recording: Recording, rows: int) -> None:
        """Count the time that frozen calls took in a pass."""
        self._seconds[1] += recording.seconds
        self._rows[1] += rows

    def _call(
        self,
        group: str,
        key: CallKey,
        number: int,
        forward: Forward,
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> Any:
        tree = self._walk.tree
        if tree.name_starts[number] == tree.name_ends[number]:
            return forward(*args, **kwargs)  # nothing to gain without parameters
        try:
            with self._calls.aside(number):
                result = self._fast_for(group, key, number, forward, args, kwargs)(*args, **kwargs)
        except Exception as error:
            reason = _reason(error)
            raise CacheError(
                f"prefix={self.kind!r} cannot run {self._name(key)}: "
                f"{type(error).__name__}: {reason}"
            ) from error
        return self._in_same_types(group, key, result)

    def _fast_for(
        self,
        group: str,
        key: CallKey,
        number: int,
        forward: Forward,
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> Forward:
        """Return the fast function for a call, prepared by a first run."""
        tensors, form = take_apart((tuple(args), kwargs), self._backend.is_tensor)
        place = group if group in self._apart else "", key, form.text
        fast = self._fast.get(place)
        if fast is None:
            if form.opaque:
                raise TypeError(f"it is called with an object of {form.opaque[0]}")
            module = self._walk.module(number)
            fast = self._backend.faster_forward(self.kind, module, forward)
            copied, named = put_together(form, [tensor.clone() for tensor in tensors])
            fast(*copied, **named)
            self._fast[place] = fast
        return fast

    def _in_same_types(self, group: str, key: CallKey, result: Any) -> Any:
        """Return a result with its tensors in the types that the modules return."""
        likes = self._likes.get((group, key), ())
        tensors, form = take_apart(result, self._backend.is_tensor, once=True)
        if not self.rounds or len(tensors) != len(likes):
            return result
        pairs = zip(tensors, likes, strict=True)
        return put_together(form, [self._backend.as_type(t, like) for t, like in pairs])

    def compare(
        self, group: str, boundary: Boundary, inputs: Inputs, run: Callable[[Recording], Any]
    ) -> Recording:
        """Run a batch by the modules and by the faster way, without a trace, and compare.

        Args:
            group: The group of the rows.
            boundary: Where the frozen part ends.
            inputs: The batch.
            run: Runs the model on it, with frozen calls handed to a pass.

        Returns:
            The pass by the modules.

        Raises:
            CacheError: No form has passed yet; or this one has, and does not any more.
        """
        form = group, inputs.signature, inputs.rows
        exact = Recording(self._backend, boundary, layouts=True)
        run(exact)
        self._likes.update(((group, key), row.likes) for key, row in exact.results.items())
        gap, why = self._tried(group, boundary, exact, run)
        if why and self._fast and not (form in self._known or group in self._apart):
            self._apart.add(group)  # what was prepared in another mode may not fit in this one
            gap, why = self._tried(group, boundary, exact, run)
        if not why:
            self.gap = max(self.gap, gap)
            self._compared += 1
            self._seconds[0] += exact.seconds
            self._rows[0] += inputs.rows
            self._proved.add(form)
            self._known.add(form)
        elif form in self._known:
            raise CacheError(
                why,
                context="it did not before: something that frozen modules depend on was changed "
                f"without a trace; steps since the last comparison (one in {COMPARE_EVERY}) may "
                "be wrong",
                hint="train without prefix, or begin a new block",
            )
        elif not self._compared:
            raise CacheError(why, hint=self._cure())
        else:
            self._refused[form] = why
            warnings.warn(
                f"batches of this form run by their modules, and are not kept: {why}",
                UnifreezeWarning,
                stacklevel=7,
            )
        return exact

    def _tried(
        self, group: str, boundary: Boundary, exact: Recording, run: Callable[[Recording], Any]
    ) -> tuple[float, str]:
        """Run the faster way; return how much it differs, and in words why that is too much."""
        fast = Recording(self._backend, boundary, layouts=True, faster=self.caller(group))
        try:
            run(fast)
        except CacheError as error:
            return 0.0, error.fact
        return self._difference(boundary, exact, fast)

    def _difference(
        self, boundary: Boundary, exact: Recording, fast: Recording
    ) -> tuple[float, str]:
        """Return how much kept outputs differ, and in words why that is too much."""
        if not (exact.complete and fast.complete):
            return 0.0, "other modules ran than in the trial"
        limit, largest, first = ROUGH if self.rounds else CLOSE, 0.0, ""
        for key, a in exact.results.items():
            b = fast.results[key]
            types = [[str(like.dtype) for like in result.likes] for result in (a, b)]
            if a.form.text != b.form.text or types[0] != types[1]:
                return 0.0, f"prefix={self.kind!r} gives {self._name(key)} results of another form"
            gaps = list(map(relative_gap, a.arrays, b.arrays))
            here = max((gaps[n] for n in boundary.kept.get(key, range(len(gaps)))), default=0.0)
            if here > limit and not first:
                first = self._name(key)
            if key in boundary.kept:
                largest = max(largest, here)
        if largest <= limit:
            return largest, ""
        return largest, (
            f"prefix={self.kind!r} changes what {first} returns, so that the frozen part differs "
            f"by {largest:.1e} of its largest value; {limit:g} is allowed"
        )

    def _name(self, key: CallKey) -> str:
        tree, number = self._walk.tree, key[-1][0]
        return f"{tree.paths[number] or 'the model'} ({tree.types[number]})"

    def _cure(self) -> str:
        if self.kind == COMPILE:
            return "on a CPU a C++ compiler is needed, such as g++; or leave prefix out"
        return "leave prefix out"

    def effect(self) -> str:
        """Return how much it changes what the frozen part returns, in words."""
        return f"what the frozen part returns differs by up to {self.gap:.1e} of its largest value"

    def told(self) -> list[str]:
        """Return lines that say what it is, what it does to time and values, and why not more."""
        reasons = dict.fromkeys(self._refused.values())
        return [self._said(), *(f"not by prefix: {why}" for why in reasons)]

    def _said(self) -> str:
        if not self._compared:
            return f"prefix: {self.kind}, not compared with the modules yet"
        faster = ""
        if all(self._rows) and self._seconds[1]:
            exact, fast = (s / r for s, r in zip(self._seconds, self._rows, strict=True))
            faster = f", {exact / fast:.2g} times as fast as the modules"
        compared = counted(self._compared, "batch", "batches")
        return f"prefix: {self.kind}{faster}; {self.effect()} ({compared} compared)"


def _reason(error: Exception) -> str:
    """Return what an error of a framework says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("In transformed code"):
        lines = lines[::-1]  # a traceback comes first
    return cut(lines[0], 200) if lines else ""
