"""Measure a live model on a few batches; flags, modes, statistics and bits are put back.

All parameters that can train are measured, whatever their flags. The model runs in inference mode,
because fine-tuning starts from that function: dropout is off, and norms use running statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Any

from unifreeze._experiments.experiment_operations import ExperimentOperations, Outputs
from unifreeze._experiments.loss import Scored, score_by
from unifreeze._experiments.restoring import (
    drop_gradients,
    kept_attributes,
    python_random_state,
    restored,
)
from unifreeze._modules.walking import Walk
from unifreeze._numerics.measurements import Bypass, MeasureConfig, MeasureRun
from unifreeze._numerics.outputs import tensors_in
from unifreeze._plan import FreezePlan
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import Layer, LiveTensor, Model
from unifreeze._resolution import Resolution, resolve_spec
from unifreeze.errors import TargetError

_SEED = 0
_LOSS = "loss"


def run_measure(backend: ExperimentOperations, model: Model, config: MeasureConfig) -> MeasureRun:
    """Measure gradients, and losses with modules bypassed; the model is restored bit for bit.

    Raises:
        TargetError: There is no batch, no value, no finite loss, or no gradient, or the loss turns
            training mode on.
    """
    walk = backend.walk(model)
    everything = resolve_spec(FreezePlan().train("all"), backend.describe(model))
    if backend.has_no_values(walk):
        raise TargetError("the model has no values yet", hint="initialise it first")
    with restored(backend, walk) as rewind, ExitStack() as stack:
        stack.enter_context(backend.random_state())
        stack.enter_context(python_random_state())
        batches = list(islice(config.batches, config.most))
        if not batches:
            raise TargetError("there is no batch to measure on", hint="give at least one")
        rewind()
        stack.callback(backend.write(model, everything))
        stack.callback(drop_gradients, backend, walk)
        stack.enter_context(kept_attributes(backend, walk))
        backend.turn_random_off(walk)
        return _Measuring(backend, model, walk, config, batches).run(everything)


@dataclass
class _Measuring:
    """One measurement under way."""

    backend: ExperimentOperations
    model: Model
    walk: Walk
    config: MeasureConfig
    batches: list[Any]

    def __post_init__(self) -> None:
        self.score = score_by(self.backend, self.config.loss, self.config.labels)

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
            # Dropout and batch statistics would change the loss, and nothing would show it.
            raise TargetError(
                "the loss puts the model in training mode, but a measurement needs inference mode",
                hint="leave model.train() out of the loss",
            )
        return scored

    def _losses(self) -> tuple[float, ...]:
        scores = map(self._score, self.batches)
        return tuple(scored.grade(self.backend.to_array(scored.tensor))[0] for scored in scores)

    def _gradients(self, batch: Any, tensors: Mapping[str, LiveTensor]) -> dict[str, float]:
        """Return the norm of each parameter's gradient of a batch's loss."""
        backend, scores = self.backend, list[Scored]()

        def forward() -> Outputs:
            scores.append(self._score(batch))
            return {_LOSS: scores[-1].tensor}

        def weigh(outputs: Outputs) -> dict[str, Array]:
            value, weights = scores[-1].grade(backend.to_array(outputs[_LOSS]))
            if not isfinite(value):
                raise TargetError(
                    f"the loss of a batch is {value}",
                    hint="a batch whose loss is not finite cannot be measured",
                )
            return {_LOSS: weights}

        gradient_pass = backend.forward_and_backward(self.walk, forward, weigh)
        if not gradient_pass.reached:
            raise TargetError(
                "no gradient comes from the loss",
                hint="compute it from what the model returns, without detaching it",
            )
        gradients = gradient_pass.gradients
        norms = {path: backend.norm(gradients[path]) for path in tensors if path in gradients}
        drop_gradients(backend, self.walk)
        return norms

    def _pass_by(self, module: Layer) -> Bypass:
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
    """Runs around a forward pass, and returns the first input instead where it fits."""

    def __init__(self, backend: ExperimentOperations) -> None:
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
            self.why = (
                f"it returns a {type(result).__name__}, and it is unknown which part is passed on"
            )
            return result
        return type(result)([given, *result[1:]]) if self._fits(given, result[0]) else result

    def _fits(self, given: LiveTensor, returned: LiveTensor) -> bool:
        shape_of = self.backend.reader.shape_of
        (shape, dtype), (its_shape, its_dtype) = shape_of(given), shape_of(returned)
        if shape != its_shape:
            before, after = ("x".join(map(str, sizes)) for sizes in (shape, its_shape))
            self.why = f"it changes the shape, {before} to {after}"
        elif dtype != its_dtype:
            self.why = f"it changes the type, {dtype} to {its_dtype}"
        return not self.why
