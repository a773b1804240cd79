"""Watching a live module's forward passes: two hooks that call back until the watch is stopped.

Nothing else of the module changes. On a copy of it, or one that was pickled, the hooks are deaf,
and go when it runs for the first time.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from unifreeze.backend.protocol import Undo

if TYPE_CHECKING:
    from unifreeze.backend.operations import Operations

_numbers = count()


class ForwardWatch(Protocol):
    """What is called back around the forward passes of a module."""

    def begins(self) -> None:
        """A forward pass begins."""

    def ends(self, *, complete: bool) -> None:
        """A forward pass has ended; it is not complete if it raised, or returned None."""

    def followed(self) -> None:
        """A compiler follows a forward pass: what it makes of it will not call back."""


class TrainingWatch:
    """Calls back as a forward pass that trains begins.

    Attributes:
        trains: Tells whether a forward pass now would be one.
        call: What is called.
    """

    def __init__(self, trains: Callable[[], bool], call: Callable[[], None]) -> None:
        self.trains, self.call = trains, call

    def begins(self) -> None:
        """Call if it is one that trains."""
        if self.trains():
            self.call()

    def ends(self, *, complete: bool) -> None:
        """Nothing is to be done."""

    followed = begins


class Hooks(NamedTuple):
    """A module's own dictionaries of hooks around its forward pass.

    Attributes:
        before: Called with the module and its inputs.
        after: Called with the module, its inputs and its outputs.
        always: Keys of those in `after` that are called, without outputs, after an error too.
    """

    before: OrderedDict[Any, Any]
    after: OrderedDict[Any, Any]
    always: OrderedDict[Any, Any]


def _nothing_more(_module: Any) -> None:
    pass


class Way(NamedTuple):
    """How one framework calls hooks; plain functions, so that it can be pickled.

    Attributes:
        hooks: Returns the dictionaries of a module.
        follows: Tells whether a tracer or compiler follows what runs now; told a watch's key.
        gone: Called with a module when its last watch has been taken off.
    """

    hooks: Callable[[Any], Hooks]
    follows: Callable[[str], bool]
    gone: Callable[[Any], None] = _nothing_more


class _On:
    """A watch that is on a module; without a watch it has been stopped.

    The module's hooks alone hold it, so that what stops it does not keep the module alive.
    """

    def __init__(self, watch: ForwardWatch) -> None:
        self.watch: ForwardWatch | None = watch
        self.calls = False

    def call(self, what: Callable[..., None], **named: bool) -> None:
        self.calls = True  # the framework goes through the hooks: none may be taken off
        try:
            what(**named)
        finally:
            self.calls = False


_known: weakref.WeakValueDictionary[str, _On] = weakref.WeakValueDictionary()


class Before:
    """The hook before a forward pass."""

    def __init__(self, key: str, way: Way, on: _On | None = None) -> None:
        self.key, self.way, self.on = key, way, on

    def __call__(self, module: Any, _inputs: Any) -> None:
        """Call the watch."""
        if self.way.follows(self.key):
            return
        after = self.way.hooks(module).after
        if self.key in after and not _is_last(after, self.key):
            after.move_to_end(self.key)  # the last one may be taken off while it is called
        if self.on is not None and self.on.watch is not None:
            self.on.call(self.on.watch.begins)

    def __reduce__(self) -> tuple[type[Before], tuple[str, Way]]:
        return Before, (self.key, self.way)


class After:
    """The hook after a forward pass."""

    def __init__(self, key: str, way: Way, on: _On | None = None) -> None:
        self.key, self.way, self.on = key, way, on

    def __call__(self, module: Any, _inputs: Any, outputs: Any) -> None:
        """Call the watch; one that is stopped, or a copy's, is taken off."""
        if self.way.follows(""):
            return
        on = self.on
        if on is not None and on.watch is not None:
            on.call(on.watch.ends, complete=outputs is not None)
        hooks = self.way.hooks(module)
        if (on is None or on.watch is None) and _is_last(hooks.after, self.key):
            _take_off(module, self.way, self.key)

    def __reduce__(self) -> tuple[type[After], tuple[str, Way]]:
        return After, (self.key, self.way)


def watch_training(backend: Operations, roots: Iterable[Any], call: Callable[[], None]) -> Undo:
    """Call back as one of some models, or a part of one, begins a forward pass that trains.

    Args:
        backend: The models' backend.
        roots: The models.
        call: What is called; of the modules, the models themselves alone hold it.
    """
    stops = []
    for root in roots:
        first = TrainingWatch(partial(backend.trains, root), call)
        parts = partial(_call_of, weakref.ref(first))  # walks hold parts, and must hold no model
        for module in _entrances(backend, root):
            other = TrainingWatch(partial(backend.trains, module), parts)
            stops.append(backend.on_forward(module, first if module is root else other))

    def stop() -> None:
        for one in stops:
            one()

    return stop


def _call_of(reference: weakref.ref[TrainingWatch]) -> None:
    watch = reference()
    if watch is not None:
        watch.call()


def _entrances(backend: Operations, root: Any) -> list[Any]:
    """Return a module and its children: a loop may call these, and never the whole.

    Mere lists of modules are never called, so those in them count instead.
    """
    seen, found, waiting = {id(root)}, [root], [root]
    while waiting:
        for child in backend.reader.dicts(waiting.pop())[0].values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                (found if backend.runs(child) else waiting).append(child)
    return found


def watch_module(module: Any, watch: ForwardWatch, way: Way) -> Undo:
    """Call back around a module's forward passes; returns what stops that."""
    key, on = f"unifreeze {next(_numbers)}", _On(watch)
    before, after, always = way.hooks(module)
    before[key], after[key], always[key] = Before(key, way, on), After(key, way, on), True
    before.move_to_end(key, last=False)
    _known[key] = on
    module_now, on_now = weakref.ref(module), weakref.ref(on)

    def stop() -> None:
        live, known = module_now(), on_now()
        if known is not None:
            known.watch = None
        if live is not None and not (known is not None and known.calls):
            _take_off(live, way, key)

    return stop


def forget(module: Any, way: Way) -> None:
    """Take the hooks of every watch off a module, or off a copy of one."""
    for key in _keys(way.hooks(module)):
        _take_off(module, way, key)


def tell_followed(key: str) -> None:
    """Tell the watch of a key that a compiler follows a forward pass."""
    on = _known.get(key)
    if on is not None and on.watch is not None:
        on.call(on.watch.followed)


def _is_last(hooks: OrderedDict[Any, Any], key: str) -> bool:
    return next(reversed(hooks), None) == key


def _keys(hooks: Hooks) -> list[str]:
    return [key for key, hook in hooks.before.items() if isinstance(hook, Before)]


def _take_off(module: Any, way: Way, key: str) -> None:
    hooks = way.hooks(module)
    for held in hooks:
        held.pop(key, None)
    if not _keys(hooks):
        way.gone(module)
