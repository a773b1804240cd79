"""Which of a model's layers get a guard in Paddle, and putting guards on a whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from paddle import nn

from unifreeze.backend import Guard, Layer, ModuleBackend, Resolution, Undo, Walk
from unifreeze_paddle import _checks as checks
from unifreeze_paddle import _guards as guards
from unifreeze_paddle import _half_frozen_layers as lending


@dataclass
class _Memo:
    """What is remembered of a walked model.

    Attributes:
        helped: Numbers of the layers that may need help, whatever the plan says.
        lent: Names of the parameters that layers are lent while everything is frozen.
    """

    helped: list[int] | None = None
    lent: dict[int, tuple[str, ...]] | None = None


class PaddleGuards(ModuleBackend):
    """Holds layers in inference mode, and helps kernels that fail on frozen parameters."""

    def wanted_guards(self, walk: Walk, resolution: Resolution) -> dict[int, Guard]:
        """Hold layers with state, turn off what the plan turns off, help kernels that need it."""
        still = set(resolution.held)
        still |= {n for n in resolution.quiet if not _plain_recurrent(walk.module(n))}
        flags = resolution.trainable.tolist()
        helped = set(self._kernels_to_help(walk))
        wanted = {}
        for index in sorted(still | helped):
            lend, attach = lending.needs(walk.module(index), walk.tree.numbers, flags)
            if lend or attach or index in still:
                wanted[index] = Guard(index in still, lend, attach)
        return wanted

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
        marked = {n: lending.guard_of(walk.module(n)) for n in self.having(walk, self.reader.mark)}
        return {n: guard for n, guard in marked.items() if guard}

    def set_guards(self, walk: Walk, guards_wanted: Mapping[int, Guard]) -> None:
        """Put exactly these guards on a model, and take off all others."""
        before = self.get_guards(walk)
        if before != guards_wanted:
            walk.memo.having.clear()  # before the first is put on: an interrupt may follow
        for index, guard in before.items():
            if guards_wanted.get(index) != guard:
                guards.take_off(walk.module(index))
        for index, guard in guards_wanted.items():
            if before.get(index) != guard:
                guards.put_on(walk.module(index), guard)


def _plain_recurrent(layer: Layer) -> bool:
    """Return whether a layer is recurrent without dropout: there is nothing to turn off."""
    return isinstance(layer, nn.layer.rnn.RNNBase) and not layer.dropout
