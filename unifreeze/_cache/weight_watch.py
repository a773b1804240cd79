"""Notice that a frozen weight has changed, also where nothing leaves a trace of it.

Each step compares what most writes leave behind, and the bits of one tensor in turn; from time to
time the bits of all are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import xxhash

from unifreeze._cache.observing import bits_of
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.python_state import PythonState
from unifreeze._modules.walking import Walk
from unifreeze._protocol.live import LiveTensor
from unifreeze.errors import CacheError, counted


class WeightWatch:
    """The frozen tensors of a model, with the bits that they should have.

    Attributes:
        digest: Of all of them together with their names.
    """

    def __init__(self, backend: CacheOperations, tensors: Sequence[tuple[str, LiveTensor]]) -> None:
        """Read all bits; the tensors are held to them from now on."""
        self._backend, self._tensors = backend, tensors
        self._live = [tensor for _, tensor in tensors]
        self._traces = backend.traces_of(self._live)
        self._bits = [bits_of(backend, [tensor]) for _, tensor in tensors]
        self._next = self._since = 0
        parts = [f"{name} {bits}" for (name, _), bits in zip(tensors, self._bits, strict=True)]
        self.digest = xxhash.xxh3_128("\n".join(parts).encode()).hexdigest()

    @property
    def tensors(self) -> Sequence[tuple[str, LiveTensor]]:
        """The tensors that are watched, with their native paths."""
        return self._tensors

    @property
    def bits(self) -> Sequence[str]:
        """A digest of the bits that each of them should have."""
        return self._bits

    def check_step(self) -> None:
        """Check cheaply; raises `CacheError` if a change is seen."""
        traces = self._backend.traces_of(self._live)
        if traces != self._traces:
            pairs = enumerate(zip(traces, self._traces, strict=True))
            for number in {n % len(self._live) for n, (now, then) in pairs if now != then}:
                self._check(number)
            self._traces = traces
        if self._tensors:
            self._next = (self._next + 1) % len(self._tensors)
            self._check(self._next)
        self._since += 1

    def check_all(self) -> None:
        """Compare all bits; raises `CacheError` if any differ."""
        for number in range(len(self._tensors)):
            self._check(number)
        self._since = 0

    def _check(self, number: int) -> None:
        name, tensor = self._tensors[number]
        if bits_of(self._backend, [tensor]) != self._bits[number]:
            raise CacheError(
                f"{name} is frozen, and has changed while outputs were kept that depend on it",
                context=f"all bits were compared {counted(self._since, 'step')} ago; steps since "
                "may have used outputs of the old values",
                hint="find what writes to it (handle.verify() says how far it moved); to go on "
                "with the new values, begin a new block: with handle.cached(...)",
            )


def frozen_tensors(
    backend: CacheOperations, walk: Walk, modules: Sequence[int], reads: Collection[str]
) -> list[tuple[str, LiveTensor]]:
    """Return all frozen parameters of a model, and what else kept outputs depend on, by path.

    Args:
        backend: The model's backend.
        walk: The model as walked.
        modules: The numbers of the frozen modules, whose state counts, and whose tensors that are
            not registered.
        reads: Paths of state of other modules that counts as well.
    """
    named = {path: t for path, t in zip(walk.first_paths(), walk.tensors, strict=True)}
    frozen = [(path, t) for path, t in named.items() if not backend.get_flag(t)]
    inside = set(modules)
    states = [(s.path, t) for s, t in walk.states() 
              if t is not None and (s.owner in inside or s.path in reads)]  # fmt: skip
    loose = [
        (".".join(filter(None, place)), tensor)
        for place, tensor in PythonState(backend, walk, modules).tensors
        if not backend.requires_gradient(tensor)
    ]
    return [row for row in [*frozen, *states, *loose] if backend.has_values(row[1])]
