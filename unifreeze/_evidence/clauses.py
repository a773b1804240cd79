"""List every clause of parity and of the same step; a new clause is a function and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from unifreeze._evidence import parity_clauses as parity
from unifreeze._evidence import step_clauses as step
from unifreeze._evidence.gaps import Judgement
from unifreeze._evidence.parity_clauses import RecordPair
from unifreeze._evidence.step_clauses import StepPair
from unifreeze._protocol import Finding

Runs = TypeVar("Runs")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Clause(Generic[Runs, Outcome]):
    """One promise about two runs.

    Attributes:
        name: What reports and their readers call it.
        title: What it promises.
        check: Compares the two runs and words what breaks the promise.
    """

    name: str
    title: str
    check: Callable[[Runs], Outcome]


PARITY_CLAUSES: tuple[Clause[RecordPair, Iterator[Finding]], ...] = (
    Clause(
        "parameters",
        "both sides have the same parameters, and no statistic among them",
        parity.parameters,
    ),
    Clause(
        "decisions", "every parameter gets the same decision, by the same rule", parity.decisions
    ),
    Clause("order", "counting by execution would decide the same", parity.order),
    Clause("flags", "every flag reads as decided", parity.flags),
    Clause(
        "outputs",
        "both sides return floating outputs of the same shapes (values are not compared)",
        parity.outputs,
    ),
    Clause("gradients", "gradients reach exactly the trainable parameters", parity.gradients),
    Clause("frozen", "frozen parameters keep every bit through the training steps", parity.frozen),
    Clause(
        "state",
        "held statistics keep every bit, others move alike, dropout is off where it should be",
        parity.state,
    ),
    Clause("trained", "every trainable parameter moves", parity.trained),
)
"""What parity checks, in the order of its report."""

STEP_CLAUSES: tuple[Clause[StepPair, Judgement], ...] = (
    Clause("decisions", "the plan decides the same for both tensors of every pair", step.decisions),
    Clause("outputs", "outputs agree", step.outputs),
    Clause("step gradients", "gradients agree", step.gradients),
    Clause(
        "updates (sgd)",
        "what SGD adds to each parameter agrees",
        partial(step.updates, optimizer="sgd", limit=step.SGD),
    ),
    Clause(
        "updates (adamw)",
        "what AdamW adds to each parameter agrees, in norm",
        partial(step.updates, optimizer="adamw", limit=step.ADAMW),
    ),
    Clause(
        "statistics",
        "running means agree, and running variances but for n/(n-1)",
        step.statistics,
    ),
    Clause("frozen", "frozen parameters and held statistics keep every bit", step.frozen),
)
"""What the same step means, in the order of its report."""
