"""Generators of phases: common schedules, written in one line instead of many phases.

A generator only asks the model how many blocks it has, and what its selectors select.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from unifreeze._plan.parts import Choice, Rule, Verb
from unifreeze._plan.phases import (
    BACKBONE,
    After,
    Phase,
    PhaseEntry,
    Shape,
    Smallest,
    When,
)
from unifreeze._plan.selectors import Selector
from unifreeze.errors import SelectorRangeError

Units = Literal["blocks", "stages", "encoder", "decoder"]


@dataclass(frozen=True)
class GradualUnfreezing:
    """Unfreezes one more unit each time, from the head down (Howard & Ruder 2018, ULMFiT).

    Attributes:
        every: Time between two phases.
        by: What is unfrozen at a time.
        within: The submodule they are in; "" for the whole model.
        upto: How many units; None for all, and after them whatever is left.
    """

    key: ClassVar[str] = "gradual_unfreezing"
    every: After
    by: Units = "blocks"
    within: str = ""
    upto: int | None = None

    def phases(self, shape: Shape, *, first: bool) -> Iterator[Phase]:
        """Yield the phases, without names."""
        count = _enough(self.upto or 1, shape.count(self.by, self.within), self.by)
        units = [f"{self.by}[-{number}]" for number in range(1, (self.upto or count) + 1)]
        rules = [_rule("train", unit, self.within) for unit in units]
        if shape.has(_in("neck", self.within)):
            top = f"{_in('neck', self.within)} | {_in(units[0], self.within)}"
            rules[0] = _rule("train", top)
        if self.upto is None:
            rules.append(_rule("train", "all", self.within))
        yield from _from_the_head_down(rules, self.every, shape, self.within, first=first)


@dataclass(frozen=True)
class Adaptive:
    """Trains a further share of the parameters, from the head down, each time a metric stalls.

    Attributes:
        share: How much more each time, in percent of the parameters.
        when: The change of a metric that it waits for.
    """

    key: ClassVar[str] = "adaptive"
    share: int
    when: When

    def phases(self, shape: Shape, *, first: bool) -> Iterator[Phase]:
        """Yield the phases, without names."""
        shares = range(100 - self.share, 0, -self.share)
        # In a model with few parameters, a share may contain none of them.
        frozen_shares = [frozen for frozen in shares if shape.has(f"params[:{frozen}%]")]
        rules = [_rule("train", f"params[{frozen}%:]") for frozen in frozen_shares]
        rules.append(_rule("train", "all"))
        yield from _from_the_head_down(rules, self.when, shape, "", first=first)


@dataclass(frozen=True)
class ByGradient:
    """Freezes a further share each time: the smallest gradients relative to their weights.

    Attributes:
        every: Time between two phases.
        share: How much more each time, in percent of the parameters that may be frozen.
        times: How often.
        of: What may be frozen; the head is never frozen.
    """

    key: ClassVar[str] = "by_gradient"
    every: After
    share: int
    times: int = 1
    of: Choice = BACKBONE

    def phases(self, shape: Shape, *, first: bool) -> Iterator[Phase]:
        """Yield the phases, without names."""
        if first:
            yield Phase("", rules=(_rule("train", "all"),))
        for number in range(1, self.times + 1):
            yield Phase("", self.every, freeze_smallest=Smallest(self.share * number, self.of))


@dataclass(frozen=True)
class Lisa:
    """Trains some random blocks for a while, then other blocks (Pan et al. 2024).

    What is not a block trains all the time. SHA-256 of the seed, the period and the block's number
    decides which blocks train, so that the choice is the same in every framework and release.

    Attributes:
        blocks: How many train at a time.
        every: How long they train.
        periods: How often blocks are chosen.
        seed: Seed of the choice.
        by: The units to choose from.
        within: The submodule they are in; "" for the whole model.
    """

    key: ClassVar[str] = "lisa"
    blocks: int
    every: After
    periods: int
    seed: int = 0
    by: Units = "blocks"
    within: str = ""

    def phases(self, shape: Shape, *, first: bool) -> Iterator[Phase]:
        """Yield the phases, without names."""
        count = _enough(self.blocks, shape.count(self.by, self.within), self.by)
        for period in range(self.periods):
            chosen = sorted(self.order(period, count)[: self.blocks])
            units = [f"~{_in(self.by, self.within)}"]
            units += [_in(f"{self.by}[{number}]", self.within) for number in chosen]
            entry = None if first and period == 0 else self.every
            yield Phase("", entry, rules=(_rule("only", " | ".join(units)),))

    def order(self, period: int, count: int) -> list[int]:
        """Return the numbers of all blocks in the random order of a period."""

        def key(number: int) -> bytes:
            return hashlib.sha256(f"{self.seed}:{period}:{number}".encode()).digest()

        return sorted(range(count), key=key)


@dataclass(frozen=True)
class StopOnRise:
    """Ends training once a metric got worse.

    Attributes:
        when: The change of a metric that it waits for.
    """

    key: ClassVar[str] = "stop_on_rise"
    when: When

    def phases(self, shape: Shape, *, first: bool) -> Iterator[Phase]:
        """Yield the phase, without a name."""
        yield Phase("", self.when, stop=True)


def _from_the_head_down(
    rules: list[Rule], entry: PhaseEntry, shape: Shape, within: str, *, first: bool
) -> Iterator[Phase]:
    """Yield a phase for each rule, after a phase for the head if the run begins here.

    If the model has no head, as one tower of several, the first rule makes the first phase.
    """
    if first and shape.has(_in("head", within)):
        yield Phase("", rules=(_rule("only", "head", within),))
    elif first:
        yield Phase("", rules=(Rule("only", rules.pop(0).choice),))
    for rule in rules:
        yield Phase("", entry, add=(rule,))


def _enough(wanted: int, count: int, units: str) -> int:
    if wanted > count:
        raise SelectorRangeError(f"{wanted} {units} are wanted, and the model has {count}")
    return count


def _in(selector: str, within: str) -> str:
    return f"{selector} in {within}" if within else selector


def _rule(verb: Verb, text: str, within: str = "") -> Rule:
    return Rule(verb, Selector(_in(text, within)))
