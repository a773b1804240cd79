"""What is known of the task: the input of the rules of thumb, and the few numbers in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from unifreeze.errors import TargetError, brief, nearest

FEW, MANY = 1_000, 20_000
"""Fewer than `FEW` examples are few, `MANY` or more are many. CS231n says "small" and "large" and
gives no numbers; these are only common in practice."""

COMPUTE = {"low": 0.5, "medium": 0.7, "high": 1.0}
"""Words for compute, as a share of a full fine-tune."""

FORWARD = 1 / 3
"""Share of a full training step when only the head trains: a backward pass takes twice as long as a
forward pass (Kaplan et al. 2020, arXiv 2001.08361, 2.1)."""

TOP, HALF, WHOLE = 0.25, 0.5, 1.0
"""Shares of the blocks, counted from the head: "the top", and two later stages."""

HEAD_EPOCHS, STAGE_EPOCHS = 3, 2
"""How long a new head trains alone, and how long each further stage lasts."""

RATES = {"head": 1e-3, "top": 1e-4, "half": 3e-5, "all": 1e-5}
"""Learning rates of phases, for Adam and its kin; lower the more pretrained weights move."""

SIMILARITIES = ("same", "similar", "different")
SHIFTS = ("input", "features", "output")


@dataclass(frozen=True)
class Task:
    """What is known of the task.

    Attributes:
        examples: Number of training examples; None where unknown.
        similarity: Of the data to what the model was pretrained on: `same`, `similar`, `different`.
        compute: Compute that can be spent, as a share of a full fine-tune.
        new_head: The head is new, or its classes are.
        shift: How the data differ, if known: `input` (noise, blur, another sensor), `features` (the
            same classes look different), `output` (other labels).
    """

    examples: int | None = None
    similarity: str = "similar"
    compute: float = 1.0
    new_head: bool = False
    shift: str = ""

    @property
    def size(self) -> str:
        """`few`, `some` or `many` examples."""
        if self.examples is None:
            return "unknown"
        return "few" if self.examples < FEW else "some" if self.examples < MANY else "many"

    @property
    def reach(self) -> float:
        """Share of the blocks, from the head down, that gradients can pass for the compute."""
        return max(0.0, min(1.0, (self.compute - FORWARD) / (1 - FORWARD)))


def read_task(
    examples: int | None, similarity: str, compute: str | float, shift: str, *, new_head: bool
) -> Task:
    """Check what a user gave.

    Raises:
        TargetError: A value is not one of the choices.
    """
    if examples is not None and examples < 1:
        raise TargetError(
            f"examples={examples} is not a number of training examples",
            hint="a whole number from 1 on: examples=2000",
        )
    _one_of("similarity", similarity, SIMILARITIES)
    _one_of("shift", shift, ("", *SHIFTS))
    return Task(examples, similarity, _share(compute), bool(new_head), shift)


def _one_of(name: str, given: object, known: Iterable[str]) -> None:
    words = list(known)
    if given not in words:
        close = nearest(str(given), words, limit=1)
        raise TargetError(
            f"{name}={brief(given)} is not known",
            context=f"it is one of: {', '.join(filter(None, words))}",
            hint=f"did you mean {close[0]!r}?" if close and close[0] else "",
        )


def _share(compute: Any) -> float:
    """Read compute given as a word or as a share."""
    if isinstance(compute, str) and compute in COMPUTE:
        return COMPUTE[compute]
    try:
        share = float(compute)
    except (TypeError, ValueError):
        share = -1.0
    if isinstance(compute, bool) or not FORWARD <= share <= 1:
        raise TargetError(
            f"compute={brief(compute)} cannot be read",
            context=f"it is {', '.join(COMPUTE)}, or a share of what a full fine-tune takes",
            hint="from 0.34 (a forward pass is a third of a step) to 1",
        )
    return share
