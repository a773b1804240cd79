"""The experiments that every framework of modules shares: the third protocol, ready to use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unifreeze._experiments.experiment_operations import ExperimentOperations
from unifreeze._experiments.first_gradients import first_gradients
from unifreeze._experiments.measure import run_measure
from unifreeze._experiments.probe import run_probe
from unifreeze._experiments.sketch import run_sketch
from unifreeze._experiments.step import run_step
from unifreeze._numerics.measurements import MeasureConfig, MeasureRun
from unifreeze._protocol.batches import Batch
from unifreeze._protocol.live import Model
from unifreeze._protocol.probe_data import ProbeConfig, ProbeResult
from unifreeze._protocol.sketch_data import SketchConfig, SketchRun
from unifreeze._protocol.step_data import StepConfig, StepRun
from unifreeze._resolution import Resolution


class ModuleExperiments(ExperimentOperations):
    """The third protocol for a framework of modules; the model is restored after each run."""

    def probe(self, model: Model, resolution: Resolution, config: ProbeConfig) -> ProbeResult:
        """Run the seeded training steps that parity looks at."""
        return run_probe(self, model, resolution, config)

    def sketch(self, model: Model, config: SketchConfig) -> SketchRun:
        """Run a model once on given values and sketch what comes out of it."""
        return run_sketch(self, model, config)

    def step(self, model: Model, resolution: Resolution, config: StepConfig) -> StepRun:
        """Run comparable training steps under a plan."""
        return run_step(self, model, resolution, config)

    def measure(self, model: Model, config: MeasureConfig) -> MeasureRun:
        """Measure a model on a few batches."""
        return run_measure(self, model, config)

    def first_gradients(
        self, model: Model, batch: Batch
    ) -> tuple[dict[str, float | None], frozenset[str]]:
        """Run one forward and backward pass; the model is restored bit for bit."""
        return first_gradients(self, model, batch)

    def layer_settings(self, model: Model) -> dict[str, dict[str, Any]]:
        """Return each layer's settings in neutral terms, by native path."""
        walk = self.walk(model)
        settings = zip(walk.tree.paths, map(self.settings, walk.modules), strict=True)
        rows = {path: row for path, row in settings if row}
        for cls, numbers in walk.by_class.items():
            if lesson := self.reader.lesson(cls):
                for path in map(walk.tree.paths.__getitem__, numbers):
                    rows[path] = {"layer": lesson.kind, **rows.get(path, {}), **lesson.settings}
        return rows

    def optimizer_defaults(self) -> dict[str, dict[str, Any]]:
        """Return the default settings of the framework's optimizers, by their names."""
        return {}

    def shipped_map(self, model: Model, others: Iterable[str]) -> dict[str, str]:
        """Return the other port's name of each tensor, if the model's library knows it.

        Args:
            model: A live model.
            others: Native paths of the other port.
        """
        return {}
