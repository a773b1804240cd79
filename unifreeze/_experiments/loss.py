"""The loss of a measurement: the user's, the model's, or the cross-entropy of labels.

A batch without any of these cannot be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from unifreeze._experiments.experiment_operations import ExperimentOperations
from unifreeze._numerics.outputs import tensors_in
from unifreeze._protocol.batches import Array, Batch
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze.errors import TargetError, listing

IGNORED = -100
"""The label that both frameworks' cross-entropies ignore."""


class Scored(NamedTuple):
    """The tensor that a batch's loss is computed from.

    Attributes:
        tensor: A live output.
        grade: Takes its values; returns the loss, and its gradient with respect to them.
    """

    tensor: LiveTensor
    grade: Callable[[Array], tuple[float, Array]]


Score = Callable[[Model, Any], Scored]
"""Takes a live model and a batch."""


def score_by(
    backend: ExperimentOperations, loss: Callable[[Any, Any], Any] | None, labels: str
) -> Score:
    """Return the loss in the form that a measurement uses.

    Args:
        backend: The model's backend.
        loss: The user's, or None.
        labels: Name of the array in a batch that holds the labels, or "".
    """
    if loss is not None:
        given = loss
        return lambda model, batch: _own(backend, given(model, batch))
    if labels:
        return lambda model, batch: _labelled(backend, model, Batch.of(batch), labels)
    return lambda model, batch: _returned(backend, model, Batch.of(batch))


def _own(backend: ExperimentOperations, loss: Any) -> Scored:
    if not _is_number(backend, loss):
        raise TargetError(
            f"the loss returned {_described(backend, loss)}, not a single number",
            hint=f"return one {backend.name} tensor: lambda model, batch: criterion(model(…), …)",
        )
    return Scored(loss, lambda value: (float(value.reshape(())), np.ones(value.shape)))


def _is_number(backend: ExperimentOperations, value: Any) -> bool:
    return backend.is_tensor(value) and prod(backend.reader.shape_of(value)[0]) == 1


def _described(backend: ExperimentOperations, value: Any) -> str:
    if backend.is_tensor(value):
        return f"a tensor of shape {list(backend.reader.shape_of(value)[0])}"
    return f"a {type(value).__name__}"


def _returned(backend: ExperimentOperations, model: Model, batch: Batch) -> Scored:
    """Take the loss that the model itself returns when it gets labels."""
    result = backend.run(model, batch)
    loss = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
    if loss is None and isinstance(result, tuple | list) and result and "labels" in batch.kwargs:
        # Models that return tuples return the loss first.
        loss = result[0] if _is_number(backend, result[0]) else None
    if loss is None:
        raise TargetError(
            "the model returns no loss, so there is nothing to measure",
            context=f"it returns {_described(backend, result)}; it takes no labels of the batch",
            hint="give loss=lambda model, batch: …, or name the labels in the batch: labels=…",
        )
    return _own(backend, loss)


def _labelled(backend: ExperimentOperations, model: Model, batch: Batch, name: str) -> Scored:
    """Choose the output that the labels of a batch fit; it is graded by mean cross-entropy."""
    if name not in batch.kwargs:
        raise TargetError(
            f"the batch has no array {name!r} for the labels",
            context=f"its named arrays: {listing(batch.kwargs) or 'none'}",
            hint=""
            if batch.kwargs
            else f"name its arrays, {{'x': …, {name!r}: …}}, or give a loss",
        )
    labels = np.asarray(batch.kwargs[name])
    if labels.dtype.kind not in "iu":
        raise TargetError(
            f"labels are whole numbers, and {name} is {labels.dtype}",
            hint="for another loss, give one from Python: suggest(model, batches=…, loss=…)",
        )
    rest = {key: value for key, value in batch.kwargs.items() if key != name}
    result = backend.run(model, replace(batch, kwargs=rest))
    tensors = [t for t in tensors_in(result, backend.is_tensor) if backend.is_floating(t)]
    for tensor in tensors:
        shape = backend.reader.shape_of(tensor)[0]
        for axis in {len(shape) - 1, 1}:
            if len(shape) > axis > 0 and (*shape[:axis], *shape[axis + 1 :]) == labels.shape:
                return Scored(tensor, partial(cross_entropy, labels=labels, axis=axis))
    shapes = [str(list(backend.reader.shape_of(tensor)[0])) for tensor in tensors]
    raise TargetError(
        f"labels of shape {list(labels.shape)} fit nothing that the model returns",
        context=f"it returns: {listing(shapes) or 'no floating tensor'}",
        hint="scores have the labels' shape and one more axis, for the classes",
    )


def cross_entropy(scores: Array, labels: Array, axis: int) -> tuple[float, Array]:
    """Return the mean cross-entropy and its gradient by the scores; -100 stands for no label.

    Raises:
        TargetError: A label is of no class.
    """
    wide = np.moveaxis(scores.astype(np.float64), axis, -1)
    counted = labels != IGNORED
    if not counted.any() or labels[counted].min() < 0 or labels[counted].max() >= wide.shape[-1]:
        raise TargetError(
            f"labels run from {labels.min()} to {labels.max()}",
            context=f"the model tells {wide.shape[-1]} classes apart",
            hint=f"classes count from 0; {IGNORED} stands for no label",
        )
    shifted = wide - wide.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    chosen = np.where(counted, labels, 0)[..., None].astype(np.intp)
    value = -np.take_along_axis(logs, chosen, -1)[..., 0][counted].mean()
    gradient = np.exp(logs)
    np.put_along_axis(gradient, chosen, np.take_along_axis(gradient, chosen, -1) - 1, -1)
    gradient *= counted[..., None] / counted.sum()
    return float(value), np.moveaxis(gradient, -1, axis)
