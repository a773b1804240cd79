"""Watch a live module's forward passes: two hooks call back until the watch is stopped.

Nothing else in the module changes. The hooks of a copy, or of a pickled module, call nobody, and
are taken off when the copy runs for the first time.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, Protocol

from unifreeze._protocol.live import Layer
from unifreeze._protocol.results import Undo

_numbers = count()


class ForwardWatch(Protocol):
    """What is called back around the forward passes of a module."""

    def begins(self) -> None:
        """A forward pass begins."""

    def ends(self, *, complete: bool) -> None:
        """A forward pass has ended; it is not complete if it raised, or returned None."""

    def followed(self) -> None:
        """A compiler records a forward pass: its code will not call back."""


class Hooks(NamedTuple):
    """A module's own dictionaries of hooks around its forward pass.

    Attributes:
        before: Called with the module and its inputs.
        after: Called with the module, its inputs and its outputs.
        always: Keys of the hooks in `after` that are also called, without outputs, after an error.
    """

    before: OrderedDict[Any, Any]
    after: OrderedDict[Any, Any]
    always: OrderedDict[Any, Any]


def _nothing_more(_module: Layer) -> None:
    pass


class Way(NamedTuple):
    """How one framework calls hooks; plain functions, so that it can be pickled.

    Attributes:
        hooks: Returns the dictionaries of a module.
        follows: Returns True while a tracer or compiler records what runs; it gets the watch's key.
        gone: Called with a module after its last watch was taken off.
    """

    hooks: Callable[[Any], Hooks]
    follows: Callable[[str], bool]
    gone: Callable[[Any], None] = _nothing_more


class _On:
    """The state of a watch that is on a module; a watch that was stopped is None.

    Only the module's hooks hold it, so that the function that stops it keeps no model alive.
    """

    def __init__(self, watch: ForwardWatch) -> None:
        self.watch: ForwardWatch | None = watch
        self.calls = False

    def call(self, function: Callable[..., None], **named: bool) -> None:
        """Call one of the watch's methods; meanwhile the framework goes through the hooks."""
        self.calls = True
        try:
            function(**named)
        finally:
            self.calls = False


_known: weakref.WeakValueDictionary[str, _On] = weakref.WeakValueDictionary()

_recording: list[str] = []
"""Keys of the watches that a compiler calls now; it counts on a module's hooks as they are."""


class SilentInCopies:
    """A function that a hook calls; in a copy of the hook, or a pickle, it does nothing."""

    def __init__(self, call: Callable[..., None] | None = None) -> None:
        self._call = call

    def __call__(self, *results: Any) -> None:
        """Call the function, unless this is a copy."""
        if self._call is not None:
            self._call(*results)

    def __reduce__(self) -> tuple[type[SilentInCopies], tuple[()]]:
        return SilentInCopies, ()


class _Hook:
    """A hook around a forward pass; a copy of it calls nobody."""

    def __init__(self, key: str, way: Way, on: _On | None = None) -> None:
        self.key, self.way, self.on = key, way, on

    def __reduce__(self) -> tuple[type[_Hook], tuple[str, Way]]:
        return type(self), (self.key, self.way)


class Before(_Hook):
    """The hook before a forward pass."""

    def __call__(self, module: Layer, _inputs: Any) -> None:
        """Call the watch."""
        if self.way.follows(self.key):
            return
        after = self.way.hooks(module).after
        if self.key in after and not _is_last(after, self.key):
            after.move_to_end(self.key)  # only the last hook can be taken off while it is called
        if self.on is not None and self.on.watch is not None:
            self.on.call(self.on.watch.begins)


class After(_Hook):
    """The hook after a forward pass."""

    @property
    def idle(self) -> bool:
        """True if nobody is called back: the watch was stopped, or this is a copy."""
        return self.on is None or self.on.watch is None

    def __call__(self, module: Layer, _inputs: Any, outputs: Any) -> None:
        """Call the watch; the last hook of a module takes off all that are idle."""
        if self.way.follows(""):
            return
        if self.on is not None and self.on.watch is not None:
            self.on.call(self.on.watch.ends, complete=outputs is not None)
        after = self.way.hooks(module).after
        if _is_last(after, self.key):
            hooks = [(key, hook) for key, hook in after.items() if isinstance(hook, After)]
            for key in [key for key, hook in hooks if hook.idle]:
                _take_off(module, self.way, key)


def watch_module(module: Layer, watch: ForwardWatch, way: Way) -> Undo:
    """Call back around a module's forward passes; return the function that stops it."""
    key, on = f"unifreeze {next(_numbers)}", _On(watch)
    before, after, always = way.hooks(module)
    module_now, on_now = weakref.ref(module), weakref.ref(on)

    def stop() -> None:
        live, state = module_now(), on_now()
        if state is not None:
            state.watch = None
        called = bool(_recording) or (state is not None and state.calls)
        if live is not None and not called:
            _take_off(live, way, key)

    _take_off_idle(module, way)
    try:
        before[key], after[key], always[key] = Before(key, way, on), After(key, way, on), True
        before.move_to_end(key, last=False)
        _known[key] = on
        return stop
    except BaseException:
        stop()
        raise


def forget(module: Layer, way: Way) -> None:
    """Take the hooks of every watch off a module, or off a copy of one."""
    for key in _keys(way.hooks(module)):
        _take_off(module, way, key)


def tell_followed(key: str) -> None:
    """Notify the watch with a key that a compiler records a forward pass."""
    on = _known.get(key)
    if on is not None and on.watch is not None:
        _recording.append(key)
        try:
            on.call(on.watch.followed)
        finally:
            _recording.pop()


def _is_last(hooks: OrderedDict[Any, Any], key: str) -> bool:
    return next(reversed(hooks), None) == key


def _keys(hooks: Hooks) -> list[str]:
    return [key for key, hook in hooks.before.items() if isinstance(hook, Before)]


def _take_off_idle(module: Layer, way: Way) -> None:
    """Take off hooks that call nobody and could not be taken off when they were stopped."""
    before = way.hooks(module).before
    hooks = [(key, hook) for key, hook in before.items() if isinstance(hook, Before)]
    for key, hook in hooks:
        if hook.on is not None and hook.on.watch is None and not hook.on.calls:
            _take_off(module, way, key)


def _take_off(module: Layer, way: Way, key: str) -> None:
    hooks = way.hooks(module)
    for hooks_of_one_sort in hooks:
        hooks_of_one_sort.pop(key, None)
    if not _keys(hooks):
        way.gone(module)
