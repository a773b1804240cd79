"""Settings of an optimizer: its groups, the rate of a phase, and those of an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol


@dataclass(frozen=True)
class ParamGroup:
    """Parameters with one set of optimizer settings.

    Attributes:
        name: Its settings as text, such as "lrx0.1, decay 0".
        paths: Native paths, in canonical order.
        lr_scale: Factor on the learning rate.
        weight_decay: Weight decay, None for the optimizer's default.
    """

    name: str
    paths: tuple[str, ...]
    lr_scale: float
    weight_decay: float | None


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer that every framework has, with explicit settings."""

    name: Literal["adamw", "sgd"]
    lr: float
    weight_decay: float
    momentum: float = 0.0


class Rate(NamedTuple):
    """How a phase changes an optimizer's settings for one step.

    Attributes:
        factor: On the learning rate of every group.
        weight_decay: Instead of the optimizer's weight decay; None keeps that. Groups to which the
            plan gives a decay keep it.
        fresh: Identities of parameters that have just been unfrozen.
        fresh_factor: Another factor on the learning rate of `fresh`.
    """

    factor: float = 1.0
    weight_decay: float | None = None
    fresh: frozenset[int] = frozenset()
    fresh_factor: float = 1.0


class Control(Protocol):
    """What steers an optimizer: asked at each of its steps."""

    def begin_step(self) -> None:
        """Note that a step begins; called once for each step, just before it."""

    def rate(self) -> Rate:
        """Return the rate and weight decay of this step."""

    def warmed_sets(self) -> list[frozenset[int]]:
        """Return each set of parameters that will have another rate than the rest for a while."""

    def rebase(self, rate: float) -> None:
        """Go on from another learning rate, as if the optimizer had been built with it."""
