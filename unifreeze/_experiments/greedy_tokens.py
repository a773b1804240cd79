"""Let a live model continue its inputs by the likeliest tokens; it comes back bit for bit."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from unifreeze._experiments.experiment_operations import ExperimentOperations
from unifreeze._experiments.model_outputs import floating_outputs
from unifreeze._experiments.restoring import python_random_state, restored
from unifreeze._protocol.batches import Array, Batch
from unifreeze._protocol.curve_data import TokenConfig, TokenRun
from unifreeze._protocol.live import Model
from unifreeze.errors import counted


def run_greedy_tokens(backend: ExperimentOperations, model: Model, config: TokenConfig) -> TokenRun:
    """Continue a batch of token ids, one token after the other, each the likeliest."""
    walk = backend.walk(model)
    tokens: list[tuple[int, ...]] = []
    leads: list[tuple[float, ...]] = []
    stopped, batch = "", config.batch
    with restored(backend, walk) as rewind, ExitStack() as stack:
        stack.enter_context(backend.random_state())
        stack.enter_context(python_random_state())
        rewind()
        for path, array in config.values.items():
            backend.assign(model, path, array)
        for _ in range(config.count):
            backend.turn_random_off(walk)
            try:
                outputs = floating_outputs(backend, backend.run(model, batch), caches=True)
            except Exception as error:
                if not tokens:
                    raise
                stopped = f"{type(error).__name__} with {counted(_length(batch), 'token')}"
                break
            scores = backend.to_array(outputs[config.output])[:, -1].astype(np.float64)
            best = scores.argmax(-1)
            ordered = np.sort(scores, -1)
            largest = np.abs(scores).max() or 1.0
            leads.append(tuple(((ordered[:, -1] - ordered[:, -2]) / largest).tolist()))
            tokens.append(tuple(best.tolist()))
            batch = _grown(batch, best)
    return TokenRun(tuple(tokens), tuple(leads), stopped)


def token_ids(batch: Batch) -> Array | None:
    """Return a batch's token ids: the first whole numbers in rows, those named so before others."""
    named = [array for name, array in batch.kwargs.items() if "ids" in name and "input" in name]
    arrays = [*named, *batch.args, *batch.kwargs.values()]
    return next((a for a in arrays if a.ndim == 2 and a.dtype.kind in "iu"), None)


def _length(batch: Batch) -> int:
    ids = token_ids(batch)
    return 0 if ids is None else ids.shape[1]


def _grown(batch: Batch, tokens: Array) -> Batch:
    """Add tokens at the end of the ids; other inputs of their shape go on as they are."""
    ids = token_ids(batch)
    assert ids is not None

    def grown(array: Array) -> Array:
        if array is ids:
            last = tokens
        elif array.shape != ids.shape or array.dtype.kind not in "iub":
            return array
        elif array.shape[1] > 1 and np.array_equal(array, array[:, :1] + np.arange(array.shape[1])):
            last = array[:, -1] + 1  # positions
        else:
            last = array[:, -1]  # a mask, or the number of a sentence
        return np.concatenate([array, last[:, None].astype(array.dtype)], 1)

    named = {name: grown(array) for name, array in batch.kwargs.items()}
    return Batch(tuple(map(grown, batch.args)), named)
