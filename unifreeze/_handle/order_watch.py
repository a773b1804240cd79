"""Watches forward passes under a plan: do layers run in the order in which the plan counts them?"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from unifreeze._handle.resolved_phases import ResolvedPhases
from unifreeze._handle.step_reminders import warn_unseen
from unifreeze._identity import WeakIdentitySet
from unifreeze._protocol import Backend, Undo
from unifreeze._resolution import (
    Places,
    Resolution,
    check_order,
    never_ran,
    rests_on_order,
    used_owners,
)
from unifreeze._structure import ModelSpec, Trace, Tree, derive
from unifreeze._undo import nothing
from unifreeze.errors import ResolveError, counted, listing

Pairs = Sequence[tuple[str, Resolution, Resolution | ResolveError]]
"""For each phase its name, what it decided, and what it decides by order of execution."""

PASSES = 3
"""After this many passes that run nothing new, the watch no longer waits for idle layers."""
_AS_REGISTERED = "layers are counted as registered, and"


class OrderWatch:
    """Watches a model until its passes have run all that a plan counts, and then never again.

    A pass that takes a branch shows the order of that branch alone; the rest stays open.

    Attributes:
        lost: A compiler runs the model, so that no pass can be seen.
    """

    def __init__(self, phases: Callable[[], ResolvedPhases]) -> None:
        """Begin without watching anything.

        Args:
            phases: Returns the plan's phases as they are now.
        """
        self._phases, self.lost = phases, False
        self._stop: Undo | None = None
        self._places: Places = {}
        self._open: dict[int, int] = {}
        """The awaited modules, each with its number of passes in a row that showed nothing new."""
        self._tree: Tree | None = None
        self._ran: frozenset[int] = frozenset()
        self._passed: set[int] = set()
        self._warned = False
        self._optimizers = WeakIdentitySet()

    def watch(self, backend: Backend, model: Any) -> Undo:
        """Watch a model whose plan rests on the order of its layers; return the call that stops it.

        The returned call keeps neither this object nor the model alive.
        """
        self.stop()
        phases = self._phases()
        spec = phases.resolution.spec
        places = rests_on_order([plan for _, plan, _ in phases.rows()], spec)
        if spec.tree is not self._tree or places != self._places:
            self._tree, self._places, self._ran = spec.tree, places, frozenset()
            tops = [top for top in _outermost(places, spec.tree) if any(self._idle(top))]
            self._open, self._passed = dict.fromkeys(tops, 0), set()
        if self._open:
            paths = {spec.tree.paths[top]: top for top in self._open}
            self._stop = backend.watch_order(
                model, list(paths), lambda path, trace: self._take(paths[path], trace), self._lose
            )
        return self._ended(self._stop) if self._stop is not None else nothing

    def _ended(self, stop: Undo) -> Undo:
        """Return a call that ends a watch and does not keep this object alive."""
        order = weakref.ref(self)

        def end() -> None:
            stop()
            live = order()
            if live is not None and live._stop is stop:
                live._stop = None

        return end

    def stop(self) -> None:
        """Stop watching."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    def expect(self, backend: Backend, *optimizers: Any) -> None:
        """Warn once an optimizer has taken a step, if none of the awaited passes came before."""
        order = weakref.ref(self)

        def stepped(optimizer: Any) -> bool:
            live = order()
            return live is None or live.stepped(backend, optimizer)

        for optimizer in optimizers if self._unproven else ():
            if optimizer not in self._optimizers:
                self._optimizers.add(optimizer)
                backend.on_step(optimizer, stepped)

    def stepped(self, backend: Backend, optimizer: Any) -> bool:
        """Look at the first step of an optimizer; return True if later steps do not matter."""
        if not self._unproven:
            return True
        if not backend.has_gradients(optimizer):
            return False  # nothing has run
        self._warned = True
        warn_unseen()
        return True

    @property
    def _unproven(self) -> bool:
        """True while no awaited pass was seen and no warning was given."""
        waits = self._stop is not None and bool(self._open) and not self._passed
        return waits and not self._warned and not self.lost

    @property
    def unseen(self) -> str:
        """Why it is not known that layers run in the order of counting; "" if it is known."""
        if not self._open:
            return ""
        if self.lost:
            return f"{_AS_REGISTERED} a compiler runs them: give a batch to be sure"
        if not self._passed.intersection(self._open):
            return (
                f"{_AS_REGISTERED} no forward pass has shown their order: give a batch to be sure"
            )
        idle = [path for top in self._open for path in self._idle(top)]
        have = counted(len(idle), "parameter has", "parameters have")
        return f"{_AS_REGISTERED} {have} not run yet: {listing(idle)}"

    @property
    def remark(self) -> str:
        """The text for a report: why the order is not known, or what never ran."""
        if self._open or not self._places or self._tree is None:
            return self.unseen
        idle = [path for top in _outermost(self._places, self._tree) for path in self._idle(top)]
        return f"never ran while the order of layers was watched: {listing(idle)}" if idle else ""

    def _idle(self, top: int) -> Iterator[str]:
        """Yield the parameters below a module that the plan counts, and that have not run."""
        return never_ran(self._places, self._phases().resolution.spec, self._ran, below=top)

    def _lose(self) -> None:
        self.lost = True

    def _take(self, top: int, trace: Trace) -> bool:
        """Compare what a pass of a module has run; return True if no further pass is awaited."""
        phases = self._phases()
        spec = phases.resolution.spec
        executed = derive(spec.tree, trace, found=spec.found)
        executed = executed.with_found(spec.found, spec.standing)
        ran = used_owners(executed)
        if new := not ran <= self._ran:
            check_order(self._pairs(phases, executed), executed)
            self._ran |= ran
        self._passed.add(top)
        self.lost = False
        self._open[top] = 0 if new else self._open.get(top, 0) + 1
        if self._open[top] < PASSES and any(self._idle(top)):
            return False
        del self._open[top]
        return True

    def _pairs(self, phases: ResolvedPhases, executed: ModelSpec) -> Pairs:
        try:
            decided = phases.decided(executed)
        except ResolveError as error:  # which names the phase
            return [("", phases.resolutions[0], error)]
        rows = zip(phases.rows(), decided, strict=True)
        return [(name, now, then) for (name, _, now), then in rows]


def _outermost(places: Places, tree: Tree) -> list[int]:
    """Return the outermost modules to watch: their passes show everything that is counted."""
    tops = set(tree.children(0)) if 0 in places and tree.members else set(places)
    return sorted(top for top in tops if not any(t < top < tree.ends[t] for t in tops))
