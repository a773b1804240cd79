"""The frozen parts of a run: one for each way in which the model, or a part of it, is called."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from unifreeze._cache.dropped_weights import AbsentWeights
from unifreeze._cache.extending import may_extend
from unifreeze._cache.faster_prefix import EXACT, FasterPrefix
from unifreeze._cache.frozen_part import FrozenPart, find_frozen_part
from unifreeze._cache.input_rows import Inputs
from unifreeze._cache.module_calls import Forward, ModuleCalls
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.row_store import RowStore
from unifreeze._cache.soundness import NOTHING
from unifreeze._cache.stored_replays import store_replay, stored_part
from unifreeze._modules.walking import Walk
from unifreeze.errors import CacheError, UnifreezeWarning

_MOST_EARLIER = 8
_Context: TypeAlias = tuple[int, str, bytes, str, str]
"""The module that is called, what is switched on, the modes of modules, and the inputs' form."""


class KnownParts:
    """Finds the frozen part of each context once, and opens its rows.

    Attributes:
        why_not: By context, why outputs are not kept in it.
        accepted: True once a frozen part was found.
        unproved: Groups of rows that nobody has compared yet with what the model computes now.
        faster: The faster way in which frozen modules run; None if they run as they are.
    """

    def __init__(
        self,
        backend: CacheOperations,
        store: RowStore,
        *,
        dtype: str,
        plan: str,
        prefix: str = EXACT,
        phased: bool = False,
        folder: Path | None = None,
    ) -> None:
        """Begin.

        Args:
            backend: The model's backend.
            store: Where rows are kept.
            dtype: The type in which floating values are stored.
            plan: The plan, as YAML.
            prefix: In which way frozen modules run.
            phased: True if the plan has phases, in some of which nothing may be frozen.
            folder: Where rows are, if they are in a folder.
        """
        self._phased, self._folder = phased, folder
        self.faster = None if prefix == EXACT else FasterPrefix(backend, prefix)
        self.why_not: dict[_Context, str] = {}
        self.accepted = False
        self.unproved: set[str] = set()
        self._backend, self._store, self._dtype, self._plan = backend, store, dtype, plan
        self._parts: dict[_Context, FrozenPart | None] = {}
        self._earlier: list[FrozenPart] = []

    def __iter__(self) -> Iterator[FrozenPart]:
        """Yield the frozen parts of now."""
        return (part for part in self._parts.values() if part is not None)

    def forget(self) -> None:
        """Begin anew, because flags or modules have changed."""
        self._earlier = [*self._earlier, *self][-_MOST_EARLIER:]
        self._parts.clear()
        self.why_not.clear()
        self.drop_copies()

    def drop_copies(self) -> None:
        """Let go of copies of weights that a faster way to run modules holds."""
        if self.faster is not None:
            self.faster.forget()

    def part(
        self,
        walk: Walk,
        calls: ModuleCalls,
        entry: int,
        forward: Forward,
        inputs: Inputs,
        away: AbsentWeights | None,
    ) -> FrozenPart | None:
        """Return the frozen part in the present context; None if its outputs cannot be kept.

        Args:
            walk: The model as walked.
            calls: Its calls.
            entry: The number of the module that is called from outside: 0 for the model.
            forward: That module's forward function.
            inputs: Its inputs.
            away: Frozen weights that have no values now, so that nothing can be tried.

        Raises:
            CacheError: No outputs can be kept, in the first context of all; or weights have no
                values, and no rows stand for them.
        """
        backend = self._backend
        about, context = self._context(walk, entry, inputs)
        if context not in self._parts and away is not None:
            part = stored_part(
                self._folder, backend, walk, away, entry=entry, about=about, dtype=self._dtype
            )
            self._take(walk, calls, context, part)
        elif context not in self._parts:
            try:
                part = find_frozen_part(
                    backend, walk, calls, forward, inputs,
                    context=about, dtype=self._dtype, entry=entry,
                )  # fmt: skip
            except CacheError as error:
                self._refuse(context, entry, error)
            else:
                self._take(walk, calls, context, part)
        return self._parts[context]

    def learned(self, walk: Walk, part: FrozenPart) -> None:
        """Note that inputs of a new form were met: a later run may need to know how they go."""
        if self._folder is not None:
            store_replay(self._folder, self._backend, walk, part)
            if self.faster is not None:
                self._store.describe(part.group, self._describe(walk, part))

    def _context(self, walk: Walk, entry: int, inputs: Inputs) -> tuple[str, _Context]:
        backend = self._backend
        gradient = "gradient" if backend.gradient_enabled() else "no gradient"
        reaches = any(map(backend.requires_gradient, inputs.tensors))
        about = f"{gradient} {reaches} {backend.precision_in_force()}"
        if self.faster is not None:  # rows of one way are never given back as those of another
            about += f" prefix {self.faster.kind}"
        kinds = " ".join(f"{t.dtype}{len(t.shape)}" for t in inputs.tensors)
        modes = bytes(map(bool, backend.modes(walk)))
        return about, (entry, about, modes, inputs.form.text, kinds)

    def _refuse(self, context: _Context, entry: int, error: CacheError) -> None:
        # The head of a model that is called in parts has nothing frozen before it.
        quiet = error.fact == NOTHING and (entry or self._phased)
        if not (self.accepted or quiet):
            raise error
        self._parts[context] = None
        self.why_not[context] = error.fact
        if not quiet:
            warnings.warn(
                f"from here on nothing is cached: {error}", UnifreezeWarning, stacklevel=7
            )

    def _take(self, walk: Walk, calls: ModuleCalls, context: _Context, part: FrozenPart) -> None:
        part.faster = self.faster
        if self.faster is not None:
            self.faster.begin(walk, calls)
        if self._store.open(part.group, self._describe(walk, part)):
            self.unproved.add(part.group)
        if self.faster is None:
            earlier = self._earlier
            part.bases = [old for old in earlier if may_extend(self._backend, walk, old, part)]
        self._parts[context], self.accepted = part, True

    def _describe(self, walk: Walk, part: FrozenPart) -> dict[str, Any]:
        """Return what a folder of rows says of them."""
        exact = "where batch size and padded length repeat, on the same machine"
        if self._dtype != "float32":
            exact = f"no: rounded to {self._dtype}"
        if self.faster is not None:
            also = f"; {exact.removeprefix('no: ')}" if self._dtype != "float32" else ""
            exact = f"no: {self.faster.effect()}{also}"
        return {
            "model": type(walk.root).__name__,
            "plan": self._plan,
            "framework": self._backend.version(),
            "weights": part.watch.digest,
            "outputs_of": tuple(part.kept_at),
            "dtype": self._dtype,
            "prefix": EXACT if self.faster is None else self.faster.kind,
            "exact": exact,
        }
