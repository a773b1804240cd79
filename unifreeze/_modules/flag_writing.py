"""Write decisions into a live model: flags, guards and no stale gradients, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import NamedTuple

import numpy as np

from unifreeze._modules.agreement import Agreements, described
from unifreeze._modules.frozen_for_a_while import freeze_briefly
from unifreeze._modules.guard import Guard
from unifreeze._modules.held_rows import HeldRows, Rows
from unifreeze._modules.live_models import LiveModels
from unifreeze._modules.walking import Walk
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.results import Undo
from unifreeze._protocol.uninterrupted import uninterrupted
from unifreeze._resolution import Resolution
from unifreeze._structure import Mask
from unifreeze.errors import UnifreezeError, WriteError, counted, listing


class Written(NamedTuple):
    """How a model was before a write."""

    flags: Mask
    guards: dict[int, Guard]
    rows: dict[int, Rows]
    gradients: list[tuple[LiveTensor, LiveTensor]]
    text: Callable[[], str]


class FlagWriting(LiveModels):
    """Writes flags and guards, reads them back, and takes them off again.

    Attributes:
        held_rows: The tables of which only some rows train; None if the framework has no way to.
    """

    held_rows: HeldRows | None = None

    def __init__(self) -> None:
        super().__init__()
        self.agreements = Agreements()

    def write(
        self, model: Model, resolution: Resolution, found: Mapping[int, Guard] | None = None
    ) -> Undo:
        """Write the decisions, all or nothing: flags, held state, and no stale gradients.

        Raises:
            WriteError: The framework refused, or a flag did not read back; all is as before.
        """
        walk = self.walk(model)
        wanted = resolution.trainable
        text = self.agreements.text_on(walk.root)
        written = Written(
            self.flags_now(walk), self.get_guards(walk), self.rows_now(walk), [], text
        )
        try:
            self._write_flags(walk, wanted)
            self._hold_rows(walk, resolution, written)
            given_back = _by_number(walk, found or {})
            self.set_guards(walk, self.guards_for(walk, resolution) | given_back)
            self._drop_gradients(walk, ~wanted | ~written.flags, written)
            self._read_back(walk, wanted)
            self._follow(walk, written.flags, partial(described, resolution, wanted))
            return partial(self._restore, walk, written, gradients=False)
        except BaseException as error:
            with uninterrupted():
                walk.memo.flags = None
                self.set_guards(walk, {})  # one of them may be half on
                self._restore(walk, written, gradients=True)
            if isinstance(error, UnifreezeError) or not isinstance(error, Exception):
                raise
            raise WriteError(
                f"{self.name} refused to write the plan: {error}", context="nothing was changed"
            ) from error

    def _hold_rows(self, walk: Walk, resolution: Resolution, written: Written) -> None:
        """Let only some rows of a table train, and drop gradients that other rows have left."""
        trained = [row for row in resolution.rows if resolution.trainable[row.number]]
        wanted = {row.number: Rows(row.start, row.stop) for row in trained}
        if self.held_rows is None or wanted == written.rows:
            return
        self.held_rows.hold(walk.tensors, wanted)
        for number, rows in wanted.items():
            tensor = walk.tensors[number]
            gradient = self.get_gradient(tensor)
            if gradient is not None:
                written.gradients.append((tensor, self.kept_gradient(tensor)))
                self.set_gradient(tensor, self.held_rows.masked(gradient, rows))

    def rows_now(self, walk: Walk) -> dict[int, Rows]:
        """Return by its number the rows that train, for each table of which only some do."""
        return {} if self.held_rows is None else self.held_rows.now(walk.tensors)

    def guards(self, model: Model) -> dict[int, Guard]:
        """Return what modules do differently now because a plan asked for it, by identity."""
        walk = self.walk(model)
        return {walk.tree.keys[n]: guard for n, guard in self.get_guards(walk).items()}

    def guards_for(self, walk: Walk, resolution: Resolution) -> dict[int, Guard]:
        """Return the guards that a resolution wants; those of the last one are remembered."""
        last = walk.memo.guards
        if last is None or last[0] is not resolution:
            guards, covered = self.wanted_guards(walk, resolution), resolution.covered
            if covered is not None:
                guards = {n: guard for n, guard in guards.items() if covered[n]}
            last = walk.memo.guards = resolution, guards
        return last[1]

    def unheld(self, model: Model, resolution: Resolution) -> list[str]:
        """Return the paths of layers that should hold still under a resolution and do not."""
        walk = self.walk(model)
        on, wanted = self.get_guards(walk), self.guards_for(walk, resolution)
        return [walk.tree.paths[n] for n, guard in wanted.items() if guard.still and n not in on]

    def released(self, model: Model, still: Set[int]) -> list[str]:
        """Return the paths of layers that were held, and that run in training mode again."""
        if not still:
            return []
        walk = self.walk(model)
        on = self.get_guards(walk)
        held = [n for n, key in enumerate(walk.tree.keys) if key in still]
        return [
            walk.tree.paths[n]
            for n in held
            if not (n in on and on[n].still and self.is_still(walk.module(n)))
        ]

    def _write_flags(self, walk: Walk, wanted: Mask) -> None:
        wanted = np.asarray(wanted)
        different = np.flatnonzero(wanted != self.flags_now(walk))
        if len(different):
            walk.memo.flags = None  # before the first is written: an interrupt may follow
        tensors, set_flag, flags = walk.tensors, self.set_flag, wanted[different].tolist()
        for number, trainable in zip(different.tolist(), flags, strict=True):
            set_flag(tensors[number], trainable)

    def _drop_gradients(self, walk: Walk, stale: Mask, written: Written) -> None:
        """Drop old gradients of tensors that are frozen or newly trained."""
        gradients = list(map(self.get_gradient, walk.tensors))
        if {*map(type, gradients)} <= {type(None)}:
            return
        for tensor, gradient, drop in zip(walk.tensors, gradients, stale.tolist(), strict=True):
            if drop and gradient is not None:
                written.gradients.append((tensor, self.kept_gradient(tensor)))
                self.set_gradient(tensor, None)

    def _read_back(self, walk: Walk, wanted: Mask) -> None:
        now = self.flags_now(walk)
        if not np.array_equal(now, wanted):
            paths = walk.first_paths()
            wrong = [paths[n] for n in np.flatnonzero(now != wanted)]
            raise WriteError(
                f"{len(wrong)} of {counted(len(wanted), 'flag')} did not read back as written",
                context=listing(wrong),
                hint="something else sets these flags; the model was left as it was",
            )

    def _follow(self, walk: Walk, before: Mask, text: Callable[[], str]) -> None:
        """Let what exchanges gradients between processes follow the flags, and compare them."""
        changed = np.flatnonzero(before != self.flags_now(walk)).tolist()
        if changed:
            self.rebuild_exchange(walk, [walk.tensors[number] for number in changed])
        self.agreements.note(self, walk.root, text)

    def agree_later(self, model: Model) -> None:
        """Compare at the next pass of training what was written before there were others."""
        self.agreements.watch(self, self.root(model))

    def _restore(self, walk: Walk, written: Written, *, gradients: bool) -> None:
        now = self.flags_now(walk)
        if not gradients:
            # A gradient from when a parameter was frozen must not be added to its next gradient.
            self._drop_gradients(walk, written.flags & ~self.flags_now(walk), written)
        self._write_flags(walk, written.flags)
        if self.held_rows is not None:
            self.held_rows.hold(walk.tensors, written.rows)
        self.set_guards(walk, written.guards)
        if gradients:
            for tensor, gradient in written.gradients:
                self.set_gradient(tensor, gradient)
        self._follow(walk, now, written.text)

    def read(self, model: Model) -> dict[str, bool]:
        """Return for each parameter whether it is trainable now."""
        walk = self.walk(model)
        return dict(zip(walk.first_paths(), self.get_flags(walk.tensors), strict=True))

    def flags(self, model: Model, *, trainable: bool) -> Undo:
        """Set every parameter's flag, cheaply; gradient still flows through the model."""
        walk = self.walk(model)
        changed = [tensor for tensor in walk.tensors if self.get_flag(tensor) != trainable]
        if trainable:
            rows = zip(walk.tensors, walk.tree.tensors, strict=True)
            fixed = {id(tensor) for tensor, row in rows if row.fixed}
            changed = [tensor for tensor in changed if id(tensor) not in fixed]
        guards = self.flag_guards(walk, trainable=trainable)
        moved = [] if trainable or self.skips_frozen else changed
        laid_aside = [(tensor, self.kept_gradient(tensor)) for tensor in moved]
        for tensor, _ in laid_aside:
            self.set_gradient(tensor, None)
        for tensor in changed:
            self.set_flag(tensor, trainable)

        def undo() -> None:
            for tensor in changed:
                self.set_flag(tensor, not trainable)
            for tensor, gradient in laid_aside:
                self.set_gradient(tensor, gradient)
            if guards:
                guards()

        return undo

    def freeze_briefly(self, model: Model, resolution: Resolution) -> Undo:
        """Freeze for a while what a resolution freezes, on top of the plans in force."""
        return freeze_briefly(self, self.walk(model), resolution)


def _by_number(walk: Walk, guards: Mapping[int, Guard]) -> dict[int, Guard]:
    """Return guards by the numbers that their modules have now."""
    if not guards:
        return {}
    return {n: guards[key] for n, key in enumerate(walk.tree.keys) if key in guards}
