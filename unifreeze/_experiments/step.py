"""Comparable training steps on a live model: given values, a written plan, no random layers.

Layers with running statistics train; everything else runs as in inference, because no two
frameworks draw the same random numbers. The model's own values, flags and modes come back bit for
bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from typing import Any

import numpy as np

from unifreeze._experiments.experiment_operations import (
    ExperimentOperations,
    Gradients,
    Outputs,
)
from unifreeze._experiments.model_outputs import floating_outputs, no_gradient, seeded_weights
from unifreeze._experiments.nudging import nudge
from unifreeze._experiments.restoring import drop_gradients, restored
from unifreeze._modules.walking import Walk
from unifreeze._numerics.outputs import Seen, tensors_in
from unifreeze._numerics.projections import Sketch, sketch_flat, sketch_parts
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.optimizer_settings import OptimizerSpec
from unifreeze._protocol.step_data import StepConfig, StepRun
from unifreeze._resolution import Resolution
from unifreeze._structure import STATISTICS
from unifreeze._undo import nothing


def run_step(
    backend: ExperimentOperations, model: Model, resolution: Resolution, config: StepConfig
) -> StepRun:
    """Run the steps of each optimizer from the same start; the model is restored bit for bit."""
    walk = backend.walk(model)
    steps = _Steps(backend, model, walk, resolution, config)
    with restored(backend, walk) as rewind, backend.random_state():
        for spec in config.optimizers:
            rewind()
            with ExitStack() as stack:
                stack.callback(backend.write(model, resolution))
                if config.double:
                    stack.enter_context(backend.double(walk))
                stack.callback(drop_gradients, backend, walk)
                steps.train(spec)
    return steps.result()


def set_comparable_modes(
    backend: ExperimentOperations, model: Model, walk: Walk, resolution: Resolution
) -> None:
    """Let layers with statistics train, unless the plan holds them; others are in inference."""
    backend.train_mode(model)
    backend.turn_random_off(walk)
    modes, guards = backend.modes(walk), backend.get_guards(walk)
    for owner in resolution.spec.statistics_owners():
        modes[owner] = not (owner in guards and guards[owner].still)
    backend.set_modes(walk, modes)


class _Steps:
    """The steps of every optimizer, and what they have shown so far."""

    def __init__(
        self,
        backend: ExperimentOperations,
        model: Model,
        walk: Walk,
        resolution: Resolution,
        config: StepConfig,
    ) -> None:
        self.backend, self.model, self.walk = backend, model, walk
        self.resolution, self.config = resolution, config
        self.batch = config.batch
        self.first: dict[str, Any] = {}
        self.updates: dict[str, dict[str, Sketch]] = {}
        self.changed: list[tuple[str, str]] = []

    def result(self) -> StepRun:
        """Return what the steps showed."""
        return StepRun(**self.first, updates=self.updates, changed=tuple(self.changed))

    def train(self, spec: OptimizerSpec) -> None:
        """Take one optimizer's steps."""
        backend, model = self.backend, self.model
        for path, array in self.config.values.items():
            backend.assign(model, path, array)
        if self.config.nudge:
            self.batch = nudge(
                backend, model, self.resolution.spec, self.config.batch, double=self.config.double
            )
        step, clear = backend.plain_optimizer(model, spec)
        still = self._still()
        start, before = self._parameters(), backend.fingerprint(model, still)
        for _ in range(self.config.steps):
            seen, gradients = self._forward_and_backward()
            if not self.first:
                weights = self._sketches((path, _wide(array)) for path, array in start.items())
                norms = {name: sketch.norm for name, sketch in weights.items()}
                self.first = {**seen, "weights": norms}
            step(gradients)
            clear()
            del gradients  # or the next pass needs memory for two sets
        ends = self._parameters()
        self.updates[spec.name] = self._sketches(
            (path, _wide(ends[path]) - _wide(start[path])) for path in start
        )
        after = backend.fingerprint(model, still)
        moved = [path for path in still if after[path].bits != before[path].bits]
        self.changed += [(path, spec.name) for path in moved]

    def _forward_and_backward(self) -> tuple[dict[str, Any], Gradients]:
        """Run one pass; return what it showed, and its gradients."""
        backend, config = self.backend, self.config
        set_comparable_modes(backend, self.model, self.walk, self.resolution)
        backend.seed(config.seed)
        before = self._statistics()
        counts: dict[str, list[int]] = {}
        arrays: dict[str, Array] = {}
        chosen: dict[str, str] = {}

        def forward() -> Outputs:
            with self._counted(counts):
                result = backend.run(self.model, self.batch)
            return floating_outputs(backend, result, caches=True)

        def weigh(outputs: Outputs) -> dict[str, Array]:
            arrays.update((key, backend.to_array(tensor)) for key, tensor in outputs.items())
            wanted = {key: key for key in outputs} if config.chosen is None else config.chosen
            chosen.update((key, name) for key, name in wanted.items() if key in outputs)
            return seeded_weights(outputs, chosen, config.seed)

        gradient_pass = backend.forward_and_backward(self.walk, forward, weigh)
        if not gradient_pass.reached:
            raise no_gradient(gradient_pass.outputs)
        after, live = self._statistics(), gradient_pass.gradients
        gradients = {path: backend.to_array(live[path]) for path in self._live() if path in live}
        seen = {
            "dtype": next((str(array.dtype) for array in arrays.values()), ""),
            "outputs": {key: Seen(a.shape, sketch_flat(a)) for key, a in arrays.items()},
            "chosen": chosen,
            "gradients": self._sketches(gradients.items()),
            "statistics": {path: (before[path], after[path]) for path in before},
            "states": self._states(),
            "counts": {path: tuple(calls) for path, calls in counts.items()},
        }
        return seen, live

    def _statistics(self) -> dict[str, Array]:
        states = [(s, t) for s, t in self.walk.states() if t is not None]
        kept = [(s, t) for s, t in states if s.role in STATISTICS and s.role != "count"]
        return {state.path: self.backend.to_array(tensor).copy() for state, tensor in kept}

    def _states(self) -> dict[str, Sketch]:
        """Return what all saved state holds, statistics or not."""
        states = [(s, t) for s, t in self.walk.states() if t is not None]
        kept = [(s, t) for s, t in states if s.persistent and s.role != "count"]
        return self._sketches((s.path, _wide(self.backend.to_array(t))) for s, t in kept)

    def _sketches(self, arrays: Iterable[tuple[str, Array]]) -> dict[str, Sketch]:
        """Sketch arrays one after the other; wide copies of all of them need much memory."""
        sketches: dict[str, Sketch] = {}
        for path, array in arrays:
            sketches |= sketch_parts(path, array, self.config.parts)
        return sketches

    @contextmanager
    def _counted(self, counts: dict[str, list[int]]) -> Iterator[None]:
        """Count the values per channel that each layer with running statistics sees."""
        counts.clear()
        channels = {s.owner: prod(s.shape) for s in self.walk.tree.states if s.role == "var"}
        with ExitStack() as stack:
            for owner, count in channels.items():
                note = partial(self._note, counts, self.walk.tree.paths[owner], count)
                stack.callback(self.backend.hook(self.walk.module(owner), nothing, note))
            yield

    def _note(self, counts: dict[str, list[int]], path: str, channels: int, result: Any) -> None:
        tensor = next(tensors_in(result, self.backend.is_tensor), None)
        if tensor is not None:
            values = prod(int(n) for n in tensor.shape)
            counts.setdefault(path, []).append(values // channels)

    def _still(self) -> list[str]:
        """Return the paths of all tensors that the plan holds still."""
        spec, held = self.resolution.spec, set(self.resolution.held)
        rows = zip(spec.parameters, self.resolution.trainable.tolist(), strict=True)
        paths = [parameter.path for parameter, trainable in rows if not trainable]
        live = self.backend.objects(self.model)
        states = [s.path for s in spec.states if s.moves and s.owner in held and s.path in live]
        return [*paths, *states]

    def _live(self) -> dict[str, LiveTensor]:
        paths = [parameter.path for parameter in self.resolution.spec.parameters]
        return dict(zip(paths, self.walk.tensors, strict=True))

    def _parameters(self) -> dict[str, Array]:
        floating = self.backend.is_floating
        return {p: self.backend.to_array(t) for p, t in self._live().items() if floating(t)}


def _wide(array: Array) -> Array:
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64, copy=False)
