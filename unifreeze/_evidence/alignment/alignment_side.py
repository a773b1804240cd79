"""One model's half of an acceptance report, as a file that is compared with the other half.

Such a file has a few hundred kilobytes whatever the model's size. The first model's weights are
beside it, because the second model holds them while it is measured. So the two halves can be
measured in two environments, and compared where neither framework is installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

from pydantic import model_validator

from unifreeze._evidence.alignment.lines import Line, PlanDocument
from unifreeze._evidence.gaps import Limit
from unifreeze._evidence.record import Record
from unifreeze._evidence.step_side import StepSide
from unifreeze._files import Format, Row, Saved
from unifreeze._ports.pairing.model_sketch import ResultRow, RoundedOutput
from unifreeze.errors import RecordError

SIDE_FORMAT = 1
LOSSES = Limit(1e-6, 1e-4)
"""Relative difference of losses that is allowed even without noise."""
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of outputs, by their keys."""


class LayerRun(Row):
    """What each module returned in a forward pass, in order, and in which dtype."""

    dtype: str
    layers: tuple[ResultRow, ...]


class TokenRow(Row):
    """Greedy tokens; `unifreeze._protocol.TokenRun` explains each field."""

    tokens: tuple[tuple[int, ...], ...]
    leads: tuple[tuple[float, ...], ...]
    stopped: str


class Losses(Row):
    """The losses of one model, before each step and after the last one.

    Attributes:
        output: The output that they are made of.
        own: In the model's own precision.
        own_moved: The same with inputs moved by one unit in the last place at each step; None where
            that decides nothing: for the first model, and where `LOSSES` allows the difference.
        double: In double precision.
        double_moved: The same with inputs moved, or None.
    """

    output: str
    own: tuple[float, ...]
    own_moved: tuple[float, ...] | None = None
    double: tuple[float, ...]
    double_moved: tuple[float, ...] | None = None


def losses_apart(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the largest difference of two curves, relative to the largest loss."""
    largest = max(map(abs, (*one, *other)), default=0.0) or 1.0
    gaps = [abs(a - b) / largest for a, b in zip(one, other, strict=True)]
    return max((gap if gap == gap else float("inf") for gap in gaps), default=0.0)


class AlignmentSide(Saved):
    """What the checks of an acceptance report measured on one model.

    Attributes:
        unifreeze_alignment_side: Version of the format.
        framework: The framework that ran it.
        device: Where it ran.
        model: Its class.
        versions: Versions of Python, unifreeze, the framework and the model's library.
        plan: The plan of the training steps and of parity.
        seed: Seed of everything random.
        steps: Training steps of the loss curves.
        weights: Where the first model's weights come from; "" where nobody said.
        inputs: Dtype and shape of each input.
        inputs_digest: A short hash of the inputs' values.
        like: Digest of the first model's side, whose weights this model held; "" for the first.
        values_digest: A short hash of the weights beside the first side's file; "" in memory.
        outputs: Shapes of the outputs.
        words: The output that scores words; "" where none does.
        owners: The layer of each tensor, by native path.
        filled_rows: Rows of tables, by path and number, that the other port reads as zeros and that
            are not zero here.
        plain: A forward pass in the model's own precision.
        moved: The same with inputs moved by one unit in the last place.
        large: Outputs on larger inputs, in double precision; None where no input is floating.
        own: Training steps in the model's own precision.
        double: The same in double precision.
        tokens: Greedy tokens; None where the model scores no words.
        losses: The losses of the training.
        record: The run that parity compares.
        held: The lines on the weights that the second model had before; () for the first.
        failures: The error of each check that could not be run.
    """

    format: ClassVar[Format] = Format(
        what="unifreeze side of an acceptance report",
        key="unifreeze_alignment_side",
        version=SIDE_FORMAT,
        error=RecordError,
        hint="measure both sides anew with one release: unifreeze align MODEL -p … -o FILE.json",
        indent=None,
    )

    unifreeze_alignment_side: int
    framework: str
    device: str
    model: str
    versions: dict[str, str]
    plan: PlanDocument
    seed: int
    steps: int
    weights: str
    inputs: tuple[str, ...]
    inputs_digest: str
    like: str
    values_digest: str
    outputs: dict[str, tuple[int, ...]]
    words: str
    owners: dict[str, str]
    filled_rows: tuple[tuple[str, int], ...]
    plain: LayerRun | None
    moved: LayerRun | None
    large: dict[str, RoundedOutput] | None
    own: StepSide | None
    double: StepSide | None
    tokens: TokenRow | None
    losses: Losses | None
    record: Record | None
    held: tuple[Line, ...]
    failures: dict[str, tuple[str, ...]]

    @model_validator(mode="after")
    def _says_all_it_should(self) -> AlignmentSide:
        """Refuse a file without a part, because a check without figures would not be broken."""
        measured: dict[str, object] = {
            "layers": self.plain and self.moved,
            "own": self.own,
            "double": self.double,
            "losses": self.losses,
            "record": self.record,
        }
        if any(text.rpartition(": ")[2].startswith("float") for text in self.inputs):
            measured["large"] = self.large
        if self.words and not self.like:
            measured["tokens"] = self.tokens
        missing = [name for name, value in measured.items() if not (value or name in self.failures)]
        if bool(self.like) != bool(self.held):
            missing.append("held")
        if missing:
            raise ValueError(f"it does not say what was measured: {', '.join(missing)}")
        curves = (self.losses.own, self.losses.double) if self.losses else ()
        if any(len(curve) != self.steps + 1 for curve in curves):
            raise ValueError(f"it has losses of other than {self.steps} steps")
        return self

    @cached_property
    def digest(self) -> str:
        """A short hash of the side's content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
