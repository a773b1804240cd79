"""The phases of a training run: what trains in each, at which rate, and when it begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unifreeze._plan.selectors import Selector
from unifreeze._tables import one_line

if TYPE_CHECKING:
    from unifreeze._plan.generators import Generator
    from unifreeze._plan.parts import Choice, NormStats, Rule

Unit = Literal["epoch", "step"]
BACKBONE = Selector("backbone")


@dataclass(frozen=True)
class At:
    """A phase begins at an epoch or step, counted from 0."""

    unit: Unit
    count: int

    def __str__(self) -> str:
        return f"at {self.unit} {self.count}"


@dataclass(frozen=True)
class After:
    """A phase begins so many epochs or steps after the one before it."""

    unit: Unit
    count: int

    def __str__(self) -> str:
        return f"after {self.count} {self.unit}{'s' if self.count != 1 else ''}"


@dataclass(frozen=True)
class When:
    """A phase begins when a metric has turned, counted from the beginning of the one before it.

    Attributes:
        metric: Its name.
        turn: `stalled`: no report was better than the best by more than `min_delta`; `risen`: each
            was worse than the one before it by more than that.
        reports: For so many reports in a row.
        min_delta: What is not a difference.
        mode: Whether less is better, or more.
    """

    metric: str
    turn: Literal["stalled", "risen"]
    reports: int
    min_delta: float = 0.0
    mode: Literal["min", "max"] = "min"

    def __str__(self) -> str:
        what = "stalled" if self.turn == "stalled" else "got worse"
        return f"when {self.metric} has {what} for {self.reports}"


Entry = At | After | When


@dataclass(frozen=True)
class Smallest:
    """Parameters to freeze by what was measured in the phase before.

    Attributes:
        share: How many of those that may be frozen then are, in percent, with what is already: the
            ones with the smallest ratio of the gradient's norm to the weight's.
        of: What may be frozen; the head never is.
    """

    share: int
    of: Choice = BACKBONE


@dataclass(frozen=True)
class WarmUp:
    """A lower learning rate, at first, for what a phase has just unfrozen.

    Attributes:
        steps: Steps of the optimizer until it has the whole rate; it rises evenly.
        divisor: The rate is divided by this at first; None to begin at one step's share of it.
    """

    steps: int
    divisor: float | None = None

    def factor(self, taken: int) -> float:
        """Return the factor on the rate after so many steps of the phase."""
        if taken >= self.steps:
            return 1.0
        if self.divisor is None:
            return (taken + 1) / self.steps
        return (1 + (self.divisor - 1) * taken / self.steps) / self.divisor


@dataclass(frozen=True)
class Phase:
    """One phase of a run, or several that a generator makes.

    Attributes:
        name: What it is called.
        entry: When it begins; None for the first.
        rules: Its rules, behind those of the plan; None to go on from the phase before it.
        like: Name of an earlier phase to go on from instead.
        add: Rules added to those.
        norm_stats: What running statistics do from now on; None as before.
        lr: Base learning rate from now on; None as before.
        weight_decay: Weight decay from now on; None as before.
        stop: Training ends here.
        warmup: A lower rate for what has just been unfrozen.
        restore_best: It begins from the best values that the phase before it had.
        freeze_smallest: What is frozen by measurement when it begins.
        generator: What makes several phases in its place; its entry and settings are then the
            first one's, and `warmup` and `restore_best` hold for each.
    """

    name: str
    entry: Entry | None = None
    rules: tuple[Rule, ...] | None = None
    like: str = ""
    add: tuple[Rule, ...] = ()
    norm_stats: NormStats | None = None
    lr: float | None = None
    weight_decay: float | None = None
    stop: bool = False
    warmup: WarmUp | None = None
    restore_best: bool = False
    freeze_smallest: Smallest | None = None
    generator: Generator | None = None

    def __repr__(self) -> str:
        return one_line(self, f"{self.name!r} {self.entry or 'at once'}")


@dataclass(frozen=True)
class Settings:
    """What holds in a phase, earlier ones taken into account.

    Attributes:
        rules: All rules that are in force.
        norm_stats: What running statistics do.
        lr: Base learning rate; None for the optimizer's own.
        weight_decay: Weight decay; None for the optimizer's own.
    """

    rules: tuple[Rule, ...]
    norm_stats: NormStats
    lr: float | None = None
    weight_decay: float | None = None


def settings_of(
    phases: tuple[Phase, ...], rules: tuple[Rule, ...], norm_stats: NormStats
) -> list[Settings]:
    """Return what holds in each phase.

    Args:
        phases: The phases.
        rules: The plan's own rules, which come first in every phase.
        norm_stats: The plan's own policy.
    """
    made: list[Settings] = []
    own: dict[str, tuple[Rule, ...]] = {}
    last = Settings(rules, norm_stats)
    last_own: tuple[Rule, ...] = ()
    for phase in phases:
        start = phase.rules if phase.rules is not None else own.get(phase.like, last_own)
        last_own = own[phase.name] = (*start, *phase.add)
        last = Settings(
            (*rules, *last_own),
            last.norm_stats if phase.norm_stats is None else phase.norm_stats,
            last.lr if phase.lr is None else phase.lr,
            last.weight_decay if phase.weight_decay is None else phase.weight_decay,
        )
        made.append(last)
    return made
