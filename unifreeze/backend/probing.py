"""The probe: seeded training steps on a live model, seen from outside, everything put back after.

It trains as users do: the optimizer holds every parameter and is built before freezing, stale
gradients lie about, and the loop calls the model's training mode before every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from unifreeze.backend.outputs import loss_weights, output_ids, tensors_in
from unifreeze.backend.protocol import OptimizerSpec, ProbeConfig, ProbeResult, ProbeRun
from unifreeze.backend.tracing import trace_forward
from unifreeze.backend.walking import Walk
from unifreeze.resolution import Resolution

if TYPE_CHECKING:
    from unifreeze.backend.base import ModuleBackend


def run_probe(
    backend: ModuleBackend, model: Any, resolution: Resolution, config: ProbeConfig
) -> ProbeResult:
    """Run the probe and return what it showed; the model is restored bit for bit."""
    walk = backend.walk(model)
    trace = trace_forward(backend, walk, model, config.batch)
    outputs: list[str] = []
    with _restored(backend, walk) as rewind, backend.random_state():
        runs = []
        for spec in config.optimizers:
            rewind()
            runs.append(_Run(backend, model, walk, resolution, config).train(spec, outputs))
    return ProbeResult(tuple(outputs), trace.calls, tuple(runs))


@contextmanager
def _restored(backend: ModuleBackend, walk: Walk) -> Iterator[Any]:
    """Keep values, flags, guards, modes and gradients; yields what puts the values back."""
    values = [(tensor, backend.clone(tensor)) for tensor in walk.tensors]
    gradients = [(tensor, backend.get_gradient(tensor)) for tensor in walk.tensors]
    flags = [backend.get_flag(tensor) for tensor in walk.tensors]
    guards, modes = backend.get_guards(walk), backend.modes(walk)
    with ExitStack() as stack:
        for tensor, _ in gradients:
            backend.set_gradient(tensor, None)

        def rewind() -> None:
            stack.close()
            stack.enter_context(backend.unchanged_state(walk))
            for tensor, clone in values:
                backend.copy_into(tensor, clone)
            for tensor, flag in zip(walk.tensors, flags, strict=True):
                backend.set_flag(tensor, flag)

        try:
            yield rewind
        finally:
            rewind()
            backend.set_guards(walk, guards)
            backend.set_modes(walk, modes)
            for tensor, gradient in gradients:
                backend.set_gradient(tensor, gradient)


class _Run:
    """The steps of one optimizer."""

    def __init__(
        self,
        backend: ModuleBackend,
        model: Any,
        walk: Walk,
        resolution: Resolution,
        config: ProbeConfig,
    ) -> None:
        self.backend, self.model, self.walk = backend, model, walk
        self.resolution, self.config = resolution, config

    def train(self, spec: OptimizerSpec, outputs: list[str]) -> ProbeRun:
        """Plant, freeze, train; return what was seen."""
        backend, model = self.backend, self.model
        step, clear = backend.plain_optimizer(model, spec)
        self._plant_gradients()
        undo = backend.write(model, self.resolution)
        try:
            flags = backend.read(model)
            start = {path: backend.clone(t) for path, t in self._parameters().items()}
            before = self._digests()
            gradients: dict[str, float | None] = {}
            for number in range(self.config.steps):
                outputs[:] = self._step_forward(number)
                gradients = gradients or backend.gradients(model)
                step()
                clear()
            after = self._digests()
            updates = self._updates(start, before, after)
        finally:
            undo()
            for tensor in self.walk.tensors:
                backend.set_gradient(tensor, None)
        return ProbeRun(spec.name, flags, gradients, before, after, updates)

    def _step_forward(self, number: int) -> list[str]:
        """Run one forward and backward pass; return the ids of all floating outputs."""
        backend, config = self.backend, self.config
        backend.train_mode(self.model)
        backend.seed(config.seed + number)
        result = backend.run(self.model, config.batch)
        found = [t for t in tensors_in(result, backend.is_tensor) if backend.is_floating(t)]
        shapes = [tuple(int(n) for n in tensor.shape) for tensor in found]
        ids = output_ids(shapes)
        used = [n for n, i in enumerate(ids) if config.outputs is None or i in config.outputs]
        weights = [loss_weights(ids[n], shapes[n], config.seed) for n in used]
        backend.backward([found[n] for n in used], weights)
        return ids

    def _plant_gradients(self) -> None:
        """Leave a gradient on everything that is about to be frozen, as an earlier step would."""
        backend = self.backend
        generator = np.random.default_rng(self.config.seed)
        for tensor, trainable in zip(self.walk.tensors, self.resolution.trainable, strict=True):
            if not trainable and backend.is_floating(tensor) and backend.get_flag(tensor):
                noise = generator.standard_normal([int(n) for n in tensor.shape])
                backend.set_gradient(tensor, backend.from_array(noise, tensor))

    def _parameters(self) -> dict[str, Any]:
        tree = self.walk.tree
        named = zip(tree.names, tree.tensor_of, strict=True)
        return {name: self.walk.tensors[tensor] for name, tensor in named}

    def _digests(self) -> dict[str, str]:
        prints = self.backend.fingerprint(self.model, self.backend.objects(self.model))
        return {path: one.bits for path, one in prints.items()}

    def _updates(
        self, start: dict[str, Any], before: dict[str, str], after: dict[str, str]
    ) -> dict[str, float]:
        """Return the largest change of a value, for each parameter whose bits changed."""
        backend, updates = self.backend, {}
        for path, tensor in self._parameters().items():
            if before[path] != after[path]:
                change = backend.to_array(tensor) - backend.to_array(start[path])
                updates[path] = float(np.max(np.abs(change), initial=0.0))
        return updates
