"""The experiments that every framework of modules shares: the third protocol, ready to use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unifreeze._experiments.experiment_operations import ExperimentOperations
from unifreeze._experiments.first_gradients import first_gradients
from unifreeze._experiments.greedy_tokens import run_greedy_tokens
from unifreeze._experiments.loss_curve import run_loss_curve
from unifreeze._experiments.measure import run_measure
from unifreeze._experiments.probe import run_probe
from unifreeze._experiments.sketch import run_sketch
from unifreeze._experiments.step import run_step
from unifreeze._modules.neutral_settings import home_made_norm, optimizer_defaults
from unifreeze._protocol.live import Model


class ModuleExperiments(ExperimentOperations):
    """The third protocol for a framework of modules; the model is restored after each run."""

    probe = run_probe
    sketch = run_sketch
    step = run_step
    measure = run_measure
    loss_curve = run_loss_curve
    greedy_tokens = run_greedy_tokens
    first_gradients = first_gradients

    def layer_settings(self, model: Model) -> dict[str, dict[str, Any]]:
        """Return each layer's settings in neutral terms, by native path."""
        walk = self.walk(model)
        settings = zip(walk.tree.paths, map(self.settings, walk.modules), strict=True)
        rows = {path: row for path, row in settings if row}
        spec = self.describe(model)
        kinds = dict(zip(spec.tree.paths, spec.placement.kinds, strict=True))
        for path, module in zip(walk.tree.paths, walk.modules, strict=True):
            # No table knows the norms of a library of models; what they hold tells.
            if path not in rows and kinds.get(path) == "norm" and (row := home_made_norm(module)):
                rows[path] = row
        for cls, numbers in walk.by_class.items():
            if lesson := self.reader.lesson(cls):
                for path in map(walk.tree.paths.__getitem__, numbers):
                    rows[path] = {"layer": lesson.kind, **rows.get(path, {}), **lesson.settings}
        return rows

    def optimizer_defaults(self) -> dict[str, dict[str, Any]]:
        """Return the default settings of the framework's optimizers, by their names."""
        return optimizer_defaults(*self.optimizer_tables)

    def shipped_map(self, model: Model, others: Iterable[str]) -> dict[str, str]:
        """Return the other port's name of each tensor, if the model's library knows it.

        Args:
            model: A live model.
            others: Native paths of the other port.
        """
        return {}
