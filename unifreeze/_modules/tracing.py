"""One traced forward pass: in which order a model's modules and loose parameters are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Set
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from unifreeze._modules.live_models import LiveModels
from unifreeze._modules.reader import Reader
from unifreeze._modules.walking import Walk
from unifreeze._numerics.outputs import tensors_in
from unifreeze._protocol.batches import Batch
from unifreeze._protocol.live import Layer, Model
from unifreeze._protocol.results import Undo
from unifreeze._structure import Trace


def trace_forward(backend: LiveModels, walk: Walk, model: Model, batch: Batch) -> Trace:
    """Run one forward pass in inference mode and record first uses; the model is unchanged."""
    with backend.unchanged_state(walk), backend.inference(walk), recording(backend, walk) as trace:
        backend.run(model, batch)
    return trace()


@contextmanager
def recording(
    backend: LiveModels, walk: Walk, running: Layer | None = None
) -> Iterator[Callable[[], Trace]]:
    """Record in which order modules run meanwhile; yields a function that returns the trace.

    Args:
        backend: The model's backend.
        walk: The model as walked.
        running: A module that is running now; its hooks must stay as they are.
    """
    calls: dict[str, None] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def note_shape(path: str, result: Any) -> None:
        first = next(tensors_in(result, backend.is_tensor), None)
        if first is not None:
            shapes.setdefault(path, tuple(int(n) for n in first.shape))

    with ExitStack() as stack:
        stack.enter_context(_recorded_reads(backend.reader, walk, calls))
        for index, module in enumerate(walk.modules):
            path = walk.tree.paths[index]
            if module is running:
                calls.setdefault(path)
            elif not walk.tree.repeats[index]:
                note_call = partial(calls.setdefault, path)
                stack.callback(backend.hook(module, note_call, partial(note_shape, path)))
        yield lambda: Trace(tuple(calls), shapes)


def entrances(backend: LiveModels, walk: Walk, top: int) -> list[Layer]:
    """Return the modules whose forward passes show a part of a model as a whole, outermost first.

    A plain list of modules is never called, but the module that holds it is. A module that only
    wraps another one may be skipped: training loops call `self.model`.
    """
    tree = walk.tree
    while top and tree.parents[top] >= bool(tree.members) and not backend.runs(walk.module(top)):
        top = tree.parents[top]
    chain: list[int] = []
    inside = [top]
    while len(inside) == 1:
        chain += inside
        span = tree.name_starts[inside[0]], tree.name_ends[inside[0]]
        below = tree.children(inside[0]) if span[0] < span[1] else []
        inside = [c for c in below if (tree.name_starts[c], tree.name_ends[c]) == span]
    return [walk.module(n) for n in chain if n == top or backend.runs(walk.module(n))]


class Passes:
    """Records forward passes of a module, and passes on the trace of each that ends well.

    Where modules inside each other are watched, only the outermost that runs is recorded.
    """

    def __init__(
        self,
        backend: LiveModels,
        whole: Callable[[], Layer],
        model: Callable[[], Layer],
        done: Callable[[Trace], bool],
        lost: Undo,
        recording_now: list[Passes],
    ) -> None:
        self._backend, self._whole, self._model = backend, whole, model
        self._done, self._lost, self._recording = done, lost, recording_now
        self.stop: Undo
        """Ends the watch; called after the last pass that is waited for."""
        self._stack: ExitStack | None = None
        self._trace: Callable[[], Trace]
        self._depth = 0

    def begins(self) -> None:
        """Begin to record, unless a pass is recorded already or a compiler runs a part of it."""
        self._depth += 1
        if self._depth > 1 or self._recording or self._backend.runs_itself:
            return
        walk = self._backend.walk(self._whole())
        if self._backend.is_compiled(walk):
            self._lost()
            return
        self._stack = ExitStack()
        self._trace = self._stack.enter_context(recording(self._backend, walk, self._model()))
        self._recording.append(self)

    def ends(self, *, complete: bool) -> None:
        """Pass on the trace of a complete pass."""
        self._depth -= 1
        if self._depth or self._stack is None:
            return
        stack, self._stack = self._stack, None
        self._recording.remove(self)
        stack.close()
        if complete and self._done(self._trace()):
            self.stop()

    def followed(self) -> None:
        """Give up: a compiler records the pass, and its code will not call the hooks."""
        self._lost()


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
        kept, parameters = reader.parameters_kept_in(module), reader.dicts(module)[1]
        names = None if kept is parameters else frozenset(parameters)
        for attribute in [name for name, value in vars(module).items() if value is kept]:
            replaced.append((module, attribute, kept))
            module.__dict__[attribute] = _Noting(kept, tree.paths[owner], names, calls)
    try:
        yield
    finally:
        for module, attribute, kept in replaced:
            noted = module.__dict__[attribute]
            if isinstance(noted, _Noting):
                noted.give_back(kept)
            module.__dict__[attribute] = kept


class _Noting(dict[str, Any]):
    """A dictionary that notes which parameters are read from it, in order."""

    def __init__(
        self,
        kept: MutableMapping[str, Any],
        path: str,
        names: Set[str] | None,
        calls: dict[str, None],
    ) -> None:
        """Replace a dictionary.

        Args:
            kept: The dictionary.
            path: Native path of its module.
            names: Names of the parameters in it; None if it holds nothing else.
            calls: Takes the native path of each parameter that is read.
        """
        super().__init__(kept)
        self._path, self._names, self._calls = path, names, calls

    def give_back(self, kept: MutableMapping[str, Any]) -> None:
        """Write entries that were added meanwhile into the dictionary that this one replaced."""
        now, then = ([(leaf, id(value)) for leaf, value in d.items()] for d in (self, kept))
        if now != then:
            kept.clear()
            kept.update(self)

    def __getitem__(self, leaf: str) -> Any:
        if self._names is None or leaf in self._names:
            self._calls.setdefault(f"{self._path}.{leaf}" if self._path else leaf)
        return super().__getitem__(leaf)
