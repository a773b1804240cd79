"""Looks at the first steps of each phase: does everything that trains get a gradient?

Reentrant recomputing, which is the default in both frameworks, runs modules with gradients switched
off, and runs them again only if their input has a gradient. Below it nothing trains, without an
error. A model's own code may do that anywhere, so it shows only when the model runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakMethod

from unifreeze._identity import WeakIdentitySet
from unifreeze._protocol import Backend, Undo
from unifreeze._resolution import Resolution
from unifreeze._undo import nothing
from unifreeze.errors import UnsupportedPlanError, counted, listing

_LOGGER = logging.getLogger("unifreeze")
_CURE = (
    "use_reentrant=False where the model calls checkpoint or recompute; "
    "gradient_checkpointing_kwargs={'use_reentrant': False} in transformers; or train what comes "
    "before it, too"
)


class FirstGradients:
    """Looks at gradients at the first step under each resolution, and again at the next if it must.

    Only where a parameter has no gradient are its modules watched, until the next step.
    """

    def __init__(self, resolution: Callable[[], Resolution], model: Any) -> None:
        """Begin without looking.

        Args:
            resolution: Returns what the plan decides now.
            model: The live model.
        """
        self._resolution, self._model = resolution, model
        self._looked_at: Resolution | None = None
        self._modes: Callable[[], Mapping[str, bool]] | None = None
        self._stop: Undo = nothing
        self._done = False
        self._optimizers = WeakIdentitySet()

    def expect(self, backend: Backend, *optimizers: Any) -> None:
        """Look when an optimizer takes its first steps."""
        method = WeakMethod(self.stepped)

        def stepped(optimizer: Any) -> bool:
            live = method()
            return live is None or live(backend, optimizer)

        for optimizer in optimizers:
            if optimizer not in self._optimizers:
                self._optimizers.add(optimizer)
                backend.on_step(optimizer, stepped)

    def stepped(self, backend: Backend, optimizer: Any) -> bool:
        """Look at the gradients of a step; return True if later steps do not matter.

        Raises:
            UnsupportedPlanError: A parameter that trains belongs to a module that ran with
                gradients switched off alone.
        """
        resolution = self._resolution()
        if self._looked_at is not resolution:
            self.stop()
            self._looked_at, self._done = resolution, False
        if self._done or not backend.has_gradients(optimizer):
            return self._done
        live = backend.objects(self._model)
        updated = set(map(id, backend.optimizer_parameters(optimizer)))
        missing = [p for p in backend.without_gradient(self._model) if id(live[p]) in updated]
        if missing and self._modes is None:
            self._modes, self._stop = backend.watch_gradient_modes(self._model, missing)
            return False
        modes = self._modes() if self._modes is not None else {}
        self.stop()
        self._done = True
        _tell(missing, modes)
        return True

    def stop(self) -> None:
        """Stop watching modules."""
        self._stop()
        self._modes, self._stop = None, nothing


def _tell(missing: list[str], modes: Mapping[str, bool]) -> None:
    """Raise for parameters whose modules ran without gradients alone; log the others."""
    switched_off = [path for path in missing if modes.get(path) is False]
    if switched_off:
        raise UnsupportedPlanError(
            f"{_counted(switched_off)} no gradient: their modules ran in training, but with "
            "gradients switched off alone",
            context=listing(switched_off),
            hint=_CURE,
        )
    if missing:
        _LOGGER.info(
            "%s no gradient: their modules did not run, or their output was not used: %s",
            _counted(missing),
            listing(missing),
        )


def _counted(paths: list[str]) -> str:
    return counted(len(paths), "parameter that trains has", "parameters that train have")
