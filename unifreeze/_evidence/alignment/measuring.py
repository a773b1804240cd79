"""Measure one model for an acceptance report; it comes back bit for bit."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from unifreeze._evidence.alignment.alignment_side import (
    LOSSES,
    SIDE_FORMAT,
    AlignmentSide,
    LayerRun,
    Losses,
    TokenRow,
    losses_apart,
)
from unifreeze._evidence.alignment.lines import Line
from unifreeze._evidence.alignment.weight_lines import weight_lines
from unifreeze._evidence.record import Record, make_record, prepare, versions_of
from unifreeze._evidence.step_side import StepSide, make_side
from unifreeze._evidence.step_values import for_first, for_second
from unifreeze._experiments.greedy_tokens import token_ids
from unifreeze._numerics.outputs import Seen
from unifreeze._plan import FreezePlan
from unifreeze._ports.pairing import Pairing
from unifreeze._ports.pairing.model_sketch import run_row
from unifreeze._protocol import (
    Array,
    Backend,
    Batch,
    CurveConfig,
    ProbeConfig,
    SketchConfig,
    SketchRun,
    StepConfig,
    TokenConfig,
)
from unifreeze.errors import UnifreezeError

LARGE = 16
"""How many times larger inputs are made."""
TOKENS = 10
"""How many tokens the field compares."""
CHECKS = ("layers", "large", "own", "double", "tokens", "losses", "record")
"""What is measured, in order."""
Progress = Callable[[str, int, int], None]
"""Called before each check with its name, how many are done, and how many there are."""
Measured = TypeVar("Measured")


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Task:
    """What both sides of a report are measured by.

    Attributes:
        plan: The plan of the training steps and of parity.
        pairing: Of the two models, in this order.
        steps: Training steps of the loss curves.
        seed: Seed of everything random.
        weights: Where the first model's weights come from.
        progress: Is told of each check.
    """

    plan: FreezePlan
    pairing: Pairing
    steps: int = 20
    seed: int = 0
    weights: str = ""
    progress: Progress = field(default=no_progress, compare=False)


def measure_first(task: Task, model: Any, backend: Backend, batch: Batch) -> AlignmentSide:
    """Measure the model that was ported, on its own weights."""
    return _Measuring(task, model, backend, batch, None, {}).side()


def measure_second(
    task: Task,
    model: Any,
    backend: Backend,
    batch: Batch,
    like: AlignmentSide,
    values: Mapping[str, Array],
) -> AlignmentSide:
    """Measure the port on the first model's weights.

    Args:
        task: As for the first model.
        model: The live port.
        backend: Its backend.
        batch: Its inputs.
        like: The first model's side.
        values: The first model's weights, by the port's paths and as it stores them.
    """
    return _Measuring(task, model, backend, batch, like, values).side()


class _Measuring:
    """One model being measured."""

    def __init__(
        self,
        task: Task,
        model: Any,
        backend: Backend,
        batch: Batch,
        like: AlignmentSide | None,
        values: Mapping[str, Array],
    ) -> None:
        self.task, self.model, self.backend, self.batch = task, model, backend, batch
        self.like, self.values = like, values
        self.failures: dict[str, tuple[str, ...]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def side(self) -> AlignmentSide:
        """Run every check, and keep what it measured or why it could not be run."""
        task, like = self.task, self.like
        layers = self._try("layers", self._layers)
        words = self._words()
        filled = self._filled_rows() if like is None else ()
        return AlignmentSide(
            unifreeze_alignment_side=SIDE_FORMAT,
            framework=self.backend.name,
            device=self.backend.device_of(self.model),
            model=type(self.model).__name__,
            versions=versions_for(self.backend, self.model),
            plan=task.plan.document(),
            seed=task.seed,
            steps=task.steps,
            weights=task.weights if like is None else like.weights,
            inputs=tuple(shown_inputs(self.batch)),
            inputs_digest=_inputs_digest(self.batch),
            like=like.digest if like else "",
            values_digest=like.values_digest if like else "",
            outputs=self.shapes,
            words=words,
            owners=self._owners(),
            filled_rows=tuple(filled),
            plain=layers[0] if layers else None,
            moved=layers[1] if layers else None,
            large=self._try("large", self._large),
            own=self._try("own", lambda: self._step(double=False)),
            double=self._try("double", lambda: self._step(double=True)),
            tokens=self._try("tokens", lambda: self._tokens(words)),
            losses=self._try("losses", self._losses),
            record=self._try("record", self._record),
            held=self._held(),
            failures=self.failures,
        )

    def _try(self, check: str, measure: Callable[[], Measured]) -> Measured | None:
        """Run a check; what keeps it from running is kept in place of its result."""
        self.task.progress(self.backend.name, CHECKS.index(check), len(CHECKS))
        try:
            return measure()
        except UnifreezeError as error:
            self.failures[check] = tuple(str(error).splitlines())
            return None

    def _sketch(self, batch: Batch, *, double: bool, nudge: bool = False) -> SketchRun:
        config = SketchConfig(
            batch, lambda path, _: self.values.get(path), double=double, nudge=nudge
        )
        return self.backend.sketch(self.model, config)

    def _layers(self) -> tuple[LayerRun, LayerRun]:
        runs = [self._sketch(self.batch, double=False, nudge=nudge) for nudge in (False, True)]
        self.shapes = {key: seen.shape for key, seen in runs[0].outputs.items()}
        # NumPy has no bfloat16, so the results alone do not say that a model computed in it.
        kinds = {row.dtype for row in self.backend.describe(self.model).parameters}
        dtype = "bfloat16" if kinds == {"bfloat16"} else runs[0].dtype
        plain, moved = (LayerRun(dtype=dtype, layers=run_row(run).layers) for run in runs)
        return plain, moved

    def _large(self) -> dict[str, Seen] | None:
        """Return the outputs on larger inputs, which reach the bounds of clipped activations."""
        arrays = (*self.batch.args, *self.batch.kwargs.values())
        if not any(array.dtype.kind == "f" for array in arrays):
            return None
        return dict(self._sketch(_enlarged(self.batch), double=True).outputs)

    def _step(self, *, double: bool) -> StepSide:
        pairing = self.task.pairing
        config = StepConfig(self.batch, double=double, seed=self.task.seed)
        known = (
            for_first(config, pairing)
            if self.like is None
            else for_second(config, pairing, self.values)
        )
        name = type(self.model).__name__
        return make_side(self.task.plan, self.model, self.backend, known, name=name)

    def _words(self) -> str:
        """Return the output that is as wide as a table of words; "" if none is."""
        if self.like is not None:
            return dict(self.task.pairing.outputs).get(self.like.words, "")
        ids = token_ids(self.batch)
        if ids is None:
            return ""
        rows = self.backend.describe(self.model).parameters
        tables = {row.shape[0] for row in rows if row.kind == "embedding"}
        fitting = (
            key
            for key, shape in self.shapes.items()
            if len(shape) == 3 and shape[:2] == ids.shape and shape[2] in tables
        )
        return next(fitting, "")

    def _tokens(self, words: str) -> TokenRow | None:
        if not words or token_ids(self.batch) is None:
            return None
        config = TokenConfig(self.batch, words, self.values, TOKENS)
        run = self.backend.greedy_tokens(self.model, config)
        return TokenRow(tokens=run.tokens, leads=run.leads, stopped=run.stopped)

    def _losses(self) -> Losses:
        outputs = dict(self.task.pairing.outputs)
        name = next((key for key in ("loss", "logits") if key in outputs), next(iter(outputs)))
        key = name if self.like is None else outputs[name]
        config = CurveConfig(
            self.batch, key, name, values=self.values, seed=self.task.seed, steps=self.task.steps
        )
        plan, model, backend = self.task.plan, self.model, self.backend
        resolution = prepare(plan, model, backend, self.batch, "registration")[1]

        def train(*, nudge: bool = False, double: bool = False) -> tuple[float, ...]:
            config_of_run = replace(config, nudge=nudge, double=double)
            return self.backend.loss_curve(self.model, resolution, config_of_run)

        own, double, like = train(), train(double=True), self.like and self.like.losses
        # Noise is measured where it decides, because each training of a large model takes minutes.
        far = like and losses_apart(like.own, own) > LOSSES.single
        far_in_double = like and losses_apart(like.double, double) > LOSSES.double
        return Losses(
            output=name,
            own=own,
            own_moved=train(nudge=True) if far else None,
            double=double,
            double_moved=train(nudge=True, double=True) if far_in_double else None,
        )

    def _record(self) -> Record:
        paired = [pair[self.like is not None] for pair in self.task.pairing.outputs]
        record = self._record_of(None)
        shared = tuple(key for key in record.outputs if key in paired)
        return self._record_of(shared) if 0 < len(shared) < len(record.outputs) else record

    def _record_of(self, outputs: tuple[str, ...] | None) -> Record:
        config = ProbeConfig(self.batch, seed=self.task.seed, outputs=outputs)
        device, name = self.backend.device_of(self.model), type(self.model).__name__
        return make_record(
            self.task.plan, self.model, self.backend, config, device=device, name=name
        )

    def _held(self) -> tuple[Line, ...]:
        if self.like is None:
            return ()
        return tuple(weight_lines(self.backend, self.model, self.values))

    def _owners(self) -> dict[str, str]:
        spec = self.backend.describe(self.model)
        owners = {row.path: row.owner for row in spec.parameters}
        return owners | {row.path: spec.tree.paths[row.owner] for row in spec.states}

    def _filled_rows(self) -> Iterator[tuple[str, int]]:
        for row in self.task.pairing.zeros:
            if np.asarray(self.backend.tensor(self.model, row.one))[row.row].any():
                yield row.one, row.row


def digest_of(arrays: Iterable[tuple[object, Array]]) -> str:
    """Return a short hash of named arrays, in their order."""
    known = hashlib.sha256()
    for name, array in arrays:
        known.update(f"{name} {array.dtype} {array.shape}".encode())
        known.update(np.ascontiguousarray(array).tobytes())
    return known.hexdigest()[:16]


def _inputs_digest(batch: Batch) -> str:
    """Return a short hash of the inputs' values, whatever their names and order."""
    arrays = (*batch.args, *batch.kwargs.values())
    return hashlib.sha256(
        "".join(sorted(digest_of([("", a)]) for a in arrays)).encode()
    ).hexdigest()[:16]


def _enlarged(batch: Batch) -> Batch:
    def larger(array: Array) -> Array:
        return array * np.asarray(LARGE, array.dtype) if array.dtype.kind == "f" else array

    named = {name: larger(array) for name, array in batch.kwargs.items()}
    return Batch(tuple(map(larger, batch.args)), named)


def versions_for(backend: Backend, model: Any) -> dict[str, str]:
    """Return the versions of Python, unifreeze, a framework, and the library of a model's class."""
    root = type(model).__module__.partition(".")[0]
    version = getattr(sys.modules.get(root), "__version__", "")
    library = {root: str(version)} if version and root != backend.name else {}
    return versions_of(backend.name) | library


def shown_inputs(batch: Batch) -> Iterator[str]:
    """Yield dtype and shape of each input, with its name if it has one."""
    for array in batch.args:
        yield f"{array.dtype}{list(array.shape)}"
    for name, array in batch.kwargs.items():
        yield f"{name}: {array.dtype}{list(array.shape)}"
