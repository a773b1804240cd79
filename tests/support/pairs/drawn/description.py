"""What one network is, and how each of its two ports is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

TORCH, PADDLE = 0, 1
MAIN = "main"
"""The mode in which a network runs unless it is told another: the only one that pairing sees."""


class Part(NamedTuple):
    """One layer, or a few tensors that belong together.

    Attributes:
        name: What the description calls it.
        kind: What it computes.
        sizes: Its sizes.
        forms: How the side in PyTorch and the side in Paddle write it.
    """

    name: str
    kind: str
    sizes: Mapping[str, int]
    forms: tuple[str, str] = ("layer", "layer")


class Step(NamedTuple):
    """One line of the program.

    Attributes:
        op: "part", or a function without tensors.
        to: The register it writes.
        of: The registers it reads.
        part: Which part, where it is one.
        mode: The only mode in which it runs, "" for all.
        sides: The sides that take the step; the others pass its first input on.
    """

    op: str
    to: str
    of: tuple[str, ...]
    part: str = ""
    mode: str = ""
    sides: tuple[int, ...] = (TORCH, PADDLE)


@dataclass
class Side:
    """How one port is written.

    Attributes:
        paths: Where each part is.
        order: In which order they are registered.
        container: What outputs are put into: "bare", "tuple", or "dict".
        output_order: In which order.
    """

    paths: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    container: str = "bare"
    output_order: list[str] = field(default_factory=list)


@dataclass
class Description:
    """One network.

    Attributes:
        seed: What it was drawn from.
        domain: What it reads: "tokens", "vector" or "image".
        parts: Its parts by name.
        steps: Its program.
        outputs: The register of each output by name.
        modes: What else it can be told to do.
        sides: How each port is written.
        naming: "same" names on both sides, "random", or "permuted".
        cut: Parts that get a gradient on one side only, or on neither.
        obstacles: Why it may be refused, or why parts may be left.
        inputs: What each side calls its input.
        tied: The table that is used as a head, too.
        lists: Parts that are elements of a list.
    """

    seed: int
    domain: str
    parts: dict[str, Part] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    modes: list[str] = field(default_factory=lambda: [MAIN])
    sides: tuple[Side, Side] = field(default_factory=lambda: (Side(), Side()))
    naming: str = "same"
    cut: set[str] = field(default_factory=set)
    obstacles: set[str] = field(default_factory=set)
    inputs: tuple[str, str] = ("", "")
    tied: str = ""
    lists: list[list[str]] = field(default_factory=list)

    def used(self, mode: str) -> set[str]:
        """Return the parts that run in a mode."""
        return {step.part for step in self.steps if step.part and step.mode in ("", mode)}

    @property
    def idle(self) -> set[str]:
        """Parts that do not run in the mode that pairing sees."""
        return self.parts.keys() - self.used(MAIN)
