"""A guard: how one module behaves differently while a plan is in force."""

from __future__ import annotations

from typing import NamedTuple


class Guard(NamedTuple):
    """How one module behaves differently while a plan is in force.

    Attributes:
        still: It runs in inference mode, so that its state holds.
        lend: Names of its frozen parameters that it must see as if gradient passed through them.
        attach: Its input must take part in the gradient though nothing below trains.
        copied: It came with a copy of a model under a plan, and lets go when the copy is thawed.
    """

    still: bool = False
    lend: tuple[str, ...] = ()
    attach: bool = False
    copied: bool = False
