"""The third protocol: run experiments on a live model, and read settings for pairing two ports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from unifreeze._numerics.measurements import MeasureConfig, MeasureRun
from unifreeze._protocol.batches import Batch
from unifreeze._protocol.curve_data import CurveConfig, TokenConfig, TokenRun
from unifreeze._protocol.live import Model
from unifreeze._protocol.probe_data import ProbeConfig, ProbeResult
from unifreeze._protocol.sketch_data import SketchConfig, SketchRun
from unifreeze._protocol.step_data import StepConfig, StepRun
from unifreeze._resolution import Resolution


@runtime_checkable
class ExperimentBackend(Protocol):
    """One framework's experiments; the model is restored bit for bit after each."""

    def probe(self, model: Model, resolution: Resolution, config: ProbeConfig) -> ProbeResult:
        """Run the seeded training steps that parity looks at."""

    def sketch(self, model: Model, config: SketchConfig) -> SketchRun:
        """Run a model once on given values and sketch it."""

    def step(self, model: Model, resolution: Resolution, config: StepConfig) -> StepRun:
        """Run comparable training steps under a plan."""

    def measure(self, model: Model, config: MeasureConfig) -> MeasureRun:
        """Measure gradients and passed-by modules."""

    def loss_curve(
        self, model: Model, resolution: Resolution, config: CurveConfig
    ) -> tuple[float, ...]:
        """Train a model under a plan; return the loss before each step and after the last one."""

    def greedy_tokens(self, model: Model, config: TokenConfig) -> TokenRun:
        """Continue a batch of token ids, one token after the other, each the likeliest."""

    def first_gradients(
        self, model: Model, batch: Batch
    ) -> tuple[dict[str, float | None], frozenset[str]]:
        """Run one forward and backward pass.

        Returns:
            The norm of every parameter's gradient (None where there is none), and the native paths
            of the modules that ran and of parameters read by their parents.
        """

    # Running a model

    def train_mode(self, model: Model) -> None:
        """Do what a training loop does before an epoch."""

    def inputs(self, model: Model, batch: Batch) -> tuple[list[Any], dict[str, Any]]:
        """Return a batch as a model's positional and named inputs."""

    def run(self, model: Model, batch: Batch) -> Any:
        """Call a model on a batch; a watch on the model does not take it for training."""

    def place(self, model: Model, device: str) -> Model:
        """Move a model to a device kind, "cpu" or "gpu"."""

    def device_of(self, model: Model) -> str:
        """Return the kind of device a model is on, "cpu" or "gpu"."""

    def seed(self, seed: int) -> None:
        """Seed the framework's random generators."""

    # Settings, for pairing two ports

    def layer_settings(self, model: Model) -> dict[str, dict[str, Any]]:
        """Return each layer's settings in neutral terms, by native path."""

    def optimizer_defaults(self) -> dict[str, dict[str, Any]]:
        """Return the default settings of the framework's optimizers, by their names."""

    def shipped_map(self, model: Model, others: Iterable[str]) -> dict[str, str]:
        """Return the other port's name of each tensor, if the model's library knows it.

        Args:
            model: A live model.
            others: Native paths of the other port.
        """
