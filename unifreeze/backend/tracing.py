"""One traced forward pass: in which order a model's modules and loose parameters are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from unifreeze.backend.outputs import tensors_in
from unifreeze.backend.protocol import Batch
from unifreeze.backend.reader import Reader
from unifreeze.backend.walking import Walk
from unifreeze.structure import Trace

if TYPE_CHECKING:
    from unifreeze.backend.base import ModuleBackend


def trace_forward(backend: ModuleBackend, walk: Walk, model: Any, batch: Batch) -> Trace:
    """Run one forward pass in inference mode and record first uses; the model is unchanged."""
    calls: dict[str, None] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    with ExitStack() as stack:
        stack.enter_context(backend.unchanged_state(walk))
        stack.enter_context(backend.inference(walk))
        stack.enter_context(_recorded_reads(backend.reader, walk, calls))
        for index, module in enumerate(walk.modules):
            if not walk.tree.repeats[index]:
                stack.callback(_listen(backend, module, walk.tree.paths[index], calls, shapes))
        backend.run(model, batch)
    return Trace(tuple(calls), shapes)


def _listen(
    backend: ModuleBackend,
    module: Any,
    path: str,
    calls: dict[str, None],
    shapes: dict[str, tuple[int, ...]],
) -> Any:
    def after(result: Any) -> None:
        first = next(tensors_in(result, backend.is_tensor), None)
        if first is not None:
            shapes.setdefault(path, tuple(int(n) for n in first.shape))

    return backend.hook(module, lambda: calls.setdefault(path), after)


@contextmanager
def _recorded_reads(reader: Reader, walk: Walk, calls: dict[str, None]) -> Iterator[None]:
    """Record reads of parameters: some are used by their module's parent, or between its children.

    Modules look parameters up in a dictionary by name; for the time of the trace it is one that
    takes notes.
    """
    tree = walk.tree
    replaced = []
    for owner in sorted(set(tree.owners)):
        module = walk.module(owner)
        own = reader.dicts(module)[1]
        for name in [name for name, value in vars(module).items() if value is own]:
            replaced.append((module, name, own))
            module.__dict__[name] = _Noting(own, tree.paths[owner], calls)
    try:
        yield
    finally:
        for module, name, own in replaced:
            module.__dict__[name] = own


class _Noting(dict[str, Any]):
    """A dictionary of parameters that notes which are read, in order."""

    def __init__(self, own: Mapping[str, Any], path: str, calls: dict[str, None]) -> None:
        super().__init__(own)
        self._path, self._calls = path, calls

    def __getitem__(self, leaf: str) -> Any:
        self._calls.setdefault(f"{self._path}.{leaf}" if self._path else leaf)
        return super().__getitem__(leaf)
