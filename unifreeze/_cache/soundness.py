"""Where the frozen part of a model ends, and whether its outputs may be kept: found by running it.

A call may be kept if gradient does not reach it, its outputs depend neither on chance nor on
anything that trains nor on other rows, and nothing else happens in it. What the rest of the model
reads is then proved: with kept outputs in place of the frozen calls, and NaN in place of what is
not kept, outputs and gradients must be the same bits as those of the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unifreeze._cache.module_calls import CallKey, Plain
from unifreeze._cache.observing import Observed, Observing, outermost
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.output_rows import Layout, Row, layout_of, relative_gap, row_axes
from unifreeze._cache.replaying import Boundary, Replaying
from unifreeze._cache.trial_passes import Trial, attributes_now, equal
from unifreeze._modules.walking import Walk
from unifreeze._protocol.live import Layer
from unifreeze.errors import CacheError

ROUNDING = 1e-4
"""How much a row may differ between batches of other sizes, relative to the largest value.

Kernels round differently for other shapes; measured differences are below 1e-5.
"""
NOTHING = "nothing can be cached: no module runs before the first one that trains"
_MOST_TRIES = 24
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
            with self._backend.with_gradient(enabled=True):
                found = self._trial.observe()
            if not found.dead:
                raise self._nothing(found)
            if not self._backend.gradient_enabled():
                found = self._without_gradient(found)
            dead = self._independent(found)
            if not all(found.dead[key].arrays for key in dead):
                found = self._trial.observe(set(dead))  # they were inside other calls
            axes = self._axes(found, dead)
            for key in axes:
                self._check_call(found.dead[key])
            return self._proved(found, axes)

    def _without_gradient(self, found: Observing) -> Observing:
        """Return the dead calls as they run without gradient, where some code takes other ways."""
        again = self._trial.observe(set(found.dead))
        if not again.dead:
            raise self._nothing(found)
        return again

    def _independent(self, found: Observing) -> list[CallKey]:
        """Return the outermost dead calls that depend on nothing that trains.

        Raises:
            CacheError: One of them depends on chance, or something else happens in it.
        """
        trial = self._trial
        moving = [tensor for _, tensor in trial.moved.values()]
        with trial.other_values([*self._trained, *moving]):
            others = trial.observe(set(found.dead))
        dead = {k for k, seen in found.dead.items()
                if k in others.dead and others.dead[k].digest == seen.digest}  # fmt: skip
        modules = self._inside(outermost(dead))
        before = attributes_now(modules)
        again = trial.observe(dead, seed=1)
        chance = {k for k in dead if found.dead[k].draws or k not in again.dead
                  or again.dead[k].digest != found.dead[k].digest}  # fmt: skip
        # A dropout right before the first layer that trains just runs.
        if any(self._holds_parameters(key) for key in chance):
            raise self._random(next(key for key in found.dead if key in chance))
        dead -= chance
        self._check_attributes(modules, before)
        top = outermost([k for k in found.dead if k in dead])
        self._check_state(top)
        if not top:
            raise self._nothing(found)
        return top

    def _holds_parameters(self, key: CallKey) -> bool:
        number, tree = key[-1][0], self._walk.tree
        return tree.name_starts[number] < tree.name_ends[number]

    def _inside(self, keys: Sequence[CallKey]) -> list[Layer]:
        return [self._walk.module(n) for n in covered(self._walk, keys)]

    def _check_state(self, keys: Sequence[CallKey]) -> None:
        inside = set(covered(self._walk, keys))
        moved = [path for path, (owner, _) in self._trial.moved.items() if owner in inside]
        if moved:
            raise CacheError(
                f"{moved[0]} changes in each forward pass, in a module that is frozen",
                context="a frozen module whose outputs are kept does not run",
                hint='set "norm_stats: hold" in the plan, or call model.eval()',
            )

    def _axes(self, found: Observing, dead: Sequence[CallKey]) -> dict[CallKey, Any]:
        """Return the axes of rows of each call; calls that are the same for all rows are left out.

        Raises:
            CacheError: A call depends on other rows.
        """
        half = max(1, self._trial.rows // 2)
        fewer = self._trial.observe(set(dead), rows=half)
        axes: dict[CallKey, Any] = {}
        for key in dead:
            whole = found.dead[key].arrays
            part = fewer.dead[key].arrays if key in fewer.dead else ()
            rows = row_axes(whole, part, self._trial.rows, half)
            if rows is None:
                raise self._depends(key)
            for a, b, axis in zip(whole, part, rows, strict=True):
                first = a if axis is None else a.take(range(b.shape[axis]), axis)
                if relative_gap(first, b) > (ROUNDING if a.itemsize > 2 else 30 * ROUNDING):
                    raise self._depends(key)
            if any(axis is not None for axis in rows):
                axes[key] = rows
        if not axes:
            raise self._nothing(found)
        return axes

    def _check_call(self, seen: Observed) -> None:
        """Refuse a call with side effects that were seen, or with hooks."""
        name = self._name(seen.key)
        if seen.changes:
            raise CacheError(
                f"{name} changes an object that it is called with, of type {seen.changes}",
                context="kept outputs would leave it as it is",
                hint="leave key-value caches out: use_cache=False",
            )
        for number in covered(self._walk, [seen.key]):
            hooks = self._backend.hooks_around(self._walk.module(number))
            strange = [hook for hook in hooks if not _is_known(hook)]
            if strange:
                hook = getattr(strange[0], "__qualname__", type(strange[0]).__name__)
                place = self._walk.tree.paths[number] or "the model"
                raise CacheError(
                    f"{place} has a hook around its forward pass: {hook}",
                    context="a frozen module whose outputs are kept does not run, nor its hooks",
                    hint="take the hook off, or put it on a module that trains",
                )

    def _check_attributes(self, modules: Sequence[Layer], before: list[dict[str, Any]]) -> None:
        after = attributes_now(modules)
        for module, old, new in zip(modules, before, after, strict=True):
            changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
            if changed:
                raise CacheError(
                    f"{type(module).__name__} sets {changed[0]!r} of its own in each forward pass",
                    context="a frozen module whose outputs are kept does not run",
                    hint="return the value instead of keeping it in the module",
                )

    # What is kept, and the proof of it

    def _proved(self, found: Observing, axes: dict[CallKey, Any]) -> Boundary:
        """Return the smallest set of kept calls with which the model computes the same bits."""
        backend, trial = self._backend, self._trial
        want = trial.outcome(Plain(), self._trained)
        exact = all(backend.is_exact(t) for t in trial.inputs.tensors)
        limit = 0.0 if exact else 1e-5
        layouts, rows = self._kept_rows(found, axes)

        def holds(kept: Sequence[CallKey]) -> bool:
            chosen = {key: rows[key] for key in kept}
            running = Replaying(backend, layouts, chosen, axes.keys() - chosen.keys(), trial.rows)
            try:
                got = trial.outcome(running, self._trained)
            except Exception:
                if len(kept) == len(axes):
                    raise
                return False  # what is not kept is read, by code that NaN breaks
            same = [equal(a, b, relative_gap, limit) for a, b in zip(want, got, strict=True)]
            return len(want) == len(got) and all(same)

        always = [k for k in axes if any(a.dtype.kind not in "fc" for a in found.dead[k].arrays)]
        for kept in self._guesses(found, list(axes), always):
            if holds(kept):
                kept = _fewer(kept, always, found, holds)
                skipped = frozenset(axes.keys() - set(kept))
                return Boundary(tuple(kept), skipped, axes)
        last = self._name(list(axes)[-1])
        raise CacheError(
            "with kept outputs of the frozen modules the model computes something else",
            context=f"the last frozen module is {last}; code between modules writes in place, or "
            "depends on which modules ran",
            hint="train without a cache, or freeze a part that ends elsewhere",
        )

    def _guesses(
        self, found: Observing, calls: list[CallKey], always: list[CallKey]
    ) -> list[list[CallKey]]:
        used = [k for k in calls if k in found.used or k in always]
        more = [k for k in calls if k in used or k in found.unused or k == calls[-1]]
        return [g for n, g in enumerate([used, more, calls]) if n == 2 or len(g) < len(calls)]

    def _kept_rows(
        self, found: Observing, axes: dict[CallKey, Any]
    ) -> tuple[dict[CallKey, Layout], dict[CallKey, list[Row]]]:
        layouts, rows, count = {}, {}, self._trial.rows
        for key, along in axes.items():
            seen = found.dead[key]
            layouts[key] = layout_of(seen.form, seen.likes, seen.arrays, along, count)
            rows[key] = layouts[key].cut(seen.arrays, count)
        return layouts, rows

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

    def _depends(self, key: CallKey) -> CacheError:
        return CacheError(
            f"{self._name(key)} is frozen, and what it returns for a row depends on other rows",
            context="as a norm by the statistics of the batch does; or rows do not lie on the "
            "first axis of the inputs",
            hint='set "norm_stats: hold" in the plan, or call model.eval()',
        )

    def _nothing(self, found: Observing) -> CacheError:
        breaks = breaks_prefix(self._backend, self._walk, found.order)
        return CacheError(
            NOTHING,
            context=f"{breaks} is trainable" if breaks else "gradient reaches every module",
            hint="freeze the modules that run first, such as embeddings or the stem",
        )


def _fewer(
    kept: list[CallKey], always: Sequence[CallKey], found: Observing, holds: Any
) -> list[CallKey]:
    """Leave calls out as long as the proof holds, large ones first."""
    size = {k: sum(a.nbytes for a in found.dead[k].arrays) for k in kept}
    left, piece = list(kept), max(1, len(kept) // 2)
    tries = 0
    while piece and tries < _MOST_TRIES:
        candidates = sorted((k for k in left if k not in always), key=lambda k: -size[k])
        for start in range(0, len(candidates), piece):
            without = set(candidates[start : start + piece])
            fewer = [k for k in left if k not in without]
            tries += 1
            if fewer and len(fewer) < len(left) and holds(fewer):
                left = fewer
        piece //= 2
    return left


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


def _is_known(hook: Any) -> bool:
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return str(module).split(".")[0] in ("unifreeze", "torch", "paddle") or str(module).startswith(
        "unifreeze_"
    )
