"""Where the frozen part of a model ends, and whether its outputs may be kept: found by running it.

A call may be kept if gradient does not reach it, its outputs depend neither on chance nor on
anything that trains nor on other rows, and nothing else happens in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from unifreeze._cache.kept_tensors import KeptTensors
from unifreeze._cache.module_calls import CallKey
from unifreeze._cache.observing import Observing, outermost
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.output_rows import row_axes, same_rows
from unifreeze._cache.replaying import Boundary
from unifreeze._cache.side_effects import (
    ParameterBits,
    check_call,
    check_state,
)
from unifreeze._cache.trial_passes import Trial
from unifreeze._modules.walking import Walk
from unifreeze._protocol.live import LiveTensor
from unifreeze.errors import CacheError

NOTHING = "nothing can be cached: no module runs before the first one that trains"
_OFF = (
    'set "dropout: off" in the plan; for a dropout outside of frozen blocks set its p to 0, or '
    "call model.eval()"
)


class Search:
    """Finds the boundary of one model for inputs of one form."""

    def __init__(self, backend: CacheOperations, walk: Walk, trial: Trial) -> None:
        self._backend, self._walk, self._trial = backend, walk, trial
        flags = [backend.get_flag(tensor) for tensor in walk.tensors]
        self._trained = [t for t, flag in zip(walk.tensors, flags, strict=True) if flag]

    def boundary(self) -> Boundary:
        """Return where the frozen part ends.

        Raises:
            CacheError: Its outputs cannot be kept; the message names the module and the cure.
        """
        with self._trial.undone():
            bits = ParameterBits(self._backend, self._walk)
            with self._backend.with_gradient(enabled=True):
                found = self._trial.observe(draws=True)
            bits.check()
            if not found.dead:
                raise self._nothing(found)
            if not self._backend.gradient_enabled():
                found = self._without_gradient(found)
            fewer = self._fewer_rows(found)
            dead = self._independent(found, fewer)
            if not all(found.dead[key].arrays for key in dead):
                found = self._trial.observe(set(dead), draws=True)  # they were inside other calls
            axes = self._axes(found, dead, fewer)
            for key in axes:
                check_call(self._backend, self._walk, found.dead[key], covered(self._walk, [key]))
            search = KeptTensors(self._backend, self._trial, self._trained, found, axes)
            kept = search.least()
            if not kept:
                raise search.refusal(self._name(list(axes)[-1]))
            skipped = frozenset(axes.keys() - kept.keys())
            return Boundary(kept, skipped, axes, self._reads(found, axes))

    def _without_gradient(self, found: Observing) -> Observing:
        """Return the dead calls as they run without gradient, where some code takes other ways."""
        again = self._trial.observe(set(found.dead), draws=True)
        if not again.dead:
            raise self._nothing(found)
        return again

    def _halves(self) -> tuple[list[int], list[int]]:
        """Return each half of the rows, in the opposite order.

        A row must not depend on those before it.
        """
        order = list(range(self._trial.rows))[::-1]
        middle = max(1, len(order) // 2)
        return order[:middle], order[middle:]

    def _fewer_rows(self, found: Observing) -> Observing:
        """Return the dead calls as they are with fewer rows, where that saves time."""
        half, rest = self._halves()
        if len(half) < 2 or not rest:
            return found
        return self._trial.observe(set(found.dead), rows=half)

    def _independent(self, found: Observing, fewer: Observing) -> list[CallKey]:
        """Return the outermost dead calls that depend on nothing that trains.

        Args:
            found: The dead calls with all rows.
            fewer: The same with fewer rows, or `found`.

        Raises:
            CacheError: One of them depends on chance, or something else happens in it.
        """
        trial = self._trial
        rows = None if fewer is found else self._halves()[0]
        moving = [*self._trained, *(tensor for _, tensor in trial.moved.values())]
        dead = self._same_with(moving, 1.0625, fewer, rows)
        same = dead & self._same_at_once(moving, fewer, rows)
        if same != dead:  # by chance, or for the values of what trains
            # Another sign changes what is compared, or the largest.
            dead &= self._same_with(moving, -0.9375, fewer, rows)
            same = _alike(fewer, trial.observe(dead, rows=rows, seed=1, values=False))
        chance = {key for key in dead if found.dead[key].draws or key not in same}
        # A dropout right before the first layer that trains just runs.
        if any(self._holds_parameters(key) for key in chance):
            raise self._random(next(key for key in found.dead if key in chance))
        dead -= chance
        top = outermost([k for k in found.dead if k in dead])
        moved = [(path, owner) for path, (owner, _) in trial.moved.items()]
        check_state(covered(self._walk, top), moved)
        if not top:
            raise self._nothing(found)
        return top

    def _same_with(
        self,
        tensors: Sequence[LiveTensor],
        factor: float,
        found: Observing,
        rows: Sequence[int] | None = None,
    ) -> set[CallKey]:
        """Return the dead calls that return the same where tensors have other values.

        Args:
            tensors: The tensors.
            factor: By which they are multiplied.
            found: The dead calls, with these rows.
            rows: The rows of the pass; None for all.
        """
        with self._backend.other_values(tensors, factor):
            try:
                return _alike(found, self._trial.observe(set(found.dead), rows=rows, values=False))
            except CacheError:
                return set(found.dead)  # such values are not allowed, as of a scale below 0

    def _same_at_once(
        self, tensors: Sequence[LiveTensor], found: Observing, rows: Sequence[int] | None
    ) -> set[CallKey]:
        """Return the dead calls that return the same with other signs and another seed at once.

        One pass is enough where nothing changes; if it does not run, nothing is returned.
        """
        with self._backend.other_values(tensors, -0.9375), suppress(CacheError):
            seen = self._trial.observe(set(found.dead), rows=rows, seed=1, values=False)
            return _alike(found, seen)
        return set()

    def _reads(self, found: Observing, axes: dict[CallKey, Any]) -> frozenset[str]:
        """Return the paths of state outside of some calls on which they depend."""
        inside = set(covered(self._walk, list(axes)))
        outside = [
            (state.path, tensor)
            for state, tensor in self._walk.states()
            if state.owner not in inside and tensor is not None
            and state.path not in self._trial.moved and self._backend.has_values(tensor)
        ]  # fmt: skip
        if not outside or axes.keys() <= self._same_with([t for _, t in outside], 1.0625, found):
            return frozenset()
        return frozenset(path for path, _ in outside)

    def _holds_parameters(self, key: CallKey) -> bool:
        number, tree = key[-1][0], self._walk.tree
        return tree.name_starts[number] < tree.name_ends[number]

    def _axes(
        self, found: Observing, dead: Sequence[CallKey], fewer: Observing
    ) -> dict[CallKey, Any]:
        """Return the axes of rows of each call; calls that are the same for all rows are left out.

        Args:
            found: The dead calls with all rows.
            dead: Those that count.
            fewer: The dead calls with the first half of the rows, or `found`.

        Raises:
            CacheError: A call depends on other rows.
        """
        trial, count = self._trial, self._trial.rows
        axes: dict[CallKey, Any] = {}
        first, second = self._halves()
        known = fewer is not found and all(k in fewer.dead and fewer.dead[k].arrays for k in dead)
        for half in (first, second):
            seen = fewer if known and half is first else trial.observe(set(dead), rows=half)
            for key in dead:
                whole, part = found.dead[key], seen.dead.get(key)
                rows = part and row_axes(whole.arrays, part.arrays, count, len(half))
                if part is None or rows is None or part.form.text != whole.form.text:
                    raise depends_on_rows(self._name(key))
                those = range(len(half))
                if not same_rows(whole.arrays, part.arrays, rows, count, half, those):
                    raise depends_on_rows(self._name(key))
                if any(axis is not None for axis in rows):
                    axes[key] = rows
        if not axes:
            raise self._nothing(found)
        self._check_beside_blank_rows(found, axes)
        return axes

    def _check_beside_blank_rows(self, found: Observing, axes: dict[CallKey, Any]) -> None:
        """Refuse calls that return something else for a row if other rows are zero."""
        count = self._trial.rows
        blank, others = range(0, count, 2), range(1, count, 2)
        try:
            seen = self._trial.observe(set(axes), inputs=self._trial.blanked(blank))
        except CacheError:
            return  # zeros are not allowed
        for key, rows in axes.items():
            whole, part = found.dead[key], seen.dead.get(key)
            if part is None or part.form.text != whole.form.text:
                raise depends_on_rows(self._name(key))
            if not same_rows(whole.arrays, part.arrays, rows, count, others, others):
                raise depends_on_rows(self._name(key))

    # Refusals

    def _name(self, key: CallKey) -> str:
        number = key[-1][0]
        return f"{self._walk.tree.paths[number]} ({self._walk.tree.types[number]})"

    def _random(self, key: CallKey) -> CacheError:
        return CacheError(
            f"{self._name(key)} is frozen, and what it returns depends on chance",
            context="each pass would need other outputs than those that are kept",
            hint=_OFF,
        )

    def _nothing(self, found: Observing) -> CacheError:
        breaks = breaks_prefix(self._backend, self._walk, found.order)
        return CacheError(
            NOTHING,
            context=f"{breaks} is trainable" if breaks else "gradient reaches every module",
            hint="freeze the modules that run first, such as embeddings or the stem",
        )


def depends_on_rows(name: str) -> CacheError:
    """Return the refusal of a frozen module that mixes rows."""
    return CacheError(
        f"{name} is frozen, and what it returns for a row depends on other rows",
        context="as a norm by the statistics of the batch does; or rows do not lie on the "
        "first axis of the inputs",
        hint='set "norm_stats: hold" in the plan, or call model.eval()',
    )


def _alike(found: Observing, others: Observing) -> set[CallKey]:
    """Return the dead calls that return the same bits in another pass."""
    return {k for k, seen in found.dead.items()
            if k in others.dead and others.dead[k].digest == seen.digest}  # fmt: skip


def covered(walk: Walk, keys: Sequence[CallKey]) -> list[int]:
    """Return the numbers of the modules that run in some calls."""
    numbers: dict[int, None] = {}
    for key in keys:
        number = key[-1][0]
        numbers.update(dict.fromkeys(range(number, walk.tree.ends[number])))
    return list(numbers)


def breaks_prefix(backend: CacheOperations, walk: Walk, order: Sequence[CallKey]) -> str:
    """Return the native path of the first trainable parameter that a forward pass uses."""
    tree = walk.tree
    for key in order:
        number = key[-1][0]
        own = [
            name
            for name, owner, tensor in zip(tree.names, tree.owners, tree.tensor_of, strict=True)
            if owner == number and backend.get_flag(walk.tensors[tensor])
        ]
        if own:
            return own[0]
    return next((n for n, t in walk.named() if backend.get_flag(t)), "")
