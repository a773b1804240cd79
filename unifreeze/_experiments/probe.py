"""The probe: seeded training steps on a live model, after which everything is put back.

It trains as users do: the optimizer holds every parameter and is built before freezing, there are
stale gradients, and the loop turns training mode on before every step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from unifreeze._experiments.experiment_operations import (
    ExperimentOperations,
    GradientPass,
    Outputs,
)
from unifreeze._experiments.first_gradients import gradient_norms
from unifreeze._experiments.model_outputs import (
    floating_outputs,
    seeded_weights,
    shape_of,
    shown_outputs,
)
from unifreeze._experiments.restoring import drop_gradients, python_random_state, restored
from unifreeze._modules.tracing import trace_forward
from unifreeze._modules.walking import Walk
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.optimizer_settings import OptimizerSpec
from unifreeze._protocol.probe_data import ProbeConfig, ProbeResult, ProbeRun
from unifreeze._resolution import Resolution
from unifreeze._structure import STOCHASTIC
from unifreeze.errors import TargetError, listing


def run_probe(
    backend: ExperimentOperations, model: Model, resolution: Resolution, config: ProbeConfig
) -> ProbeResult:
    """Run the probe and return what it showed; the model is restored bit for bit."""
    walk = backend.walk(model)
    trace = trace_forward(backend, walk, model, config.batch)
    outputs: dict[str, tuple[int, ...]] = {}
    with restored(backend, walk) as rewind, backend.random_state(), python_random_state():
        runs = []
        for spec in config.optimizers:
            rewind()
            runs.append(_Run(backend, model, walk, resolution, config).train(spec, outputs))
    return ProbeResult(outputs, trace.calls, tuple(runs))


@dataclass
class _Run:
    """The steps of one optimizer."""

    backend: ExperimentOperations
    model: Model
    walk: Walk
    resolution: Resolution
    config: ProbeConfig

    def train(self, spec: OptimizerSpec, outputs: dict[str, tuple[int, ...]]) -> ProbeRun:
        """Plant gradients, freeze, train; return what the steps showed."""
        backend, model = self.backend, self.model
        step, clear = backend.plain_optimizer(model, spec)
        self._plant_gradients()
        start = {path: backend.clone(t) for path, t in self._parameters().items()}
        # Taken before the plan is written: writing must not change a value either.
        before = self._digests()
        with ExitStack() as stack:
            stack.callback(drop_gradients, backend, self.walk)
            stack.callback(backend.write(model, self.resolution))
            flags = backend.read(model)
            gradients: dict[str, float | None] = {}
            with self._listening() as live:
                for number in range(self.config.steps):
                    gradient_pass = self._forward_and_backward(number)
                    outputs |= {k: shape_of(t) for k, t in gradient_pass.outputs.items()}
                    gradients = gradients or gradient_norms(
                        backend, self.walk, gradient_pass.gradients
                    )
                    self._step(partial(step, gradient_pass.gradients), spec)
                    clear()
                    del gradient_pass  # or the next pass needs memory for two sets of gradients
            after = self._digests()
            updates = self._updates(start, before, after)
        return ProbeRun(spec.name, flags, gradients, before, after, updates, tuple(live))

    def _step(self, step: Callable[[], None], spec: OptimizerSpec) -> None:
        try:
            step()
        except Exception as error:
            raise TargetError(
                f"{spec.name}, with which parity is shown, cannot train this model "
                f"in {self.backend.name}: {error}",
                hint="if a layer gives sparse gradients, build it without them for the check",
            ) from error

    @contextmanager
    def _listening(self) -> Iterator[dict[str, None]]:
        """Note which of the stochastic layers that the plan turns off run in training mode."""
        tree, live = self.walk.tree, dict[str, None]()
        with ExitStack() as stack:
            for index in self.resolution.quiet:
                if tree.kinds[index] == STOCHASTIC:
                    note = partial(self._note_mode, index, live)
                    stack.callback(self.backend.hook(self.walk.module(index), note, _ignore))
            yield live

    def _note_mode(self, index: int, live: dict[str, None]) -> None:
        if self.backend.modes(self.walk)[index]:
            live[self.walk.tree.paths[index]] = None

    def _forward_and_backward(self, number: int) -> GradientPass:
        """Run one forward and backward pass, as a training loop does."""
        backend, config = self.backend, self.config
        backend.train_mode(self.model)
        _seed_all(backend, config.seed + number)
        return backend.forward_and_backward(
            self.walk,
            lambda: floating_outputs(backend, backend.run(self.model, config.batch)),
            self._weigh,
        )

    def _weigh(self, outputs: Outputs) -> dict[str, Array]:
        """Return the weights of the outputs that the loss may use."""
        wanted = self.config.outputs
        used = {key: key for key in outputs if wanted is None or key in wanted}
        if not used:
            raise TargetError(
                "the model returns no floating tensor that a loss could be made of",
                context=f"it returns: {shown_outputs(outputs)}; "
                f"asked for: {listing(wanted or ()) or 'any'}",
            )
        return seeded_weights(outputs, used, self.config.seed)

    def _plant_gradients(self) -> None:
        """Leave a gradient on everything that is about to be frozen, as an earlier step would."""
        backend = self.backend
        generator = np.random.default_rng(self.config.seed)
        for tensor, trainable in zip(self.walk.tensors, self.resolution.trainable, strict=True):
            if not trainable and backend.is_floating(tensor) and backend.get_flag(tensor):
                noise = generator.standard_normal([int(n) for n in tensor.shape])
                backend.set_gradient(tensor, backend.from_array(noise, tensor))

    def _parameters(self) -> dict[str, LiveTensor]:
        return dict(self.walk.named())

    def _digests(self) -> dict[str, str]:
        prints = self.backend.fingerprint(self.model, self.backend.objects(self.model))
        return {path: digest.bits for path, digest in prints.items()}

    def _updates(
        self, start: dict[str, LiveTensor], before: dict[str, str], after: dict[str, str]
    ) -> dict[str, float]:
        """Return the largest change of a value, for each parameter whose bits changed."""
        backend, updates = self.backend, {}
        for path, tensor in self._parameters().items():
            if before.get(path) != after.get(path):
                change = backend.to_array(tensor) - backend.to_array(start[path])
                updates[path] = float(np.max(np.abs(change), initial=0.0))
        return updates


def _seed_all(backend: ExperimentOperations, seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    backend.seed(seed)


def _ignore(_result: Any) -> None:
    pass
