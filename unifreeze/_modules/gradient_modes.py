"""Watches whether modules run with gradients switched on while they train."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial

from unifreeze._modules.module_operations import ModuleOperations
from unifreeze._protocol.live import Layer
from unifreeze._protocol.results import Undo
from unifreeze._undo import undo_all


class _Modes:
    """Notes whether gradients are switched on when one module runs."""

    def __init__(self, backend: ModuleOperations, module: Layer) -> None:
        self._backend, self._module = backend, weakref.ref(module)
        self.seen: set[bool] = set()

    def begins(self) -> None:
        """Note whether gradients are switched on; a pass of an evaluation does not count."""
        if not self._backend.runs_itself and getattr(self._module(), "training", False):
            self.seen.add(self._backend.records_gradients())

    followed = begins

    def ends(self, *, complete: bool) -> None:
        """Do nothing."""


def watch_gradient_modes(
    backend: ModuleOperations, modules: Mapping[str, Layer]
) -> tuple[Callable[[], Mapping[str, bool]], Undo]:
    """Watch some modules, each under the path of a parameter; see the protocol."""
    by_module = {id(module): (module, _Modes(backend, module)) for module in modules.values()}
    stops = [backend.on_forward(module, modes) for module, modes in by_module.values()]
    modes_of = {path: by_module[id(module)][1] for path, module in modules.items()}

    def seen() -> Mapping[str, bool]:
        return {path: True in modes.seen for path, modes in modes_of.items() if modes.seen}

    return seen, partial(undo_all, stops)
