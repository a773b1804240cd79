"""Train a live model for a number of steps on a seeded loss, and return the loss of each step.

The model computes as in `step.py`, and comes back bit for bit.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from unifreeze._experiments.experiment_operations import ExperimentOperations, Outputs
from unifreeze._experiments.model_outputs import floating_outputs, no_gradient
from unifreeze._experiments.nudging import nudge
from unifreeze._experiments.restoring import drop_gradients, python_random_state, restored
from unifreeze._experiments.step import set_comparable_modes
from unifreeze._numerics.seeded_losses import grade
from unifreeze._protocol.batches import Array
from unifreeze._protocol.curve_data import CurveConfig
from unifreeze._protocol.live import Model
from unifreeze._resolution import Resolution


def run_loss_curve(
    backend: ExperimentOperations, model: Model, resolution: Resolution, config: CurveConfig
) -> tuple[float, ...]:
    """Train a model under a plan; return the loss before each step and after the last one."""
    walk = backend.walk(model)
    losses: list[float] = []
    batch = config.batch

    def forward() -> Outputs:
        return floating_outputs(backend, backend.run(model, batch), caches=True)

    def weigh(outputs: Outputs) -> dict[str, Array]:
        values = backend.to_array(outputs[config.output])
        graded = grade(config.name, values, config.seed)
        losses.append(graded.loss)
        return {config.output: graded.gradient.astype(values.dtype)}

    with restored(backend, walk) as rewind, ExitStack() as stack:
        stack.enter_context(backend.random_state())
        stack.enter_context(python_random_state())
        rewind()
        stack.callback(backend.write(model, resolution))
        if config.double:
            stack.enter_context(backend.double(walk))
        stack.callback(drop_gradients, backend, walk)
        for path, array in config.values.items():
            backend.assign(model, path, array)
        optimizer = config.optimizer
        if config.nudge and not config.double:
            # A framework that holds AdamW's betas in single precision takes other steps by this.
            optimizer = replace(optimizer, lr=optimizer.lr * (1 + 2**-17))
        step, clear = backend.plain_optimizer(model, optimizer)
        for number in range(config.steps + 1):
            # Each step rounds anew. In float64 only what a framework may keep in single precision
            # does, an epsilon or a momentum, so that one move is enough; but by such a unit.
            if config.nudge and not (number and config.double):
                spec = resolution.spec
                batch = nudge(backend, model, spec, config.batch, double=False, step=number)
            set_comparable_modes(backend, model, walk, resolution)
            backend.seed(config.seed)
            gradient_pass = backend.forward_and_backward(walk, forward, weigh)
            if not gradient_pass.reached:
                raise no_gradient(gradient_pass.outputs)
            if number < config.steps:
                step(gradient_pass.gradients)
            clear()
    return tuple(losses)
