"""The probe: seeded training steps on a live model, seen from outside, everything put back after.

It trains as users do: the optimizer holds every parameter and is built before freezing, stale
gradients lie about, and the loop calls the model's training mode before every step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from unifreeze._modules.tracing import trace_forward
from unifreeze._modules.walking import Walk
from unifreeze._numerics.outputs import loss_weights, outputs_in
from unifreeze._protocol.protocol import (
    Batch,
    Chosen,
    OptimizerSpec,
    ProbeConfig,
    ProbeResult,
    ProbeRun,
)
from unifreeze._resolution import Resolution
from unifreeze._structure import STOCHASTIC
from unifreeze.errors import TargetError, listing

if TYPE_CHECKING:
    from unifreeze._modules.module_backend import ModuleBackend


def run_probe(
    backend: ModuleBackend, model: Any, resolution: Resolution, config: ProbeConfig
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


def first_gradients(
    backend: ModuleBackend, model: Any, batch: Batch
) -> tuple[dict[str, float | None], frozenset[str]]:
    """Run one forward and backward pass as the model stands; it is restored bit for bit.

    Returns:
        The norm of every parameter's gradient, and the native paths of what was used.
    """
    walk = backend.walk(model)
    trace = trace_forward(backend, walk, model, batch)
    with restored(backend, walk) as rewind, backend.random_state(), python_random_state():
        rewind()
        backend.help_backward(walk)
        backend.train_mode(model)
        found = floating_outputs(backend, backend.run(model, batch))
        weighted_backward(backend, found, {key: key for key in found}, seed=0)
        return backend.gradients(model), frozenset(trace.calls)


def floating_outputs(
    backend: ModuleBackend, result: Any, *, caches: bool = False
) -> dict[str, Any]:
    """Return the floating tensors in a model's result by where they are in it; see `outputs_in`."""
    found = outputs_in(result, backend.is_tensor, caches=caches)
    return {key: tensor for key, tensor in found.items() if backend.is_floating(tensor)}


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return a live tensor's shape as plain numbers."""
    return tuple(int(size) for size in tensor.shape)


def shown_outputs(found: Mapping[str, Any]) -> str:
    """Write a model's outputs for a message."""
    return listing(f"{key} {list(shape_of(tensor))}" for key, tensor in found.items()) or "none"


def weighted_backward(
    backend: ModuleBackend, found: Mapping[str, Any], chosen: Chosen, seed: int
) -> bool:
    """Run backward from a weighted sum of outputs; return False where nothing takes part.

    Args:
        backend: The model's backend.
        found: Its floating outputs.
        chosen: Those to use, with the names that their weights follow from.
        seed: Seed of the weights.
    """
    weights = [loss_weights(name, shape_of(found[key]), seed) for key, name in chosen.items()]
    return backend.backward([found[key] for key in chosen], weights)


def no_gradient(found: Mapping[str, Any]) -> TargetError:
    """Return the error for a model none of whose outputs is a function of a parameter."""
    return TargetError(
        "the model returns no floating tensor that a gradient could come from",
        context=f"it returns: {shown_outputs(found)}",
    )


@contextmanager
def restored(backend: ModuleBackend, walk: Walk) -> Iterator[Any]:
    """Keep values, flags, guards, modes and gradients; yields what puts the values back."""
    values = [(tensor, backend.clone(tensor)) for tensor in walk.tensors]
    gradients = [(tensor, backend.kept_gradient(tensor)) for tensor in walk.tensors]
    flags = [backend.get_flag(tensor) for tensor in walk.tensors]
    guards, modes = backend.get_guards(walk), _modes_asked_for(backend, walk)
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

        def put_modes_back() -> None:
            backend.set_guards(walk, {})
            backend.set_modes(walk, modes)
            backend.set_guards(walk, guards)

        def put_gradients_back() -> None:
            for tensor, gradient in gradients:
                backend.set_gradient(tensor, gradient)

        # Each is done though another fails.
        with ExitStack() as last:
            last.callback(put_gradients_back)
            last.callback(put_modes_back)
            last.callback(rewind)
            yield rewind


def _modes_asked_for(backend: ModuleBackend, walk: Walk) -> list[bool]:
    """Return each module's training flag as the training loop set it, guards apart."""
    guards = backend.get_guards(walk)
    backend.set_guards(walk, {})
    modes = backend.modes(walk)
    backend.set_guards(walk, guards)
    return modes


@contextmanager
def python_random_state() -> Iterator[None]:
    """Put back what models draw from besides their framework's generators."""
    python, array = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


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

    def train(self, spec: OptimizerSpec, outputs: dict[str, tuple[int, ...]]) -> ProbeRun:
        """Plant, freeze, train; return what was seen."""
        backend, model = self.backend, self.model
        step, clear = backend.plain_optimizer(model, spec)
        self._plant_gradients()
        start = {path: backend.clone(t) for path, t in self._parameters().items()}
        # Taken before the plan is written: writing must not change a value either.
        before = self._digests()
        undo = backend.write(model, self.resolution)
        try:
            flags = backend.read(model)
            gradients: dict[str, float | None] = {}
            with self._listening() as live:
                for number in range(self.config.steps):
                    outputs |= self._step_forward(number)
                    gradients = gradients or backend.gradients(model)
                    self._step(step, spec)
                    clear()
            after = self._digests()
            updates = self._updates(start, before, after)
        finally:
            undo()
            for tensor in self.walk.tensors:
                backend.set_gradient(tensor, None)
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

    def _step_forward(self, number: int) -> dict[str, tuple[int, ...]]:
        """Run one forward and backward pass; return the shapes of all floating outputs."""
        backend, config = self.backend, self.config
        backend.train_mode(self.model)
        _seed_all(backend, config.seed + number)
        found = floating_outputs(backend, backend.run(self.model, config.batch))
        used = {key: key for key in found if config.outputs is None or key in config.outputs}
        if not used:
            raise TargetError(
                "the model returns no floating tensor that a loss could be made of",
                context=f"it returns: {shown_outputs(found)}; "
                f"asked for: {listing(config.outputs or ()) or 'any'}",
            )
        weighted_backward(backend, found, used, config.seed)
        return {key: shape_of(tensor) for key, tensor in found.items()}

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
            if before.get(path) != after.get(path):
                change = backend.to_array(tensor) - backend.to_array(start[path])
                updates[path] = float(np.max(np.abs(change), initial=0.0))
        return updates


def _seed_all(backend: ModuleBackend, seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    backend.seed(seed)


def _ignore(_result: Any) -> None:
    pass
