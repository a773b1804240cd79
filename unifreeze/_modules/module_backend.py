"""The backend that frameworks of modules share: it describes, writes, verifies and watches.

A framework whose models are trees of modules adds its own `TensorOperations` and
`ModuleOperations`; everything that is the same in all frameworks is here and in the base classes.
`ModuleOptimizers` and `ModuleExperiments` are separate: a framework may leave them out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from unifreeze._modules.flag_writing import FlagWriting
from unifreeze._modules.gradient_modes import watch_gradient_modes
from unifreeze._modules.tensor_values import TensorValues
from unifreeze._modules.tracing import Passes, entrances, trace_forward
from unifreeze._modules.training_watch import watch_training
from unifreeze._modules.walking import Walk
from unifreeze._protocol.batches import Batch
from unifreeze._protocol.live import Model
from unifreeze._protocol.results import Finding, Undo
from unifreeze._resolution import Resolution
from unifreeze._structure import STATISTICS, ModelSpec, Trace, derive
from unifreeze._undo import nothing, undo_all


class ModuleBackend(FlagWriting, TensorValues):
    """A backend for a framework of modules: the first of the three protocols."""

    def describe(self, model: Model, batch: Batch | None = None) -> ModelSpec:
        """Describe a model; with a batch, positions follow one traced forward pass."""
        walk = self.walk(model)
        if self.is_cast(walk):
            walk = self._walk_anew(walk.root)
        walk.memo.flags = None
        if batch is not None:
            trace = trace_forward(self, walk, model, batch)
            return derive(walk.tree, trace, found=self.flags_now(walk))
        known = derive(walk.tree) if walk.memo.spec is None else walk.memo.spec
        walk.memo.spec = known.with_found(self.flags_now(walk))
        return walk.memo.spec

    def check(self, model: Model, resolution: Resolution) -> list[Finding]:
        """Return what this framework would get wrong, before anything is written."""
        walk = self.walk(model)
        findings = list(self.check_walk(walk, model, resolution))
        for rows in resolution.rows:
            reason = self.reason_against_rows(walk.tensors[rows.number])
            if self.held_rows is None:
                reason = f"the backend for {self.name} cannot hold rows of a table"
            elif self.is_sharded(model):
                reason = "processes have divided the model, and with it the rows of the table"
            if reason:
                cure = "train the whole table, or freeze it; or train under data parallelism"
                findings.append(Finding(rows.path, reason, cure))
        return findings

    def contents(self, model: Model) -> Walk:
        """Return what a model consists of now, for `departed` to compare with later."""
        return self.walk(model)

    def departed(self, model: Model, contents: Walk) -> Model | None:
        """Return the parts that have left a model since, held as one; None if none has."""
        walk = self.walk(model)
        if walk is contents:
            return None
        tree, present, end = contents.tree, set(walk.tree.keys), 0
        parts: dict[str, Model] = {}
        for number, key in enumerate(tree.keys):
            # What is below a part goes with it.
            if number >= end and number and key not in present:
                parts[f"part{number}"] = contents.module(number)
                end = tree.ends[number]
        return self.group(parts) if parts else None

    def training(self, model: Model) -> dict[str, bool]:
        """Return for each layer with running statistics whether a forward pass would move them."""
        walk = self.walk(model)
        owners = {s.owner for s in walk.tree.states if s.role in STATISTICS and s.moves}
        moves = {"": bool(self.modes(walk)[0])}
        for owner in sorted(owners):
            moves[walk.tree.paths[owner]] = self.moves_statistics(walk.module(owner))
        return moves

    def watch_order(
        self, model: Model, tops: Sequence[str], done: Callable[[str, Trace], bool], lost: Undo
    ) -> Undo:
        """Watch forward passes of a model or of parts of it; see the protocol."""
        walk = self.walk(model)
        root, recording_now, every = weakref.ref(walk.root), list[Passes](), list[Undo]()
        stop = partial(undo_all, every)
        try:
            self._watch_tops(walk, model, tops, done, lost, root, recording_now, every)
            return stop
        except BaseException:
            stop()
            raise

    def _watch_tops(
        self,
        walk: Walk,
        model: Model,
        tops: Sequence[str],
        done: Callable[[str, Trace], bool],
        lost: Undo,
        root: weakref.ref[Model],
        recording_now: list[Passes],
        every: list[Undo],
    ) -> None:
        """Put the watches of `watch_order` on modules; `every` gets what stops each."""
        for path in tops:
            stops: list[Undo] = []
            every.append(partial(undo_all, stops))
            inside = entrances(self, walk, walk.tree.paths.index(path))
            # A wrapper may run the forward of what it wraps past its hooks.
            wraps = walk.root in inside and isinstance(model, self.module_class)
            for module in [model, *inside] if wraps and model is not walk.root else inside:
                taken = partial(done, path)
                watch = Passes(self, root, weakref.ref(module), taken, lost, recording_now)
                watch.stop = partial(undo_all, stops)
                stops.append(_once(self.on_forward(module, watch)))

    def without_gradient(self, model: Model) -> list[str]:
        """Return the native paths of the parameters that train and have no gradient now."""
        walk = self.walk(model)
        rows = zip(walk.first_paths(), walk.tensors, strict=True)
        return [p for p, t in rows if self.get_flag(t) and self.get_gradient(t) is None]

    def watch_gradient_modes(
        self, model: Model, paths: Iterable[str]
    ) -> tuple[Callable[[], Mapping[str, bool]], Undo]:
        """Watch the modules that own some parameters; see the protocol."""
        walk = self.walk(model)
        if self.is_compiled(walk):
            return dict, nothing
        owners = dict(zip(walk.tree.names, walk.tree.owners, strict=True))
        return watch_gradient_modes(self, {path: walk.module(owners[path]) for path in paths})

    def watch_training(self, model: Model, call: Callable[[], None]) -> Undo:
        """Call a function when a model, or one of its parts, begins a forward pass of training."""
        root = self.root(model)
        members = self.reader.dicts(root)[0].values() if self.is_group(root) else [root]
        return watch_training(self, map(self.root, members), call)


def _once(undo: Undo) -> Undo:
    """Return a function that calls another the first time, and does nothing after."""
    left = [undo]

    def call() -> None:
        if left:
            left.pop()()

    return call
