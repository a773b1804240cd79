"""What is measured on a few batches: gradients, and the loss without each of some blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


def _silent(job: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class MeasureConfig:
    """What to measure.

    Attributes:
        batches: Batches as `loss` takes them, or as a `Batch` is made of; `most` are drawn.
        loss: Takes the live model and a batch, and returns a tensor of one number. None for the
            `loss` that the model returns, or the cross-entropy of `labels`.
        labels: Name of the array in each batch that holds labels, which the model is not given.
        blocks: Native paths of modules to pass by, one at a time.
        most: How many batches are used.
        progress: Called with the job, how many parts are done, and how many there are.
    """

    batches: Iterable[Any]
    loss: Callable[[Any, Any], Any] | None = None
    labels: str = ""
    blocks: tuple[str, ...] = ()
    most: int = 5
    progress: Callable[[str, int, int], None] = _silent


class Bypass(NamedTuple):
    """The loss without one module.

    Attributes:
        losses: The loss of each batch; () where the module cannot be passed by.
        why: Why it cannot.
    """

    losses: tuple[float, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class MeasureRun:
    """What the batches showed; keys are native paths, of parameters their first.

    Attributes:
        losses: The loss of each batch.
        weights: Norm of each parameter that could train.
        gradients: For each batch, the norm of each parameter's gradient; parameters without one
            are left out.
        bypassed: For each module that was passed by, the loss without it.
    """

    losses: tuple[float, ...]
    weights: Mapping[str, float]
    gradients: tuple[Mapping[str, float], ...]
    bypassed: Mapping[str, Bypass]
