"""What every parameter looks like in each phase, from what a plan decides in it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._drawing.palette import Look
from unifreeze._resolution import Resolution
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import counted

Codes = NDArray[np.int8]
"""A `Look` for each parameter."""


class Share(NamedTuple):
    """How many values of a part of a network have one look."""

    look: Look
    values: int


def looks_of(resolution: Resolution, since: Resolution | None = None) -> Codes:
    """Return what each parameter is drawn as.

    Args:
        resolution: What a plan decides.
        since: What held in the phase before; what trains now and did not then is new.
    """
    spec, trainable = resolution.spec, resolution.trainable
    looks = np.where(trainable, Look.TRAINABLE, Look.FROZEN).astype(np.int8)
    looks[~trainable & _in_held_layers(resolution)] = Look.HELD
    if since is not None:
        looks[trainable & ~_as_here(since, spec)] = Look.NEW
    return looks


def looks_in_phases(resolutions: Sequence[Resolution]) -> list[Codes]:
    """Return what each parameter is drawn as in each phase."""
    before = [None, *resolutions[:-1]]
    return [looks_of(now, then) for now, then in zip(resolutions, before, strict=True)]


def shares(looks: Codes, counts: NDArray[np.int64]) -> list[Share]:
    """Add up the values of each look, those that train first."""
    sums = np.bincount(looks, counts, minlength=len(Look))
    return [Share(look, int(sums[look])) for look in sorted(Look, reverse=True) if sums[look]]


def main_look(looks: Codes, counts: NDArray[np.int64]) -> Look:
    """Return the look that most values of a part have."""
    return max(shares(looks, counts), key=attrgetter("values"), default=Share(Look.FROZEN, 0)).look


def what_trains(resolution: Resolution) -> str:
    """Say how many values train, in numbers."""
    trainable, total = resolution.counts()
    share = trainable / total if total else 0.0
    return f"{trainable:,} of {counted(total, 'value')} train ({share:.2%})"


def decision(trainable: Mask) -> str:
    """Say what was decided for a part, given the decision for each of its parameters."""
    count, whole = int(trainable.sum()), len(trainable)
    if 0 < count < whole:
        return f"{count:,} of {whole:,} trainable"
    return "trainable" if count else "frozen"


def _in_held_layers(resolution: Resolution) -> Mask:
    """Return which parameters belong to a layer whose statistics or other state hold still."""
    spec = resolution.spec
    still = np.zeros(len(spec.tree.paths), np.bool_)
    still[list(resolution.held)] = True
    return np.asarray(still[spec.owner_of[spec.first_names]], np.bool_)


def _as_here(since: Resolution, spec: ModelSpec) -> Mask:
    """Return what trained before, by path if the model was described anew meanwhile."""
    if since.spec is spec or since.spec.tree is spec.tree:
        return since.trainable
    before = set(since.trainable_paths)
    paths = spec.paths_of(np.arange(len(spec)))
    return np.asarray([path in before for path in paths], np.bool_)
