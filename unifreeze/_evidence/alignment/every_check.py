"""`align`: run every check of a port, one after the other, for one acceptance report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from unifreeze._arguments import checked
from unifreeze._evidence.alignment.alignment_report import ALIGNMENT_FORMAT, AlignmentReport
from unifreeze._evidence.alignment.layer_differences import large_input_lines, layer_lines
from unifreeze._evidence.alignment.likeliest_tokens import token_lines
from unifreeze._evidence.alignment.lines import Line, clause_line, failed_line, unchecked
from unifreeze._evidence.alignment.loss_curves import Curves, compare_curves, curve_configs
from unifreeze._evidence.alignment.pairing_lines import pairing_lines, refused_line
from unifreeze._evidence.alignment.parity_lines import parity_line
from unifreeze._evidence.alignment.placed_pairing import pair_by_place
from unifreeze._evidence.alignment.setting_lines import setting_lines
from unifreeze._evidence.alignment.weight_lines import weight_lines
from unifreeze._evidence.gaps import NOTHING
from unifreeze._evidence.parity import check_parity
from unifreeze._evidence.record import versions_of
from unifreeze._evidence.report import StepReport
from unifreeze._evidence.step import Precision, check_step
from unifreeze._evidence.step_values import carried_values
from unifreeze._plan import FreezePlan
from unifreeze._ports.pairing import Pairing, pair
from unifreeze._protocol import Backend, Batch, SketchConfig, backend_for
from unifreeze._protocol.probe_data import check_counts
from unifreeze.errors import PairingError, UnifreezeError

CHANCE = 4
"""How many times its limit in own precision a difference may be that float64 does not show."""


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
        weights: Where the first model's weights come from, for the report. Without it, tokens are
            labelled as those of random weights.

    Returns:
        The report: `report.holds` is the verdict; `report.to_markdown(language="zh")` writes it.

    Raises:
        TargetError: A model does not run on the batch.

    >>> report = align(torch_model, paddle_model, batch=batch, steps=3)
    >>> report.holds
    True
    """
    check_counts(steps=steps, seed=seed)
    plan = plan or FreezePlan().train("all")
    backends = backend_for(one), backend_for(other)
    checks = _Checks((one, other), backends, batch, plan, steps=steps, seed=seed, weights=weights)
    lines = tuple(checks.lines(pairing))
    return AlignmentReport(
        unifreeze_alignment=ALIGNMENT_FORMAT,
        frameworks=(backends[0].name, backends[1].name),
        models=(type(one).__name__, type(other).__name__),
        plan=plan.document(),
        steps=steps,
        seed=seed,
        weights=weights,
        inputs=tuple(_shown_inputs(checks.batches[0])),
        lines=lines,
        curves=checks.curves,
    )


class _Checks:
    """The checks of one report under way."""

    def __init__(
        self,
        models: tuple[Any, Any],
        backends: tuple[Backend, Backend],
        batch: Any,
        plan: FreezePlan,
        *,
        steps: int,
        seed: int,
        weights: str,
    ) -> None:
        self.models, self.backends, self.batch, self.plan = models, backends, batch, plan
        self.steps, self.seed, self.weights = steps, seed, weights
        self.batches = Batch.for_sides(batch, (backends[0].name, backends[1].name), seed=seed)
        self.curves: Curves | None = None

    def lines(self, known: Pairing | None) -> Iterator[Line]:
        """Yield the lines of all sections, in order."""
        lines, pairing = self._paired(known)
        yield from lines
        if pairing is None:
            yield unchecked("weights", "not paired")
        else:
            yield from self._compared(pairing)
        yield from _safe("parity", lambda: self._parity(pairing))
        yield from self._versions()

    def _paired(self, known: Pairing | None) -> tuple[list[Line], Pairing | None]:
        """Pair the models by what they compute; if that fails, as given or by place."""
        try:
            pairing = pair(*self.models, batch=self.batch, seed=self.seed)
            values = self.backends[0], self.models[0]
            return pairing_lines(pairing, *values), known or pairing
        except PairingError as error:
            line = refused_line(error)
        if known is not None:
            return [line], known
        try:
            return [line], pair_by_place(self.models, self.backends, self.batches)
        except UnifreezeError:
            return [line], None

    def _compared(self, pairing: Pairing) -> Iterator[Line]:
        """Yield the lines of what is compared tensor by tensor."""
        values: dict[str, Any] = {}

        def weights() -> list[Line]:
            values.update(carried_values(pairing, self.backends, *self.models))
            return weight_lines(self.backends[1], self.models[1], values, pairing)

        yield from _safe("weights", weights)
        where = self.models, self.backends, self.batches, values, pairing
        yield from _safe("layers", lambda: layer_lines(*where))
        own, double = self._step(pairing, "as is"), self._step(pairing, "float64")
        yield from self._clauses(own, double, "outputs", ("outputs",))
        yield from _safe("outputs", lambda: large_input_lines(*where))
        shapes = self._shapes()
        yield from _safe("tokens", lambda: token_lines(*where, shapes, self.weights))
        yield from self._clauses(own, double, "gradients", ("step gradients",))
        rest = "updates (sgd)", "updates (adamw)", "statistics", "decisions", "frozen"
        yield from self._clauses(own, double, "updates", rest)
        yield from _safe("training", lambda: self._curves(pairing, values, shapes))
        if isinstance(double, StepReport):
            yield from setting_lines(double, judged=("padding row",) if pairing.zeros else ())

    def _step(self, pairing: Pairing, dtype: Precision) -> StepReport | UnifreezeError:
        how: dict[str, Any] = {"batch": self.batch, "seed": self.seed, "dtype": dtype}
        try:
            return check_step(self.plan, *self.models, pairing=pairing, **how)
        except UnifreezeError as error:
            return error

    def _clauses(
        self,
        own: StepReport | UnifreezeError,
        double: StepReport | UnifreezeError,
        section: str,
        names: tuple[str, ...],
    ) -> Iterator[Line]:
        """Yield clauses of the step, in the models' own precision and in double precision."""
        for name in names:
            for report, is_own in ((own, True), (double, False)):
                if isinstance(report, UnifreezeError):
                    yield failed_line(section, report)
                    continue
                clause = next(row for row in report.clauses if row.name == name)
                if clause.nearest is None and (is_own or clause.measured == NOTHING):
                    continue  # it is the same in any precision, or there is nothing
                key = f"{name} in own precision" if is_own else name
                line = clause_line(section, key, clause, own=is_own)
                yield hidden_by_noise(line, double, name) if is_own else line

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        config = SketchConfig(self.batches[0], lambda *_: None, double=False)
        outputs = self.backends[0].sketch(self.models[0], config).outputs
        return {key: seen.shape for key, seen in outputs.items()}

    def _curves(
        self, pairing: Pairing, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> list[Line]:
        configs = curve_configs(pairing, self.batches, values, self.steps, self.seed)
        lines, self.curves = compare_curves(
            self.plan, self.models, self.backends, configs, shapes[configs[0].name]
        )
        return lines

    def _parity(self, pairing: Pairing | None) -> list[Line]:
        report = check_parity(self.plan, *self.models, batch=self.batch, seed=self.seed)
        return [parity_line(clause, pairing) for clause in report.clauses]

    def _versions(self) -> Iterator[Line]:
        for number, (backend, model) in enumerate(zip(self.backends, self.models, strict=True)):
            versions = versions_of(backend.name) | _library(model)
            facts: dict[str, str | int | float] = {
                "number": number + 1,
                "model": type(model).__name__,
                "framework": backend.name,
                "device": backend.device_of(model),
                "versions": ", ".join(f"{name} {text}" for name, text in versions.items()),
            }
            yield Line(section="versions", key="versions", verdict="note", facts=facts)


def hidden_by_noise(line: Line, double: StepReport | UnifreezeError, name: str) -> Line:
    """Return a line as open if it is broken by little, and the same holds in double precision.

    Noise is measured once, so it may be small by chance.
    """
    if line.verdict != "BROKEN" or isinstance(double, UnifreezeError):
        return line
    holds = all(row.holds for row in double.clauses if row.name == name)
    measured, limit = line.measured, line.limit
    near = measured is not None and limit is not None and measured <= CHANCE * limit
    return line.model_copy(update={"verdict": "open"}) if holds and near else line


def _safe(section: str, check: Callable[[], list[Line]]) -> list[Line]:
    """Run a check; what keeps it from running is a line, too."""
    try:
        return check()
    except UnifreezeError as error:
        return [failed_line(section, error)]


def _library(model: Any) -> dict[str, str]:
    """Return the version of the library that a model's class is from, if it has one."""
    root = type(model).__module__.partition(".")[0]
    version = getattr(sys.modules.get(root), "__version__", "")
    return {root: str(version)} if version else {}


def _shown_inputs(batch: Batch) -> Iterator[str]:
    for array in batch.args:
        yield f"{array.dtype}{list(array.shape)}"
    for name, array in batch.kwargs.items():
        yield f"{name}: {array.dtype}{list(array.shape)}"
