"""Where every run of a comparison begins: a model of its own, with the same weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unifreeze._handle.target import Target
from unifreeze._protocol import Backend, backend_for
from unifreeze.errors import TargetError, UnknownFrameworkError, brief, listing

_SEED_OR_LOAD = "seed is set before each call: draw from it alone, or load weights in make_model"


class Start:
    """Makes a comparison's models, which of one seed begin alike and share nothing.

    Two models are made at once, to find out before anything has trained that they do not.

    Attributes:
        backend: Their backend.
        device: Where they are.
    """

    def __init__(self, make_model: Callable[[], Any], seed: int) -> None:
        self._make_model = make_model
        first = make_model()
        self.backend: Backend = _backend_of(first)
        self._digests: dict[int, dict[str, str]] = {}
        second = self.model(seed)
        self.device = self.backend.device_of(self._whole(second))
        self._check_apart(first, second)

    def model(self, seed: int) -> Any:
        """Make a model.

        Raises:
            TargetError: It is of another framework, or has other weights than one of that seed.
        """
        self.seed(seed)
        made = self._make_model()
        found = backend_for(made)
        if found is not self.backend:
            raise TargetError(
                f"make_model returned a model of {found.name}",
                context=f"the one before was of {self.backend.name}",
                hint="compare plans in one framework at a time",
            )
        digests = self._fingerprint(made)
        _check_same(self._digests.setdefault(seed, digests), digests)
        return made

    def seed(self, seed: int) -> None:
        """Seed whatever a model or its training may draw from."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        self.backend.seed(seed)

    def _whole(self, model: Any) -> Any:
        """Return the model, or what holds several."""
        return Target(model, self.backend).model

    def objects(self, model: Any) -> dict[str, Any]:
        """Return the live tensors of a model, or of several."""
        return self.backend.objects(self._whole(model))

    def _fingerprint(self, model: Any) -> dict[str, str]:
        whole = self._whole(model)
        digests = self.backend.fingerprint(whole, self.backend.objects(whole))
        return {path: digest.bits for path, digest in digests.items()}

    def _check_apart(self, first: Any, second: Any) -> None:
        held = {id(tensor) for tensor in self.objects(first).values()}
        shared = [path for path, tensor in self.objects(second).items() if id(tensor) in held]
        if shared:
            what = "the same model twice" if first is second else "models that share tensors"
            raise TargetError(
                f"make_model returned {what}",
                context=f"shared: {listing(shared)}",
                hint="build the model inside make_model, so that each plan begins with a fresh one",
            )


def _check_same(one: Mapping[str, str], other: Mapping[str, str]) -> None:
    """Refuse a model that does not begin as another did."""
    paths = [*one, *(path for path in other if path not in one)]
    differing = [path for path in paths if one.get(path) != other.get(path)]
    if not differing:
        return
    first = differing[0]
    what = "has other values" if first in one and first in other else "is not in all of them"
    raise TargetError(
        f"make_model returned models that begin differently: {first} {what}",
        context=f"{len(differing)} of {len(paths)} tensors differ",
        hint=_SEED_OR_LOAD,
    )


def _backend_of(made: Any) -> Backend:
    try:
        return backend_for(made)
    except UnknownFrameworkError as error:
        raise TargetError(
            f"make_model returned {brief(made)}, and not a model", hint=error.hint
        ) from None
