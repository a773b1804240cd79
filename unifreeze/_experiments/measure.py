"""Measuring a live model on a few batches; flags, modes, statistics and bits come back after.

Everything that can train does, whatever the flags say. The model runs in inference mode: what is
measured is the function that fine-tuning starts from, so dropout is off, and a norm uses its
running statistics, which hold.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Any

from unifreeze._experiments.loss import Scored, score_by
from unifreeze._experiments.probe import python_random_state, restored
from unifreeze._experiments.sketch import kept_attributes
from unifreeze._modules.walking import Walk
from unifreeze._numerics.measurements import Bypass, MeasureConfig, MeasureRun
from unifreeze._numerics.outputs import tensors_in
from unifreeze._plan import FreezePlan
from unifreeze._resolution import Resolution, resolve_spec
from unifreeze.errors import TargetError

if TYPE_CHECKING:
    from unifreeze._modules.module_backend import ModuleBackend

_SEED = 0


def run_measure(backend: ModuleBackend, model: Any, config: MeasureConfig) -> MeasureRun:
    """Measure gradients, and losses with modules passed by; the model is restored bit for bit.

    Raises:
        TargetError: There is no batch, no value, no finite loss, or no gradient, or the loss turns
            training mode on.
    """
    walk = backend.walk(model)
    everything = resolve_spec(FreezePlan().train("all"), backend.describe(model))
    if backend.has_no_values(walk):
        raise TargetError("the model has no values yet", hint="initialise it first")
    with restored(backend, walk) as rewind, backend.random_state(), python_random_state():
        batches = list(islice(config.batches, config.most))
        if not batches:
            raise TargetError("there is no batch to measure on", hint="give one or more")
        rewind()
        undo = backend.write(model, everything)
        try:
            with kept_attributes(walk):
                backend.turn_random_off(walk)
                return _Measuring(backend, model, walk, config, batches).run(everything)
        finally:
            _drop_gradients(backend, walk)
            undo()


class _Measuring:
    """One measurement under way."""

    def __init__(
        self,
        backend: ModuleBackend,
        model: Any,
        walk: Walk,
        config: MeasureConfig,
        batches: list[Any],
    ) -> None:
        self.backend, self.model, self.walk = backend, model, walk
        self.config, self.batches = config, batches
        self.score = score_by(backend, config.loss, config.labels)

    def run(self, everything: Resolution) -> MeasureRun:
        """Measure gradients on every batch, then the loss without each block."""
        spec, live = everything.spec, everything.trainable.tolist()
        rows = zip(spec.parameters, self.walk.tensors, live, strict=True)
        tensors = {row.path: tensor for row, tensor, trains in rows if trains}
        weights = {path: self.backend.norm(tensor) for path, tensor in tensors.items()}
        gradients = []
        for number, batch in enumerate(self.batches, start=1):
            gradients.append(self._gradients(batch, tensors))
            self.config.progress("gradients", number, len(self.batches))
        with self.backend.inference(self.walk):
            losses = self._losses()
            blocks = self.config.blocks
            bypassed = {}
            for number, path in enumerate(blocks, start=1):
                bypassed[path] = self._pass_by(self.walk.module(spec.module_numbers[path]))
                self.config.progress("blocks", number, len(blocks))
        return MeasureRun(losses, weights, tuple(gradients), bypassed)

    def _score(self, batch: Any) -> Scored:
        self.backend.seed(_SEED)
        before = self.backend.modes(self.walk)
        scored = self.score(self.model, batch)
        now = self.backend.modes(self.walk)
        if any(trains and not trained for trained, trains in zip(before, now, strict=True)):
            # Dropout and batch statistics would enter, and nothing would tell.
            raise TargetError(
                "the loss puts the model in training mode, and it is measured in inference mode",
                hint="leave model.train() out of the loss",
            )
        return scored

    def _losses(self) -> tuple[float, ...]:
        return tuple(self._score(batch).value for batch in self.batches)

    def _gradients(self, batch: Any, tensors: dict[str, Any]) -> dict[str, float]:
        backend, scored = self.backend, self._score(batch)
        if not isfinite(scored.value):
            raise TargetError(
                f"the loss of a batch is {scored.value}",
                hint="nothing measured on it means a thing",
            )
        if not backend.backward(scored.outputs, scored.weights):
            raise TargetError(
                "no gradient comes from the loss",
                hint="compute it from what the model returns, without detaching it",
            )
        found = {path: backend.get_gradient(tensor) for path, tensor in tensors.items()}
        norms = {p: backend.norm(g) for p, g in found.items() if g is not None}
        _drop_gradients(backend, self.walk)
        return norms

    def _pass_by(self, module: Any) -> Bypass:
        """Evaluate with a module's input in place of what it returns."""
        swap = _Swap(self.backend)
        undo = self.backend.around_forward(module, swap)
        try:
            losses = self._losses()
        except Exception as error:
            reason = swap.why or f"without it the model fails: {type(error).__name__}: {error}"
            return Bypass(why=reason)
        finally:
            undo()
        if swap.why or not swap.calls:
            return Bypass(why=swap.why or "it does not run on these batches")
        if not all(map(isfinite, losses)):
            return Bypass(why="the loss without it is not a finite number")
        return Bypass(losses)


class _Swap:
    """Stands around a forward pass, and hands on the first input where it fits."""

    def __init__(self, backend: ModuleBackend) -> None:
        self.backend, self.calls, self.why = backend, 0, ""

    def __call__(self, forward: Callable[..., Any], args: Any, named: Any) -> Any:
        self.calls += 1
        backend = self.backend
        inputs = tensors_in((list(args), dict(named)), backend.is_tensor)
        given = next(filter(backend.is_floating, inputs), None)
        if given is None:
            self.why = "it takes no floating tensor"
            return forward(*args, **named)
        given = backend.clone(given)  # the module may work on it in place
        result = forward(*args, **named)
        if backend.is_tensor(result):
            return given if self._fits(given, result) else result
        if type(result) not in (tuple, list) or not result or not backend.is_tensor(result[0]):
            self.why = f"it returns a {type(result).__name__}: what of it is passed on is unknown"
            return result
        return type(result)([given, *result[1:]]) if self._fits(given, result[0]) else result

    def _fits(self, given: Any, returned: Any) -> bool:
        (shape, dtype), (its_shape, its_dtype) = map(
            self.backend.reader.shape_of, (given, returned)
        )
        if shape != its_shape:
            before, after = ("x".join(map(str, one)) for one in (shape, its_shape))
            self.why = f"it changes the shape, {before} to {after}"
        elif dtype != its_dtype:
            self.why = f"it changes the type, {dtype} to {its_dtype}"
        return not self.why


def _drop_gradients(backend: ModuleBackend, walk: Walk) -> None:
    for tensor in walk.tensors:
        backend.set_gradient(tensor, None)
