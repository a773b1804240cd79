"""The first forward pass under a plan: it shows whether counting layers as registered was right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unifreeze.backend import Backend, Undo
from unifreeze.errors import ResolveError
from unifreeze.plan import FreezePlan
from unifreeze.resolution import Resolution, check_order, rests_on_order
from unifreeze.structure import ModelSpec, Trace, Tree, derive

Phases = Sequence[tuple[str, FreezePlan, Resolution]]
"""For each phase its name, the plan that holds in it, and what that decided."""
Pairs = Sequence[tuple[str, Resolution, Resolution | ResolveError]]
"""For each phase its name, what was decided, and what is by order of execution."""


class OrderCheck:
    """Watches a model until one whole forward pass has run, and then never again.

    Attributes:
        lost: A compiler runs the model, so that no pass can be seen.
    """

    def __init__(
        self, phases: Callable[[], Phases], decide: Callable[[ModelSpec], Sequence[Resolution]]
    ) -> None:
        """Make one.

        Args:
            phases: Returns the phases as they are now.
            decide: Resolves all phases together against another description.
        """
        self._phases, self._decide, self.lost = phases, decide, False
        self._seen: Tree | None = None
        self._stop: Undo | None = None
        self._awaited = 0
        """How many models, held as one, have not run yet."""

    def watch(self, backend: Backend, model: Any) -> Undo:
        """Watch a model whose plan rests on the order of its layers; return what stops it.

        What is returned keeps neither this nor the model alive.
        """
        self.stop()
        phases = self._phases()
        spec = phases[0][2].spec
        if spec.tree is not self._seen and rests_on_order([plan for _, plan, _ in phases], spec):
            self._awaited = max(len(spec.tree.members), 1)
            self._stop = backend.watch_order(model, self._compare, self._lose)
        return self._stop or _nothing

    def stop(self) -> None:
        """Stop watching."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    def _lose(self) -> None:
        self.lost = True

    def _compare(self, trace: Trace) -> None:
        phases = self._phases()
        spec = phases[0][2].spec
        executed = derive(spec.tree, trace, found=spec.found)
        executed = executed.with_found(spec.found, spec.standing)
        check_order(self._pairs(phases, executed), executed)
        self._awaited -= 1
        if not self._awaited:
            self._seen, self.lost = spec.tree, False

    def _pairs(self, phases: Phases, executed: ModelSpec) -> Pairs:
        try:
            decided = self._decide(executed)
        except ResolveError as error:  # which names the phase
            return [("", phases[0][2], error)]
        rows = zip(phases, decided, strict=True)
        return [(name, now, then) for (name, _, now), then in rows]


def _nothing() -> None:
    pass
