"""Which of a model's layers get a guard in Paddle, and putting guards on a whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from paddle import nn

from unifreeze.backend import Guard, Layer, Mask, ModuleBackend, Resolution, Undo, Walk
from unifreeze_paddle import _checks as checks
from unifreeze_paddle import _guards as guards
from unifreeze_paddle import _half_frozen_layers as lending
from unifreeze_paddle._kernel_tables import KernelTable, kernel_tables


@dataclass
class _Memo:
    """What is remembered of a walked model.

    Attributes:
        helped: Numbers of the layers that may need help, whatever the plan says.
        lent: Names of the parameters that layers are lent while everything is frozen.
        marked: The layers that had a mark when guards were last read.
        guards: The guards that they had.
        kernels: The layers that may need help, and the parameters that they compute with.
        flags: The flags under which needs were last looked up.
        needs: What each layer had to lend under them, and whether its input had to be attached.
    """

    helped: list[int] | None = None
    marked: list[int] | None = None
    guards: dict[int, Guard] = field(default_factory=dict)
    kernels: list[KernelTable] | None = None
    flags: Mask | None = None
    needs: dict[int, tuple[tuple[str, ...], bool]] = field(default_factory=dict)
    lent: dict[int, tuple[str, ...]] | None = None


class PaddleGuards(ModuleBackend):
    """Holds layers in inference mode, and helps kernels that fail on frozen parameters."""

    def wanted_guards(self, walk: Walk, resolution: Resolution) -> dict[int, Guard]:
        """Hold layers with state, turn off what the plan turns off, help kernels that need it."""
        still = set(resolution.held)
        still |= {n for n in resolution.quiet if not _plain_recurrent(walk.module(n))}
        needs = self._needs(walk, resolution.trainable)
        flags = resolution.trainable.tolist()
        for index in still.difference(needs):
            needs[index] = lending.needs(walk.module(index), walk.tree.numbers, flags)
        return {
            index: Guard(index in still, lend, attach)
            for index, (lend, attach) in sorted(needs.items())
            if lend or attach or index in still
        }

    def _needs(self, walk: Walk, trainable: Mask) -> dict[int, tuple[tuple[str, ...], bool]]:
        """Return what the layers need that may need help.

        From phase to phase few flags change, so only the layers that compute with those parameters
        are looked at again.
        """
        memo = walk.memo_of(_Memo)
        if memo.kernels is None:
            memo.kernels = kernel_tables(walk)
        changed = None if memo.flags is None else memo.flags != trainable
        memo.flags = None  # an interrupt may follow
        for table in memo.kernels:
            memo.needs.update(table.needs(trainable, changed))
        memo.flags = trainable
        return dict(memo.needs)

    def _kernels_to_help(self, walk: Walk) -> list[int]:
        """Return the layers that may need help, whatever the plan is."""
        memo = walk.memo_of(_Memo)
        if memo.helped is None:
            sorts = [numbers for cls, numbers in walk.by_class.items() if lending.may_need(cls)]
            memo.helped = sorted(chain.from_iterable(sorts))
        return memo.helped

    def flag_guards(self, walk: Walk, *, trainable: bool) -> Undo | None:
        """Lend what kernels need while everything is frozen, so that gradient passes."""
        checks.refuse_traced(walk, "change its flags for a while")
        if trainable:
            return None
        memo = walk.memo_of(_Memo)
        if memo.lent is None:
            numbers, frozen = walk.tree.numbers, [False] * len(walk.tensors)
            layers = {n: walk.module(n) for n in self._kernels_to_help(walk)}
            needs = {n: lending.needs(layer, numbers, frozen)[0] for n, layer in layers.items()}
            memo.lent = {n: names for n, names in needs.items() if names}
        before = self.get_guards(walk)
        wanted = dict(before)
        for index, names in memo.lent.items():
            wanted[index] = before.get(index, Guard())._replace(lend=names)
        self.set_guards(walk, wanted)
        return lambda: self.set_guards(walk, before)

    def help_backward(self, walk: Walk) -> None:
        """Help the layers that a backward pass would fail or crash in; norms stay as they are."""
        flags, before = self.flags_now(walk).tolist(), self.get_guards(walk)
        wanted = dict(before)
        for index in self._kernels_to_help(walk):
            layer = walk.module(index)
            lend, attach = lending.needs(layer, walk.tree.numbers, flags)
            lend = lend if isinstance(layer, lending.WHOLE) else ()
            if lend or attach:
                guard = before.get(index, Guard())
                names = tuple(dict.fromkeys((*guard.lend, *lend)))
                wanted[index] = guard._replace(lend=names, attach=guard.attach or attach)
        if wanted != before:
            checks.refuse_traced(walk, "run it backward on the flags that it has")
            self.set_guards(walk, wanted)

    def get_guards(self, walk: Walk) -> dict[int, Guard]:
        """Return the guards that are on a model's layers now."""
        memo, marked = walk.memo_of(_Memo), self.having(walk, self.reader.mark)
        if memo.marked is not marked:  # a list of its own for every look at the model
            guards = {n: lending.guard_of(walk.module(n)) for n in marked}
            memo.guards = {n: guard for n, guard in guards.items() if guard}
            memo.marked = marked
        return dict(memo.guards)

    def is_still(self, module: Layer) -> bool:
        """Return whether a layer that is held is still held."""
        return guards.is_still(module)

    def set_guards(self, walk: Walk, guards_wanted: Mapping[int, Guard]) -> None:
        """Put exactly these guards on a model, and take off all others."""
        before = self.get_guards(walk)
        if before != guards_wanted:
            walk.memo.having.clear()  # before the first is put on: an interrupt may follow
        for index, guard in before.items():
            if guards_wanted.get(index) != guard:
                guards.take_off(walk.module(index))
        for index, guard in guards_wanted.items():
            layer = walk.module(index)
            if before.get(index) != guard or (guard.still and not guards.is_still(layer)):
                guards.put_on(layer, guard)


def _plain_recurrent(layer: Layer) -> bool:
    """Return whether a layer is recurrent without dropout: there is nothing to turn off."""
    return isinstance(layer, nn.layer.rnn.RNNBase) and not layer.dropout
