"""Freeze a part of a model for a while, on top of the plans in force."""

from __future__ import annotations

from collections.abc import Mapping

from unifreeze._modules.guard import Guard
from unifreeze._modules.module_operations import ModuleOperations
from unifreeze._modules.walking import Walk
from unifreeze._protocol.live import LiveTensor
from unifreeze._protocol.results import Undo
from unifreeze._resolution import Resolution


def freeze_briefly(on: ModuleOperations, walk: Walk, resolution: Resolution) -> Undo:
    """Freeze what a resolution freezes and trains now, and hold what it holds.

    Gradients of these parameters are set aside, so that no optimizer applies them. Undoing changes
    nothing else: a plan that ends meanwhile is not brought back.
    """
    now = zip(walk.tensors, on.get_flags(walk.tensors), resolution.trainable.tolist(), strict=True)
    frozen = [tensor for tensor, flag, wanted in now if flag and not wanted]
    before = on.get_guards(walk)
    guards = _merged(before, on.wanted_guards(walk, resolution))
    changed = {n: before.get(n) for n, guard in guards.items() if guard != before.get(n)}
    laid_aside: list[tuple[LiveTensor, LiveTensor]] = []

    def undo() -> None:
        for tensor, gradient in laid_aside:
            on.set_flag(tensor, True)
            on.set_gradient(tensor, gradient)
        kept = {n: guard for n, guard in on.get_guards(walk).items() if n not in changed}
        on.set_guards(walk, kept | {n: guard for n, guard in changed.items() if guard})

    try:
        for tensor in frozen:
            laid_aside.append((tensor, on.kept_gradient(tensor)))
            on.set_gradient(tensor, None)
            on.set_flag(tensor, False)
        on.set_guards(walk, guards)
    except BaseException:
        undo()
        raise
    return undo


def _merged(before: Mapping[int, Guard], wanted: Mapping[int, Guard]) -> dict[int, Guard]:
    """Combine two sets of guards; the parameters that a layer lends depend on the flags alone."""
    guards = dict(before)
    for number, guard in wanted.items():
        present = before.get(number, Guard())
        guards[number] = guard._replace(still=present.still or guard.still, copied=present.copied)
    return guards
