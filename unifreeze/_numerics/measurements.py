"""What is measured of a model on a few batches: how gradients are spread, what a block is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


def _untold(what: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class MeasureConfig:
    """What to measure.

    Attributes:
        batches: Batches as `loss` takes them, or as a `Batch` is made of; `most` are drawn.
        loss: Takes the live model and a batch, and returns a tensor of one number. None for what
            the model returns as its `loss`, or the cross-entropy of `labels`.
        labels: Name of the array in each batch that holds labels, which the model is not given.
        blocks: Native paths of modules to pass by, one at a time.
        most: How many batches are used.
        progress: Told what is done, how much of it, and how much there is.
    """

    batches: Iterable[Any]
    loss: Callable[[Any, Any], Any] | None = None
    labels: str = ""
    blocks: tuple[str, ...] = ()
    most: int = 5
    progress: Callable[[str, int, int], None] = _untold


class Bypass(NamedTuple):
    """What came of passing one module by.

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
        gradients: For each batch, the norm of each of their gradients; none for those that got
            none.
        bypassed: For each module that was to be passed by, what came of it.
    """

    losses: tuple[float, ...]
    weights: Mapping[str, float]
    gradients: tuple[Mapping[str, float], ...]
    bypassed: Mapping[str, Bypass]
