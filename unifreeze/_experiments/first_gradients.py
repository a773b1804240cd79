"""One forward and backward pass of a model as it stands: which parameters get a gradient."""

from __future__ import annotations

from unifreeze._experiments.experiment_operations import ExperimentOperations, Gradients
from unifreeze._experiments.model_outputs import floating_outputs, seeded_weights
from unifreeze._experiments.restoring import python_random_state, restored
from unifreeze._modules.tracing import trace_forward
from unifreeze._modules.walking import Walk
from unifreeze._protocol.batches import Batch
from unifreeze._protocol.live import Model


def first_gradients(
    backend: ExperimentOperations, model: Model, batch: Batch
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
        gradient_pass = backend.forward_and_backward(
            walk,
            lambda: floating_outputs(backend, backend.run(model, batch)),
            lambda outputs: seeded_weights(outputs, {key: key for key in outputs}, seed=0),
        )
        norms = gradient_norms(backend, walk, gradient_pass.gradients)
        return norms, frozenset(trace.calls)


def gradient_norms(
    backend: ExperimentOperations, walk: Walk, gradients: Gradients
) -> dict[str, float | None]:
    """Return the norm of every parameter's gradient; None where there is none."""
    return {
        path: backend.norm(gradients[path]) if path in gradients else None
        for path in walk.first_paths()
    }
