"""Calls of the modules of a live model, each handed to the pass that is running.

For the time of a `with` block each module has a stand-in for its `forward` in its own dictionary.
No module is swapped, and copies of the model have the plain `forward`.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any, Protocol, TypeAlias

from unifreeze._cache.operations import CacheOperations
from unifreeze._modules.walking import Walk
from unifreeze._protocol.live import Layer
from unifreeze.errors import CacheError

CallKey: TypeAlias = tuple[tuple[int, int], ...]
"""Names one call in a forward pass: from the outermost call inwards, the module's number, and how
many calls of it came before within the same outer call."""
Forward: TypeAlias = Callable[..., Any]
Caller: TypeAlias = Callable[[CallKey, int, Forward, Sequence[Any], dict[str, Any]], Any]
"""Runs one call: its key, the number of its module, that module's forward function, its inputs."""


class Pass(Protocol):
    """What is done with the calls of one forward pass."""

    def call(
        self, number: int, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Return the result of a call of the module with a number."""


class Plain:
    """A pass in which every call just runs."""

    def call(
        self, number: int, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Run a call."""
        return forward(*args, **kwargs)


class Frames:
    """The calls that are running, which give the next one its key."""

    def __init__(self) -> None:
        self.key: CallKey = ()
        self._counts: list[dict[int, int]] = [{}]

    def next_key(self, number: int) -> CallKey:
        """Return the key of a call that begins now."""
        counts = self._counts[-1]
        count = counts.get(number, 0)
        counts[number] = count + 1
        return (*self.key, (number, count))

    @contextmanager
    def inside(self, key: CallKey) -> Iterator[None]:
        """Take the calls of this block as made by the call with a key."""
        outer, self.key = self.key, key
        self._counts.append({})
        try:
            yield
        finally:
            self.key = outer
            self._counts.pop()


class ModuleCalls:
    """Stand-ins for the forward functions of a model's modules.

    Attributes:
        running: The pass that is running; None outside of any forward pass.
        outside: The number of calls of parts of the model that ran without a cache.
        no_copy: Why the model cannot be copied now; "" if it can.
    """

    def __init__(
        self,
        backend: CacheOperations,
        walk: Walk,
        whole: Callable[..., Any],
        part: Callable[..., Any] | None = None,
    ) -> None:
        """Prepare; nothing changes before `put_in`.

        Args:
            backend: The model's backend.
            walk: The model as walked.
            whole: Takes the model's own forward function and its inputs, and returns its result.
            part: Takes the number of a part of the model that is called outside of the model's
                own forward pass, and the same; None to just run such parts.
        """
        self.running: Pass | None = None
        self.outside = 0
        self.no_copy = ""
        self._backend, self._walk, self._whole, self._part = backend, walk, whole, part
        self._thread = threading.get_ident()
        self._put: list[tuple[Layer, Any]] = []

    def put_in(self) -> None:
        """Give each module its stand-in."""
        seen: set[int] = set()
        for number, module in enumerate(self._walk.modules):
            if id(module) not in seen and self._backend.runs(module):
                seen.add(id(module))
                attributes = module.__dict__
                self._put.append((module, attributes.get("forward")))
                attributes["forward"] = _StandIn(self, number, module)

    def take_out(self) -> None:
        """Give each module its own forward function back."""
        while self._put:
            module, before = self._put.pop()
            if isinstance(module.__dict__.get("forward"), _StandIn):
                if before is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = before

    @contextmanager
    def aside(self, number: int) -> Iterator[None]:
        """Let a module and those inside it be called without a stand-in meanwhile."""
        inside = range(number, self._walk.tree.ends[number])
        modules = [self._walk.module(n) for n in inside]
        put = [(vars(m), vars(m).get("forward")) for m in modules]
        stand_ins = [(own, stand_in) for own, stand_in in put if isinstance(stand_in, _StandIn)]
        try:
            for own, stand_in in stand_ins:
                own["forward"] = stand_in.plain  # in its place, so that the order stays
            yield
        finally:
            for own, stand_in in stand_ins:
                own["forward"] = stand_in

    @contextmanager
    def during(self, running: Pass) -> Iterator[None]:
        """Hand the calls of this block to a pass."""
        outer, self.running = self.running, running
        try:
            yield
        finally:
            self.running = outer

    def call(
        self, number: int, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Run one call of a module."""
        if threading.get_ident() != self._thread:
            raise CacheError(
                "the model runs in another thread than the one that began the cached block",
                hint="run it in one thread of each process; several devices: one process each",
            )
        if self.running is not None:
            return self.running.call(number, forward, args, kwargs)
        if number == 0:
            return self._whole(forward, args, kwargs)
        if self._part is not None:
            return self._part(number, forward, args, kwargs)
        return forward(*args, **kwargs)


class _StandIn:
    """Stands in for one module's `forward`; a copy of it is the plain function."""

    def __init__(self, calls: ModuleCalls, number: int, module: Layer) -> None:
        self._calls, self._number, self._module = calls, number, module
        self._own: Forward | None = module.__dict__.get("forward")
        self._of_class = type(module).forward
        self._bound: Forward = module.forward

    @property
    def plain(self) -> Forward:
        """The module's forward function, which somebody may have given its class anew."""
        if self._own is None and type(self._module).forward is not self._of_class:
            self._of_class = type(self._module).forward
            self._bound = MethodType(self._of_class, self._module)
        return self._bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._calls.call(self._number, self.plain, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        # Trainers read the names of a model's inputs from its forward function.
        if name == "__signature__":
            return inspect.signature(self.plain)
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Callable[[Forward], Forward], tuple[Forward]]:
        if self._calls.no_copy:
            raise CacheError(
                f"the model cannot be copied or pickled: {self._calls.no_copy}",
                hint="run.restore_frozen() before",
            )
        return _same, (self.plain,)


def is_stand_in(forward: object) -> bool:
    """Return whether a module's `forward` is a stand-in."""
    return isinstance(forward, _StandIn)


def _same(forward: Forward) -> Forward:
    return forward
