"""Notice that a model trains: a function is called when a forward pass of training begins."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial

from unifreeze._modules.module_operations import ModuleOperations
from unifreeze._protocol.live import Layer, Model
from unifreeze._protocol.results import Undo
from unifreeze._undo import undo_all


class TrainingWatch:
    """Calls a function when a forward pass of training begins.

    Attributes:
        trains: Returns True if a forward pass that begins now is one of training.
        call: The function.
    """

    def __init__(self, trains: Callable[[], bool], call: Callable[[], None]) -> None:
        self.trains, self.call = trains, call

    def begins(self) -> None:
        """Call the function if the pass is one of training."""
        if self.trains():
            self.call()

    def ends(self, *, complete: bool) -> None:
        """Do nothing."""

    followed = begins


def watch_training(
    backend: ModuleOperations, roots: Iterable[Model], call: Callable[[], None]
) -> Undo:
    """Call a function when a model, or a part of it, begins a forward pass of training.

    Args:
        backend: The models' backend.
        roots: The models.
        call: The function; only the models themselves hold it, and not their parts.
    """
    stops: list[Undo] = []
    stop = partial(undo_all, stops)
    try:
        _watch_entrances(backend, roots, call, stops)
        return stop
    except BaseException:
        stop()
        raise


def _watch_entrances(
    backend: ModuleOperations, roots: Iterable[Model], call: Callable[[], None], stops: list[Undo]
) -> None:
    """Put a watch on each module that a loop may call; `stops` gets what stops each."""
    for root in roots:
        first = TrainingWatch(partial(_trains, backend, root), call)
        from_part = partial(_call_of, weakref.ref(first))  # a walk holds parts, but not the model
        for module in _entrances(backend, root):
            part = TrainingWatch(partial(_trains, backend, module), from_part)
            stops.append(backend.on_forward(module, first if module is root else part))


def _trains(backend: ModuleOperations, module: Layer) -> bool:
    return not backend.runs_itself and backend.trains(module)


def _call_of(reference: weakref.ref[TrainingWatch]) -> None:
    watch = reference()
    if watch is not None:
        watch.call()


def _entrances(backend: ModuleOperations, root: Layer) -> list[Layer]:
    """Return a module and its children, because a loop may call only these.

    A plain list of modules is never called; the modules in it are returned instead.
    """
    seen, entrances, waiting = {id(root)}, [root], [root]
    while waiting:
        for child in backend.reader.dicts(waiting.pop())[0].values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                (entrances if backend.runs(child) else waiting).append(child)
    return entrances
