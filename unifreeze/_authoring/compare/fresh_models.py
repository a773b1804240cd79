"""The models of a comparison: a fresh one for every run, all with the same weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unifreeze._handle.target import Target
from unifreeze._protocol import Backend, backend_for
from unifreeze._protocol.live import Model
from unifreeze.errors import TargetError, UnknownFrameworkError, brief, counted, listing

_SEED_OR_LOAD = "seed is set before each call: draw from it alone, or load weights in make_model"


class FreshModels:
    """Makes the models of a comparison; those of one seed begin with the same weights.

    Two models are made first, to check before any training that they share no tensor.

    Attributes:
        backend: Their backend.
        device: Their device.
    """

    def __init__(self, make_model: Callable[[], Model], seed: int) -> None:
        self._make_model = make_model
        first = make_model()
        self.backend: Backend = _backend_of(first)
        self._digests: dict[int, dict[str, str]] = {}
        second = self.model(seed)
        self.device = self.backend.device_of(self._whole(second))
        self._check_apart(first, second)

    def model(self, seed: int) -> Model:
        """Make a model.

        Raises:
            TargetError: It is of another framework, or has other weights than one of that seed.
        """
        self.seed(seed)
        model = self._make_model()
        backend = backend_for(model)
        if backend is not self.backend:
            raise TargetError(
                f"make_model returned a model of {backend.name}",
                context=f"the one before was of {self.backend.name}",
                hint="compare plans in one framework at a time",
            )
        digests = self._fingerprint(model)
        _check_same(self._digests.setdefault(seed, digests), digests)
        return model

    def seed(self, seed: int) -> None:
        """Seed every random generator that a model or its training may use."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        self.backend.seed(seed)

    def _whole(self, model: Model) -> Model:
        """Return the model, or the holder of several models."""
        return Target(model, self.backend).model

    def objects(self, model: Model) -> dict[str, Any]:
        """Return the live tensors of a model, or of several."""
        return self.backend.objects(self._whole(model))

    def _fingerprint(self, model: Model) -> dict[str, str]:
        whole = self._whole(model)
        digests = self.backend.fingerprint(whole, self.backend.objects(whole))
        return {path: digest.bits for path, digest in digests.items()}

    def _check_apart(self, first: Model, second: Model) -> None:
        held = {id(tensor) for tensor in self.objects(first).values()}
        shared = [path for path, tensor in self.objects(second).items() if id(tensor) in held]
        if shared:
            what = "the same model twice" if first is second else "models that share tensors"
            raise TargetError(
                f"make_model returned {what}",
                context=f"shared: {listing(shared)}",
                hint="build the model inside make_model, so that each plan begins with a fresh one",
            )


def _check_same(first: Mapping[str, str], second: Mapping[str, str]) -> None:
    """Refuse a model that does not begin with the same weights as another."""
    paths = [*dict.fromkeys((*first, *second))]
    differing = [path for path in paths if first.get(path) != second.get(path)]
    if not differing:
        return
    path = differing[0]
    what = "has other values" if path in first and path in second else "is not in all of them"
    raise TargetError(
        f"make_model returned models that begin differently: {path} {what}",
        context=f"{len(differing)} of {counted(len(paths), 'tensor')} differ",
        hint=_SEED_OR_LOAD,
    )


def _backend_of(model: Model) -> Backend:
    try:
        return backend_for(model)
    except UnknownFrameworkError as error:
        raise TargetError(
            f"make_model returned {brief(model)}, and not a model", hint=error.hint
        ) from None
