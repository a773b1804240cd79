"""`align`: run every check of a port, one after the other, for one acceptance report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unifreeze._arguments import checked
from unifreeze._evidence.alignment.alignment_report import ALIGNMENT_FORMAT, AlignmentReport
from unifreeze._evidence.alignment.lines import Line, failed_line, unchecked, version_line
from unifreeze._evidence.alignment.measuring import (
    Progress,
    Task,
    measure_first,
    measure_second,
    no_progress,
    shown_inputs,
    versions_for,
)
from unifreeze._evidence.alignment.pairing_lines import refused_line
from unifreeze._evidence.alignment.parity_lines import parity_line
from unifreeze._evidence.alignment.placed_pairing import pair_by_place, placed
from unifreeze._evidence.alignment.side_lines import compare_alignment_sides
from unifreeze._evidence.parity import check_parity
from unifreeze._evidence.step_values import carried_values
from unifreeze._plan import FreezePlan
from unifreeze._ports.pairing import Pairing, pair
from unifreeze._protocol import Backend, Batch, backend_for
from unifreeze._protocol.probe_data import check_counts
from unifreeze.errors import PairingError, UnifreezeError


@checked
def align(
    one: Any,
    other: Any,
    *,
    batch: Any,
    plan: FreezePlan | None = None,
    pairing: Pairing | None = None,
    steps: int = 20,
    seed: int = 0,
    weights: str = "",
) -> AlignmentReport:
    """Run every check of a port and return the acceptance report.

    During the checks the second model holds the first one's weights; then both are restored bit for
    bit. Everything random is off. If the two cannot be paired by what they compute, the rest of the
    report pairs their tensors by place, to show what differs.

    Args:
        one: A live model: the one that was ported.
        other: Its port.
        batch: One batch of inputs for both: an array, a sequence, or a mapping by name; or one for
            each, by the names of their frameworks.
        plan: A plan for the training steps and for parity; without one, everything trains.
        pairing: Which tensor is which, if it is known; made from the batch where it is not given.
        steps: Training steps of the loss curves.
        seed: Seed of everything random.
        weights: Where the first model's weights come from, in words for the report; nothing is
            loaded. Without it, tokens are labelled as those of random weights.

    Returns:
        The report: `report.holds` is the verdict; `report.to_markdown(language="zh")` writes it.

    Raises:
        TargetError: A model does not run on the batch.

    >>> report = align(torch_model, paddle_model, batch=batch, steps=3)
    >>> report.holds
    True
    """
    check_counts(steps=steps, seed=seed)
    checks = Checks(one, other, batch, plan or FreezePlan().train("all"), steps, seed, weights)
    return checks.report(pairing)


class Checks:
    """The checks of one report on two live models.

    Args:
        one: The model that was ported.
        other: Its port.
        batch: One batch for both, or one for each.
        plan: The plan of the training steps and of parity.
        steps: Training steps of the loss curves.
        seed: Seed of everything random.
        weights: Where the first model's weights come from.
        progress: Is told of each check.
    """

    def __init__(
        self,
        one: Any,
        other: Any,
        batch: Any,
        plan: FreezePlan,
        steps: int,
        seed: int,
        weights: str,
        progress: Progress = no_progress,
    ) -> None:
        self.models, self.batch = (one, other), batch
        first, second = backend_for(one), backend_for(other)
        self.backends: tuple[Backend, Backend] = first, second
        self.batches = Batch.for_sides(batch, (first.name, second.name), seed=seed)
        self.plan, self.steps, self.seed = plan, steps, seed
        self.weights, self.progress = weights, progress

    def report(self, known: Pairing | None) -> AlignmentReport:
        """Pair the models, measure both, and compare what was measured."""
        pairing, refusal = self._paired(known)
        if pairing is None:
            return self._report_of_unlike_models(refusal)
        values = carried_values(pairing, self.backends, *self.models)
        task = Task(self.plan, pairing, self.steps, self.seed, self.weights, self.progress)
        sides = zip(self.models, self.backends, self.batches, strict=True)
        one, other = sides
        first = measure_first(task, *one)
        second = measure_second(task, *other, first, values)
        return compare_alignment_sides(first, second, pairing, refusal=refusal)

    def _paired(self, known: Pairing | None) -> tuple[Pairing | None, str]:
        """Pair by what the models compute; if that fails, as given or by place, and say why."""
        self.progress("pairing", 0, 1)
        try:
            pairing = pair(*self.models, batch=self.batch, seed=self.seed)
            self.progress("pairing", 1, 1)
            return known or pairing, ""
        except PairingError as error:
            refusal = str(error)
        if known is not None:
            return known, refusal
        try:
            sides = zip(self.models, self.backends, self.batches, strict=True)
            first, second = (placed(*side) for side in sides)
            return pair_by_place(first, second), refusal
        except UnifreezeError:
            return None, refusal

    def _report_of_unlike_models(self, refusal: str) -> AlignmentReport:
        """Return the report of two models that have no tensor in common."""
        return AlignmentReport(
            unifreeze_alignment=ALIGNMENT_FORMAT,
            frameworks=(self.backends[0].name, self.backends[1].name),
            models=(type(self.models[0]).__name__, type(self.models[1]).__name__),
            plan=self.plan.document(),
            steps=self.steps,
            seed=self.seed,
            weights=self.weights,
            inputs=tuple(shown_inputs(self.batches[0])),
            lines=tuple(self._lines_of_unlike_models(refusal)),
            curves=None,
        )

    def _lines_of_unlike_models(self, refusal: str) -> Iterator[Line]:
        yield refused_line(refusal)
        yield unchecked("weights", "not paired")
        try:
            report = check_parity(self.plan, *self.models, batch=self.batch, seed=self.seed)
            yield from (parity_line(clause, None) for clause in report.clauses)
        except UnifreezeError as error:
            yield failed_line("parity", tuple(str(error).splitlines()))
        for number, (backend, model) in enumerate(zip(self.backends, self.models, strict=True)):
            where = backend.name, backend.device_of(model), versions_for(backend, model)
            yield version_line(number + 1, type(model).__name__, *where)
