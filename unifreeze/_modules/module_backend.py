"""What backends of module-based frameworks share; one adds its framework's own operations.

A framework whose models are trees of modules with dictionaries of parameters, buffers and children
needs only the `Operations`; everything said once for all frameworks (the walk, atomic writing,
tracing, watching loads) is here.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from unifreeze._experiments.measure import run_measure
from unifreeze._experiments.probe import first_gradients, run_probe
from unifreeze._experiments.sketch import run_sketch
from unifreeze._experiments.step import run_step
from unifreeze._identity import WeakIdentityDict, WeakIdentitySet
from unifreeze._modules.accounting import check_accounted
from unifreeze._modules.digests import digest
from unifreeze._modules.frozen_for_a_while import freeze_briefly
from unifreeze._modules.operations import Guard, Operations
from unifreeze._modules.tracing import Passes, entrances, trace_forward
from unifreeze._modules.walking import Walk
from unifreeze._modules.watching import watch_training
from unifreeze._modules.wrapping import unwrapped
from unifreeze._numerics.measurements import MeasureConfig, MeasureRun
from unifreeze._protocol.not_models import cure, described
from unifreeze._protocol.protocol import (
    Array,
    Batch,
    Control,
    Digest,
    Finding,
    ParamGroup,
    ProbeConfig,
    ProbeResult,
    SketchConfig,
    SketchRun,
    StepConfig,
    StepRun,
    Undo,
)
from unifreeze._resolution import Resolution
from unifreeze._structure import STATISTICS, Mask, ModelSpec, Trace, derive
from unifreeze.errors import (
    OptimizerError,
    TargetError,
    UnifreezeError,
    WriteError,
    listing,
)

_FLAGS = "flags as last read"

NO_VALUES = Digest("", "")
"""The digest of a tensor that has no values: on a meta device, or not initialised."""


class Written(NamedTuple):
    """How a model was before a write."""

    flags: Mask
    guards: dict[int, Guard]
    gradients: list[tuple[Any, Any]]


class ModuleBackend(Operations):
    """A backend for a framework of modules."""

    def __init__(self) -> None:
        self._walks: WeakIdentityDict[Walk] = WeakIdentityDict()
        self._groups, self._settled = WeakIdentitySet(), WeakIdentitySet()

    def group(self, models: Mapping[str, Any]) -> Any:
        """Hold several models as one, so that one plan can take them all in."""
        for name, model in models.items():
            if not self._is_model(model):
                raise TargetError(
                    f"{name!r} is {described(model)}, and should be a model of {self.name}",
                    hint=cure(models, self._is_model),
                )
        held = self.container(models)
        self._groups.add(held)
        return held

    def walk(self, model: Any) -> Walk:
        """Walk a model, or return the last walk if the model still has that structure."""
        root = self.root(model)
        walk = self._walks.get(root)
        if walk is None:
            self.check_model(root)
        if walk is not None and root in self._settled:
            return walk
        if walk is None or not walk.current():
            walk = self._walks[root] = self._walk_anew(root)
        return walk

    def _walk_anew(self, root: Any) -> Walk:
        walk = Walk(self.reader, root)
        walk.tree.members = tuple(self.reader.dicts(root)[0]) if self.is_group(root) else ()
        check_accounted(self.reader, root, walk)
        walk.tree.modeless = walk.modeless()
        self.find_shared(walk)
        walk.memo["types"] = list(map(type, walk.tensors))
        walk.memo["sizes"] = self.sizes(walk)
        walk.memo["spec"] = derive(walk.tree)
        return walk

    @contextmanager
    def settled(self, model: Any) -> Iterator[None]:
        """Take a model's structure as it was found until the end, without looking again."""
        with _no_collections():
            root = self.walk(model).root
            if root in self._settled:
                yield
                return
            self._settled.add(root)
            try:
                yield
            finally:
                self._settled.discard(root)

    def is_group(self, model: Any) -> bool:
        """Tell whether a model was made by `group`."""
        return model in self._groups

    def root(self, model: Any) -> Any:
        """Return the model itself, seen through its wrappers."""
        self.check_model(model)
        return unwrapped(self.reader, model)

    def check_model(self, model: Any) -> None:
        """Refuse what is not one of the framework's modules.

        Raises:
            TargetError: It is something else; the message says what to pass.
        """
        if not self._is_model(model):
            raise TargetError(
                f"{described(model)} is not a model of {self.name}",
                hint=cure(model, self._is_model),
            )

    def _is_model(self, value: Any) -> bool:
        return isinstance(value, self.module_class) or bool(self.reader.inner(value))

    def describe(self, model: Any, batch: Batch | None = None) -> ModelSpec:
        """Describe a model; with a batch, positions follow one traced forward pass."""
        walk = self.walk(model)
        if self._cast(walk):
            self._walks[walk.root] = walk = self._walk_anew(walk.root)
        walk.memo.pop(_FLAGS, None)
        if batch is not None:
            trace = trace_forward(self, walk, model, batch)
            return derive(walk.tree, trace, found=self.flags_now(walk))
        spec: ModelSpec = walk.memo["spec"].with_found(self.flags_now(walk))
        walk.memo["spec"] = spec
        return spec

    def _cast(self, walk: Walk) -> bool:
        """Tell whether what stayed where it is has another type, size or dtype, or lost a mode.

        Looking at every dtype takes time, and no decision depends on it, so that is left to those
        who ask for a description and nothing else.
        """
        if walk.memo["types"] != list(map(type, walk.tensors)):
            return True  # a lazy layer has seen its first batch
        sizes = self.sizes(walk)
        if walk.memo["sizes"] is None:
            walk.memo["sizes"] = sizes
        elif walk.memo["sizes"] != sizes:
            return True  # a vocabulary has been resized in place
        if walk.root in self._settled:
            return False
        if walk.tree.states and walk.modeless() != walk.tree.modeless:
            return True
        if "dtypes" not in walk.memo:
            found = (self.reader.shape_of(tensor)[1] for tensor in walk.tensors)
            walk.memo["dtypes"] = _dtypes(walk)
            return any(a != b.dtype for a, b in zip(found, walk.tree.tensors, strict=True))
        return bool(walk.memo["dtypes"] != _dtypes(walk))

    def flags_now(self, walk: Walk) -> Mask:
        """Return each parameter's flag; between `describe` and `write` of a settled model once."""
        flags = walk.memo.get(_FLAGS)
        if flags is None or walk.root not in self._settled:
            flags = np.asarray(self.get_flags(walk.tensors), np.bool_)
            walk.memo[_FLAGS] = flags
        return flags

    def check(self, model: Any, resolution: Resolution) -> list[Finding]:
        """Say what this framework would get wrong, before anything is written."""
        return list(self.check_walk(self.walk(model), model, resolution))

    def write(
        self, model: Any, resolution: Resolution, found: Mapping[int, Guard] | None = None
    ) -> Undo:
        """Write the decisions, all or nothing: flags, held state, and no stale gradients.

        Raises:
            WriteError: The framework refused, or a flag did not read back; all is as before.
        """
        walk = self.walk(model)
        wanted = resolution.trainable
        written = Written(self.flags_now(walk), self.get_guards(walk), [])
        try:
            self._write_flags(walk, wanted)
            self.set_guards(walk, self.guards_for(walk, resolution) | self._given_back(walk, found))
            self._drop_gradients(walk, ~wanted | ~written.flags, written)
            self._read_back(walk, wanted)
        except BaseException as error:
            self._restore(walk, written, gradients=True)
            if isinstance(error, UnifreezeError) or not isinstance(error, Exception):
                raise
            raise WriteError(
                f"{self.name} refused to write the plan: {error}", context="nothing was changed"
            ) from error
        return lambda: self._restore(walk, written, gradients=False)

    def guards(self, model: Any) -> dict[int, Guard]:
        """Return what modules do differently now because a plan asked for it, by identity."""
        walk = self.walk(model)
        return {walk.tree.keys[n]: guard for n, guard in self.get_guards(walk).items()}

    def contents(self, model: Any) -> Walk:
        """Return what a model consists of now, for `departed` to compare with later."""
        return self.walk(model)

    def departed(self, model: Any, contents: Walk) -> Any | None:
        """Return the parts that have left a model since, held as one; None if none has."""
        walk = self.walk(model)
        if walk is contents:
            return None
        tree, present, end = contents.tree, set(walk.tree.keys), 0
        parts: dict[str, Any] = {}
        for number, key in enumerate(tree.keys):
            # What is below a part goes with it.
            if number >= end and number and key not in present:
                parts[f"part{number}"] = contents.module(number)
                end = tree.ends[number]
        return self.group(parts) if parts else None

    def unheld(self, model: Any, resolution: Resolution) -> list[str]:
        """Return the paths of layers that should hold still under a resolution and do not."""
        walk = self.walk(model)
        on, wanted = self.get_guards(walk), self.guards_for(walk, resolution)
        return [walk.tree.paths[n] for n, guard in wanted.items() if guard.still and n not in on]

    def guards_for(self, walk: Walk, resolution: Resolution) -> dict[int, Guard]:
        """Return the guards that a resolution takes; for the last one they are remembered."""
        last = walk.memo.get("guards wanted")
        if last is None or last[0] is not resolution:
            guards, covered = self.wanted_guards(walk, resolution), resolution.covered
            if covered is not None:
                guards = {n: guard for n, guard in guards.items() if covered[n]}
            last = walk.memo["guards wanted"] = resolution, guards
        wanted: dict[int, Guard] = last[1]
        return wanted

    def _given_back(self, walk: Walk, found: Mapping[int, Guard] | None) -> dict[int, Guard]:
        """Return the guards as found, by the numbers that their modules have now."""
        if not found:
            return {}
        return {n: found[key] for n, key in enumerate(walk.tree.keys) if key in found}

    def _write_flags(self, walk: Walk, wanted: Mask) -> None:
        different = np.flatnonzero(np.asarray(wanted) != self.flags_now(walk)).tolist()
        if different:
            del walk.memo[_FLAGS]
        for number in different:
            self.set_flag(walk.tensors[number], bool(wanted[number]))

    def _drop_gradients(self, walk: Walk, stale: Mask, written: Written) -> None:
        """Drop what earlier backward passes left on tensors that are frozen, or newly trained."""
        gradients = list(map(self.get_gradient, walk.tensors))
        if {*map(type, gradients)} <= {type(None)}:
            return
        for tensor, gradient, drop in zip(walk.tensors, gradients, stale.tolist(), strict=True):
            if drop and gradient is not None:
                written.gradients.append((tensor, self.kept_gradient(tensor)))
                self.set_gradient(tensor, None)

    def _read_back(self, walk: Walk, wanted: Mask) -> None:
        now = self.flags_now(walk)
        if not np.array_equal(now, wanted):
            names = [walk.tree.names[n] for n in self._first_names(walk)]
            wrong = [names[n] for n in np.flatnonzero(now != wanted)]
            raise WriteError(
                f"{len(wrong)} of {len(wanted)} flags did not read back as written",
                context=listing(wrong),
                hint="something else sets these flags; the model was left as it was",
            )

    def _first_names(self, walk: Walk) -> list[int]:
        first: dict[int, int] = {}
        for name, tensor in enumerate(walk.tree.tensor_of):
            first.setdefault(tensor, name)
        return [first[tensor] for tensor in range(len(walk.tensors))]

    def _restore(self, walk: Walk, written: Written, *, gradients: bool) -> None:
        if not gradients:
            # What came while a parameter was frozen must not be added to its next gradient.
            self._drop_gradients(walk, written.flags & ~self.flags_now(walk), written)
        self._write_flags(walk, written.flags)
        self.set_guards(walk, written.guards)
        if gradients:
            for tensor, gradient in written.gradients:
                self.set_gradient(tensor, gradient)

    def read(self, model: Any) -> dict[str, bool]:
        """Return for each parameter whether it is trainable now."""
        walk = self.walk(model)
        names = [walk.tree.names[n] for n in self._first_names(walk)]
        return dict(zip(names, map(self.get_flag, walk.tensors), strict=True))

    def objects(self, model: Any) -> dict[str, Any]:
        """Return the live parameter and state tensors by every name they have."""
        walk = self.walk(model)
        if "objects" not in walk.memo:
            named = map(walk.tensors.__getitem__, walk.tree.tensor_of)
            walk.memo["objects"] = dict(zip(walk.tree.names, named, strict=True))
        parameters: dict[str, Any] = walk.memo["objects"]
        states = {state.path: tensor for state, tensor in walk.states() if tensor is not None}
        return {**parameters, **states} if states else parameters

    def fingerprint(
        self, model: Any, paths: Iterable[str], *, sums: bool = False
    ) -> dict[str, Digest]:
        """Return a digest over dtype, shape and bytes of each tensor, each tensor read once."""
        objects, walk = self.objects(model), self.walk(model)
        stored = self.stored(walk)
        if not stored and not walk.slots and self.has_no_values(walk):
            return dict.fromkeys(paths, NO_VALUES)
        tensors = {path: objects[path] for path in paths}
        distinct = {id(tensor): tensor for tensor in tensors.values()}
        payloads = (self.payload(_loaded(stored, one)) for one in distinct.values())
        prints = [NO_VALUES if one is None else digest(one, with_sums=sums) for one in payloads]
        by_key = dict(zip(distinct, prints, strict=True))
        return {path: by_key[id(tensor)] for path, tensor in tensors.items()}

    def offloaded(self, model: Any) -> list[str]:
        """Return the native paths of tensors whose values are kept outside of the model."""
        stored = self.stored(self.walk(model))
        live = self.objects(model).items() if stored else ()
        return [path for path, tensor in live if id(tensor) in stored]

    def tensor(self, model: Any, path: str) -> Array:
        """Return a tensor's values as a NumPy array of its own."""
        tensor = _loaded(self.stored(self.walk(model)), self._object(model, path))
        if not self.has_values(tensor):
            raise _no_values(path)
        return self.to_array(tensor)

    def assign(self, model: Any, path: str, array: Array) -> None:
        """Write values into a tensor in place."""
        tensor = self._object(model, path)
        if not self.has_values(tensor):
            raise _no_values(path)
        shape = tuple(int(n) for n in tensor.shape)
        if array.shape != shape:
            raise TargetError(f"{path} is of shape {list(shape)}, and not {list(array.shape)}")
        self.copy_into(tensor, self.from_array(array, tensor))

    def _object(self, model: Any, path: str) -> Any:
        objects = self.objects(model)
        if path not in objects:
            raise TargetError(f"the model has no tensor {path!r}")
        return objects[path]

    def gradients(self, model: Any) -> dict[str, float | None]:
        """Return the norm of every parameter's gradient; None where there is none."""
        walk = self.walk(model)
        names = [walk.tree.names[n] for n in self._first_names(walk)]
        return {
            name: None if (gradient := self.get_gradient(tensor)) is None else self.norm(gradient)
            for name, tensor in zip(names, walk.tensors, strict=True)
        }

    def flags(self, model: Any, *, trainable: bool) -> Undo:
        """Set every parameter's flag, cheaply; gradient still flows through the model."""
        walk = self.walk(model)
        changed = [tensor for tensor in walk.tensors if self.get_flag(tensor) != trainable]
        if trainable:
            rows = zip(walk.tensors, walk.tree.tensors, strict=True)
            fixed = {id(tensor) for tensor, row in rows if row.fixed}
            changed = [tensor for tensor in changed if id(tensor) not in fixed]
        guards = self.flag_guards(walk, trainable=trainable)
        moved = [] if trainable or self.skips_frozen else changed
        laid_aside = [(tensor, self.kept_gradient(tensor)) for tensor in moved]
        for tensor, _ in laid_aside:
            self.set_gradient(tensor, None)
        for tensor in changed:
            self.set_flag(tensor, trainable)

        def undo() -> None:
            for tensor in changed:
                self.set_flag(tensor, not trainable)
            for tensor, gradient in laid_aside:
                self.set_gradient(tensor, gradient)
            if guards:
                guards()

        return undo

    def freeze_briefly(self, model: Any, resolution: Resolution) -> Undo:
        """Freeze for a while what a resolution freezes, beside what is there."""
        return freeze_briefly(self, self.walk(model), resolution)

    def flag_guards(self, walk: Walk, *, trainable: bool) -> Undo | None:
        """Put on what layers need for gradient to flow while only their flags change."""
        return None

    def help_backward(self, walk: Walk) -> None:
        """Help layers whose backward pass fails on the flags as they are; `restored` undoes it."""

    def watch_loads(self, model: Any) -> tuple[Callable[[], Mapping[str, str]], Undo]:
        """Watch for state dicts being loaded; see the protocol."""
        walk = self.walk(model)
        root = weakref.ref(walk.root)
        digests: dict[str, str] = {}

        def loaded() -> None:
            live = root()
            if live is not None:
                prints = self.fingerprint(live, self.objects(live))
                digests.update((path, one.bits) for path, one in prints.items())

        return lambda: digests, self.on_load(walk, loaded)

    def watch_order(
        self, model: Any, tops: Sequence[str], done: Callable[[str, Trace], bool], lost: Undo
    ) -> Undo:
        """Watch forward passes of a model or of parts of it; see the protocol."""
        walk = self.walk(model)
        root, recording_now, every = weakref.ref(walk.root), list[Passes](), list[Undo]()
        for path in tops:
            stops: list[Undo] = []
            inside = entrances(self, walk, walk.tree.paths.index(path))
            # A wrapper may run the forward of what it wraps past its hooks.
            wraps = walk.root in inside and isinstance(model, self.module_class)
            for module in [model, *inside] if wraps and model is not walk.root else inside:
                taken = partial(done, path)
                watch = Passes(self, root, weakref.ref(module), taken, lost, recording_now)
                watch.stop = partial(_call_all, stops)
                stops.append(_once(self.on_forward(module, watch)))
            every += stops
        return partial(_call_all, every)

    def on_step(self, optimizer: Any, call: Callable[[Any], bool]) -> None:
        """Do nothing: this framework does not tell of an optimizer's steps."""

    def has_gradients(self, optimizer: Any) -> bool:
        """Tell whether anything that an optimizer updates has a gradient."""
        tensors = self.optimizer_parameters(optimizer)
        return any(self.get_gradient(tensor) is not None for tensor in tensors)

    def watch_training(self, model: Any, call: Callable[[], None]) -> Undo:
        """Call a function when a model, or one of its parts, begins a forward pass of training."""
        root = self.root(model)
        members = self.reader.dicts(root)[0].values() if self.is_group(root) else [root]
        return watch_training(self, map(self.root, members), call)

    def probe(self, model: Any, resolution: Resolution, config: ProbeConfig) -> ProbeResult:
        """Run the seeded training steps that parity looks at."""
        return run_probe(self, model, resolution, config)

    def sketch(self, model: Any, config: SketchConfig) -> SketchRun:
        """Run a model once on given values and sketch what comes out of it."""
        return run_sketch(self, model, config)

    def step(self, model: Any, resolution: Resolution, config: StepConfig) -> StepRun:
        """Run comparable training steps under a plan."""
        return run_step(self, model, resolution, config)

    def measure(self, model: Any, config: MeasureConfig) -> MeasureRun:
        """Measure a model on a few batches."""
        return run_measure(self, model, config)

    def layer_settings(self, model: Any) -> dict[str, dict[str, Any]]:
        """Return each layer's settings in neutral terms, by native path."""
        walk = self.walk(model)
        found = {}
        for path, module in zip(walk.tree.paths, walk.modules, strict=True):
            if settings := self.settings(module):
                found[path] = settings
        return found

    def base_rate(self, optimizer: Any) -> float | None:
        """Return the learning rate an optimizer was built with; None if it has none."""
        raise OptimizerError(f"{self.name} has no schedules: it cannot read a learning rate")

    def rates(self, optimizer: Any, tensors: Sequence[Any]) -> list[float]:
        """Return the learning rate that an optimizer has for each of some tensors now."""
        raise OptimizerError(f"{self.name} has no schedules: it cannot read a learning rate")

    def steer(self, optimizer: Any, control: Control) -> Undo:
        """Take learning rate and weight decay from a phase, at each of an optimizer's steps."""
        raise OptimizerError(f"{self.name} has no schedules: it cannot steer an optimizer")

    def unset_groups(
        self, model: Any, built: Sequence[Any], groups: Sequence[ParamGroup]
    ) -> list[ParamGroup]:
        """Return groups whose settings some optimizers were not built with; none are looked for."""
        return []

    def clear_moments(self, optimizer: Any, tensors: Sequence[Any]) -> None:
        """Make an optimizer forget what it has gathered about some parameters."""
        raise OptimizerError(f"{self.name} has no schedules: it cannot clear moments")

    def values_written(self, optimizer: Any, tensors: Sequence[Any]) -> None:
        """Let an optimizer take in values, where the framework's keep any of their own."""

    def name_states(self, optimizer: Any, paths: Mapping[int, str]) -> None:
        """Let an optimizer's saved states be matched by names, where the framework does not."""

    def processes(self) -> int:
        """Return how many processes train together."""
        return 1

    def shipped_map(self, model: Any, others: Iterable[str]) -> dict[str, str]:
        """Return which of the other port's tensors is which, as the model's own library has it.

        Args:
            model: A live model.
            others: Native paths of the other port.
        """
        return {}

    def optimizer_defaults(self) -> dict[str, dict[str, Any]]:
        """Return what the framework's optimizers do if nobody says otherwise, by their names."""
        return {}

    def inputs(self, model: Any, batch: Batch) -> tuple[list[Any], dict[str, Any]]:
        """Return a batch as a model's positional and named inputs."""
        like = self.anchor(model)
        args = [self.from_input(array, like) for array in batch.args]
        return args, {name: self.from_input(array, like) for name, array in batch.kwargs.items()}

    def run(self, model: Any, batch: Batch) -> Any:
        """Call a model on a batch.

        Raises:
            TargetError: The model does not run on it.
        """
        args, kwargs = self.inputs(model, batch)
        outer, self.runs_itself = self.runs_itself, True
        try:
            return model(*args, **kwargs)
        except Exception as error:
            shown = [f"{a.dtype}{list(a.shape)}" for a in batch.args]
            shown += [f"{n}={a.dtype}{list(a.shape)}" for n, a in batch.kwargs.items()]
            raise TargetError(
                f"the model does not run on this batch: {type(error).__name__}: {error}",
                context=f"batch: {listing(shown)}",
                hint="give inputs that its forward takes",
            ) from error
        finally:
            self.runs_itself = outer

    def first_gradients(
        self, model: Any, batch: Batch
    ) -> tuple[dict[str, float | None], frozenset[str]]:
        """Run one forward and backward pass; the model is restored bit for bit."""
        return first_gradients(self, model, batch)

    def training(self, model: Any) -> dict[str, bool]:
        """Tell of each layer with running statistics whether a forward pass would move them."""
        walk = self.walk(model)
        owners = {s.owner for s in walk.tree.states if s.role in STATISTICS and s.moves}
        found = {"": bool(self.modes(walk)[0])}
        for owner in sorted(owners):
            found[walk.tree.paths[owner]] = self.moves_statistics(walk.module(owner))
        return found

    def anchor(self, model: Any) -> Any:
        """Return a tensor that tells the model's device and floating dtype."""
        walk = self.walk(model)
        floats = [tensor for tensor in walk.tensors if self.is_floating(tensor)]
        return floats[0] if floats else walk.tensors[0]

    def from_input(self, array: Array, like: Any) -> Any:
        """Make an input tensor of an array."""
        return self.from_array(array, like)

    @contextmanager
    def unchanged_state(self, walk: Walk) -> Iterator[None]:
        """Put every statistic and buffer back to its bits after."""
        kept = [
            (slot, tensor, self.clone(tensor))
            for slot, tensor in zip(walk.slots, (t for _, t in walk.states()), strict=True)
            if tensor is not None and self.has_values(tensor)
        ]
        try:
            yield
        finally:
            for slot, tensor, clone in kept:
                self.copy_into(tensor, clone)
                if slot.holder.get(slot.leaf) is not tensor:
                    slot.holder[slot.leaf] = tensor  # type: ignore[index]


def _loaded(stored: Mapping[int, Callable[[], Any]], tensor: Any) -> Any:
    """Return a placeholder's values if they can be loaded; else the tensor itself."""
    load = stored.get(id(tensor))
    loaded = load() if load else None
    return tensor if loaded is None else loaded


def _no_values(path: str) -> TargetError:
    return TargetError(
        f"{path} has no values in the model",
        context="it is on the meta device, not initialised yet, or offloaded",
        hint="give it its values first; offloaded ones: take the offloading hooks off",
    )


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep the garbage collector from going over a large model again and again for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _dtypes(walk: Walk) -> list[Any]:
    return [getattr(tensor, "dtype", None) for tensor in walk.tensors]


def _call_all(calls: Iterable[Undo]) -> None:
    for call in calls:
        call()


def _once(undo: Undo) -> Undo:
    """Return what calls a function the first time, and then nothing."""
    left = [undo]

    def call() -> None:
        if left:
            left.pop()()

    return call
