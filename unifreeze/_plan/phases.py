"""The phases of a training run: what trains in each, at which rate, and when it begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from unifreeze._plan.parts import Choice, NormStats, Rule
from unifreeze._plan.selectors import Selector
from unifreeze._tables import one_line
from unifreeze.errors import counted

TimeUnit = Literal["epoch", "step"]
BACKBONE = Selector("backbone")


@dataclass(frozen=True)
class At:
    """A phase begins at an epoch or step, counted from 0."""

    unit: TimeUnit
    count: int

    def __str__(self) -> str:
        return f"at {self.unit} {self.count}"


@dataclass(frozen=True)
class After:
    """A phase begins so many epochs or steps after the phase before it."""

    unit: TimeUnit
    count: int

    def __str__(self) -> str:
        return f"after {counted(self.count, self.unit)}"


@dataclass(frozen=True)
class When:
    """A phase begins when a metric has turned, counted from the beginning of the phase before it.

    Attributes:
        metric: Its name.
        turn: `stalled`: no report was better than the best by more than `min_delta`; `risen`: each
            report was worse than the report before it by more than `min_delta`.
        reports: For so many reports in a row.
        min_delta: A change up to this size counts as no change.
        mode: `min` if smaller values are better, `max` if larger ones are.
    """

    metric: str
    turn: Literal["stalled", "risen"]
    reports: int
    min_delta: float = 0.0
    mode: Literal["min", "max"] = "min"

    def __str__(self) -> str:
        turned = "stalled" if self.turn == "stalled" else "got worse"
        return f"when {self.metric} has {turned} for {self.reports}"


PhaseEntry = At | After | When
"""When a phase begins."""


@dataclass(frozen=True)
class Smallest:
    """Parameters to freeze by what was measured in the phase before.

    Attributes:
        share: Percent of the candidates that are frozen after this phase begins; those that are
            frozen already count. Candidates with the smallest ratio of the gradient's norm to the
            weight's norm are frozen first.
        of: The candidates; the head is never frozen.
    """

    share: int
    of: Choice = BACKBONE


@dataclass(frozen=True)
class WarmUp:
    """A lower learning rate at first for the parameters that a phase has just unfrozen.

    Attributes:
        steps: Optimizer steps until the whole rate is reached; it rises linearly.
        divisor: The rate is divided by this at first; None to begin at `1 / steps` of it.
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


class Shape(Protocol):
    """The questions that a generator asks about a network."""

    def count(self, units: str, within: str) -> int:
        """Return how many blocks, stages, … a submodule has; "" is the whole model."""

    def has(self, selector: str) -> bool:
        """Return whether a selector selects anything."""


class Generator(Protocol):
    """Something that stands for several phases.

    Attributes:
        key: Its name in plan files.
    """

    key: ClassVar[str]

    def phases(self, shape: Shape, *, first: bool) -> Iterator[Phase]:
        """Yield the phases, without names.

        Args:
            shape: The network.
            first: True if the run begins with them; otherwise they follow another phase.
        """


@dataclass(frozen=True)
class Phase:
    """One phase of a run, or several that a generator makes.

    Attributes:
        name: What it is called.
        entry: When it begins; None for the first.
        rules: Its rules, after those of the plan; None to go on from the phase before it.
        like: Name of an earlier phase to go on from instead.
        add: Rules added to those.
        freeze_smallest: What is frozen by measurement when it begins.
        norm_stats: What running statistics do from now on; None as before.
        lr: Base learning rate from now on; None as before.
        weight_decay: Weight decay from now on; None as before.
        warmup: A lower rate for the parameters that have just been unfrozen.
        restore_best: It begins from the best values that the phase before it had.
        stop: Training ends here.
        generator: Makes several phases in place of this one. The first of them gets this phase's
            entry and settings; `warmup` and `restore_best` hold for each of them.
    """

    name: str
    entry: PhaseEntry | None = None
    rules: tuple[Rule, ...] | None = None
    like: str = ""
    add: tuple[Rule, ...] = ()
    freeze_smallest: Smallest | None = None
    norm_stats: NormStats | None = None
    lr: float | None = None
    weight_decay: float | None = None
    warmup: WarmUp | None = None
    restore_best: bool = False
    stop: bool = False
    generator: Generator | None = None

    def __repr__(self) -> str:
        return one_line(self, f"{self.name!r} {self.entry or 'at once'}")


@dataclass(frozen=True)
class PhaseSettings:
    """The settings of a phase, with those that it takes over from earlier phases.

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
) -> list[PhaseSettings]:
    """Return the settings of each phase.

    Args:
        phases: The phases.
        rules: The plan's own rules, which come first in every phase.
        norm_stats: The plan's own policy.
    """
    settings: list[PhaseSettings] = []
    rules_of: dict[str, tuple[Rule, ...]] = {}
    last = PhaseSettings(rules, norm_stats)
    last_rules: tuple[Rule, ...] = ()
    for phase in phases:
        start = phase.rules if phase.rules is not None else rules_of.get(phase.like, last_rules)
        last_rules = rules_of[phase.name] = (*start, *phase.add)
        last = PhaseSettings(
            (*rules, *last_rules),
            last.norm_stats if phase.norm_stats is None else phase.norm_stats,
            last.lr if phase.lr is None else phase.lr,
            last.weight_decay if phase.weight_decay is None else phase.weight_decay,
        )
        settings.append(last)
    return settings
