"""What backends of module-based frameworks share; one adds its framework's own operations.

A framework whose models are trees of modules with dictionaries of parameters, buffers and children
needs only the operations named in `ModuleBackend`; everything said once for all frameworks (the
walk, atomic writing, tracing, watching loads) is here.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np

from unifreeze.backend.digests import Payload, digest
from unifreeze.backend.probing import run_probe
from unifreeze.backend.protocol import (
    Array,
    Batch,
    Capabilities,
    Digest,
    Finding,
    OptimizerSpec,
    ParamGroup,
    ProbeConfig,
    ProbeResult,
    Undo,
)
from unifreeze.backend.tracing import trace_forward
from unifreeze.backend.walking import Reader, Walk
from unifreeze.errors import TargetError, UnifreezeError, WriteError, listing
from unifreeze.resolution import Resolution
from unifreeze.structure import ModelSpec, derive

NO_VALUES = Digest("", "")
"""The digest of a tensor that has no values: on a meta device, or not initialised."""


class Guard(NamedTuple):
    """What one module does differently while a plan is in force.

    Attributes:
        still: It runs in inference mode, so that its state holds.
        lend: Names of its frozen parameters that it must see as if gradient passed through them.
        attach: Its input must take part in the gradient though nothing below trains.
    """

    still: bool = False
    lend: tuple[str, ...] = ()
    attach: bool = False


class Written(NamedTuple):
    """How a model was before a write."""

    flags: list[bool]
    guards: dict[int, Guard]
    gradients: list[tuple[Any, Any]]


class ModuleBackend(ABC):
    """A backend for a framework of modules.

    Attributes:
        name: Import root of the framework.
        reader: Reads its modules for the walk.
    """

    name: str
    reader: Reader

    def __init__(self) -> None:
        self._walks: weakref.WeakKeyDictionary[Any, Walk] = weakref.WeakKeyDictionary()
        self._groups: weakref.WeakSet[Any] = weakref.WeakSet()

    # What a framework adds: the abstract operations always, the others where it is not plain --

    @property
    def capabilities(self) -> Capabilities:
        """Facts about the framework."""
        return Capabilities()

    @abstractmethod
    def is_tensor(self, value: Any) -> bool:
        """Tell whether a value is one of the framework's tensors."""

    @abstractmethod
    def is_floating(self, tensor: Any) -> bool:
        """Tell whether a tensor holds floating-point values."""

    @abstractmethod
    def get_flag(self, tensor: Any) -> bool:
        """Tell whether a parameter is trainable."""

    @abstractmethod
    def set_flag(self, tensor: Any, trainable: bool) -> None:
        """Make a parameter trainable or frozen."""

    @abstractmethod
    def get_gradient(self, tensor: Any) -> Any:
        """Return a parameter's gradient, None where there is none."""

    @abstractmethod
    def set_gradient(self, tensor: Any, gradient: Any) -> None:
        """Set a parameter's gradient; None drops it."""

    def kept_gradient(self, tensor: Any) -> Any:
        """Return a parameter's gradient so that it can be put back after it was dropped."""
        return self.get_gradient(tensor)

    @abstractmethod
    def payload(self, tensor: Any) -> Payload | None:
        """Return a tensor's bits, None where it has no values."""

    @abstractmethod
    def to_array(self, tensor: Any) -> Array:
        """Copy a tensor's values out; half-precision formats NumPy lacks come as float32."""

    @abstractmethod
    def from_array(self, array: Array, like: Any) -> Any:
        """Make a tensor on the device of another; floating values take its dtype."""

    @abstractmethod
    def clone(self, tensor: Any) -> Any:
        """Copy a tensor, bits and all, outside the gradient."""

    @abstractmethod
    def copy_into(self, tensor: Any, source: Any) -> None:
        """Write a clone's bits back into a tensor in place."""

    def find_shared(self, walk: Walk) -> None:
        """Fill in the walk's groups of different parameters that share memory."""
        walk.tree.shared = []

    def wanted_guards(self, walk: Walk, resolution: Resolution) -> dict[int, Guard]:
        """Say which modules need a guard under a resolution."""
        return {index: Guard(still=True) for index in (*resolution.held, *resolution.quiet)}

    @abstractmethod
    def get_guards(self, walk: Walk) -> dict[int, Guard]:
        """Return the guards that are on a model's modules now."""

    @abstractmethod
    def set_guards(self, walk: Walk, guards: Mapping[int, Guard]) -> None:
        """Put exactly these guards on a model, and take off all others."""

    def check_walk(self, walk: Walk, model: Any, resolution: Resolution) -> Iterator[Finding]:
        """Say what this framework would get wrong."""
        return iter(())

    @abstractmethod
    def hook(
        self, module: Any, before: Callable[[], None], after: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Call back around a module's forward; returns what takes the hooks off again."""

    @abstractmethod
    def inference(self, walk: Walk) -> AbstractContextManager[None]:
        """Run without gradient, in inference mode; modes and random state are put back after."""

    @abstractmethod
    def random_state(self) -> AbstractContextManager[None]:
        """Put the random generators back after."""

    @abstractmethod
    def train_mode(self, model: Any) -> None:
        """Do what a training loop does before an epoch."""

    def modes(self, walk: Walk) -> list[bool]:
        """Return each module's training flag."""
        return [module.training for module in walk.modules]

    def set_modes(self, walk: Walk, modes: Sequence[bool]) -> None:
        """Put each module's training flag back."""
        for module, mode in zip(walk.modules, modes, strict=True):
            module.training = mode

    @abstractmethod
    def backward(self, outputs: Sequence[Any], weights: Sequence[Array]) -> bool:
        """Backpropagate the weighted sum of outputs; False where nothing takes part."""

    @abstractmethod
    def plain_optimizer(
        self, model: Any, spec: OptimizerSpec
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Build an optimizer over all of a model's parameters; return its step and its clear."""

    @abstractmethod
    def on_load(self, walk: Walk, loaded: Callable[[], None]) -> Undo:
        """Call back after a state dict has been loaded; returns what stops it."""

    @abstractmethod
    def param_groups(
        self, model: Any, groups: Sequence[ParamGroup], *, lr: float | None
    ) -> list[dict[str, Any]]:
        """Build param groups as this framework's optimizers take them."""

    @abstractmethod
    def optimizer(
        self, model: Any, cls: type, groups: Sequence[ParamGroup], settings: Mapping[str, Any]
    ) -> Any:
        """Build an optimizer; `settings` use neutral names."""

    @abstractmethod
    def container(self, models: Mapping[str, Any]) -> Any:
        """Put several models into one of the framework's dictionaries of modules."""

    def place(self, model: Any, device: str) -> Any:
        """Move a model to a device kind."""
        if device not in self.capabilities.devices:
            raise TargetError(
                f"{self.name} sees no {device!r} device here",
                context=f"devices: {', '.join(self.capabilities.devices)}",
            )
        return model

    def device_of(self, model: Any) -> str:
        """Return the kind of device a model is on."""
        return self.capabilities.devices[0]

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Seed the framework's random generators."""

    # What follows is the same for all --------------------------------------------------------

    def group(self, models: Mapping[str, Any]) -> Any:
        """Hold several models as one, so that one plan can take them all in."""
        held = self.container(models)
        self._groups.add(held)
        return held

    def walk(self, model: Any) -> Walk:
        """Walk a model, or return the last walk if the model still has that structure."""
        root = self.root(model)
        walk = self._walks.get(root)
        if walk is None or not walk.current():
            walk = self._walks[root] = Walk(self.reader, root)
            walk.tree.members = tuple(self.reader.dicts(root)[0]) if self.is_group(root) else ()
            self.find_shared(walk)
            walk.memo["types"] = _types(walk)
        return walk

    def is_group(self, model: Any) -> bool:
        """Tell whether a model was made by `group`."""
        return model in self._groups

    def root(self, model: Any) -> Any:
        """Return the model itself, seen through its wrappers."""
        while inner := self.reader.inner(model):
            children = self.reader.dicts(model)[0]
            model = children[inner] if inner in children else getattr(model, inner)
        return model

    def describe(self, model: Any, batch: Batch | None = None) -> ModelSpec:
        """Describe a model; with a batch, positions follow one traced forward pass."""
        walk = self.walk(model)
        if walk.memo["types"] != _types(walk):
            # A cast, or a lazy layer's first batch, left every object where it was.
            del self._walks[walk.root]
            walk = self.walk(model)
        if batch is not None:
            trace = trace_forward(self, walk, model, batch)
            return derive(walk.tree, trace, found=self._flags_now(walk))
        if "spec" not in walk.memo:
            walk.memo["spec"] = derive(walk.tree)
        spec: ModelSpec = walk.memo["spec"].with_found(self._flags_now(walk))
        return spec

    def _flags_now(self, walk: Walk) -> np.ndarray[Any, np.dtype[np.bool_]]:
        count = len(walk.tensors)
        return np.fromiter(map(self.reader.trainable, walk.tensors), np.bool_, count)

    def check(self, model: Any, resolution: Resolution) -> list[Finding]:
        """Say what this framework would get wrong, before anything is written."""
        return list(self.check_walk(self.walk(model), model, resolution))

    def write(self, model: Any, resolution: Resolution) -> Undo:
        """Write the decisions, all or nothing: flags, held state, and no stale gradients.

        Raises:
            WriteError: The framework refused, or a flag did not read back; all is as before.
        """
        walk = self.walk(model)
        wanted = resolution.trainable.tolist()
        written = Written(self._flags_now(walk).tolist(), self.get_guards(walk), [])
        try:
            self._write_flags(walk, wanted)
            self.set_guards(walk, self.wanted_guards(walk, resolution))
            self._drop_gradients(walk, wanted, written)
            self._read_back(walk, wanted)
        except Exception as error:
            self._restore(walk, written, gradients=True)
            if isinstance(error, UnifreezeError):
                raise
            raise WriteError(
                f"{self.name} refused to write the plan: {error}", context="nothing was changed"
            ) from error
        return lambda: self._restore(walk, written, gradients=False)

    def _write_flags(self, walk: Walk, wanted: list[bool]) -> None:
        get, put = self.get_flag, self.set_flag
        for tensor, trainable in zip(walk.tensors, wanted, strict=True):
            if get(tensor) != trainable:
                put(tensor, trainable)

    def _drop_gradients(self, walk: Walk, wanted: list[bool], written: Written) -> None:
        """Drop what earlier backward passes left on tensors that are frozen, or newly trained."""
        for tensor, trainable, was in zip(walk.tensors, wanted, written.flags, strict=True):
            if not trainable or not was:
                gradient = self.kept_gradient(tensor)
                if gradient is not None:
                    written.gradients.append((tensor, gradient))
                    self.set_gradient(tensor, None)

    def _read_back(self, walk: Walk, wanted: list[bool]) -> None:
        now = list(map(self.get_flag, walk.tensors))
        if now != wanted:
            names = [walk.tree.names[n] for n in self._first_names(walk)]
            wrong = [n for n, a, b in zip(names, now, wanted, strict=True) if a != b]
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
            named = zip(walk.tree.names, walk.tree.tensor_of, strict=True)
            walk.memo["objects"] = {name: walk.tensors[tensor] for name, tensor in named}
        parameters: dict[str, Any] = walk.memo["objects"]
        states = {state.path: tensor for state, tensor in walk.states() if tensor is not None}
        return {**parameters, **states} if states else parameters

    def fingerprint(
        self, model: Any, paths: Iterable[str], *, sums: bool = False
    ) -> dict[str, Digest]:
        """Return a digest over dtype, shape and bytes of each tensor, each tensor read once."""
        objects = self.objects(model)
        paths, memo = list(paths), self.walk(model).memo
        if paths and memo.get("valueless") and self.payload(objects[paths[0]]) is None:
            return dict.fromkeys(paths, NO_VALUES)
        seen: dict[int, Digest] = {}
        found = {}
        for path in paths:
            tensor = objects[path]
            if id(tensor) not in seen:
                seen[id(tensor)] = digest(self.payload(tensor), with_sums=sums)
            found[path] = seen[id(tensor)]
        memo["valueless"] = not any(one.bits for one in seen.values())
        return found

    def tensor(self, model: Any, path: str) -> Array:
        """Return a tensor's values as a NumPy array of its own."""
        return self.to_array(self._object(model, path))

    def assign(self, model: Any, path: str, array: Array) -> None:
        """Write values into a tensor in place."""
        tensor = self._object(model, path)
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
            name: self._norm(self.get_gradient(tensor))
            for name, tensor in zip(names, walk.tensors, strict=True)
        }

    def _norm(self, gradient: Any) -> float | None:
        if gradient is None:
            return None
        values = self.to_array(gradient)
        wide = np.complex128 if np.iscomplexobj(values) else np.float64
        return float(np.linalg.norm(values.reshape(-1).astype(wide, copy=False)))

    def flags(self, model: Any, *, trainable: bool) -> Undo:
        """Set every parameter's flag, cheaply; gradient still flows through the model."""
        walk = self.walk(model)
        changed = [tensor for tensor in walk.tensors if self.get_flag(tensor) != trainable]
        if trainable:
            rows = zip(walk.tensors, walk.tree.tensors, strict=True)
            fixed = {id(tensor) for tensor, row in rows if row.fixed}
            changed = [tensor for tensor in changed if id(tensor) not in fixed]
        guards = self.flag_guards(walk, trainable=trainable)
        for tensor in changed:
            self.set_flag(tensor, trainable)

        def undo() -> None:
            for tensor in changed:
                self.set_flag(tensor, not trainable)
            if guards:
                guards()

        return undo

    def flag_guards(self, walk: Walk, *, trainable: bool) -> Undo | None:
        """Put on what layers need for gradient to flow while only their flags change."""
        return None

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

    def probe(self, model: Any, resolution: Resolution, config: ProbeConfig) -> ProbeResult:
        """Run the seeded training steps that parity looks at."""
        return run_probe(self, model, resolution, config)

    def run(self, model: Any, batch: Batch) -> Any:
        """Call a model on a batch.

        Raises:
            TargetError: The model does not run on it.
        """
        like = self.anchor(model)
        args = [self.from_input(array, like) for array in batch.args]
        kwargs = {name: self.from_input(array, like) for name, array in batch.kwargs.items()}
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
            if tensor is not None
        ]
        try:
            yield
        finally:
            for slot, tensor, clone in kept:
                self.copy_into(tensor, clone)
                if slot.holder.get(slot.leaf) is not tensor:
                    slot.holder[slot.leaf] = tensor  # type: ignore[index]


def _types(walk: Walk) -> tuple[list[type], list[Any]]:
    """Return what a description says of tensors that can change while they stay where they are."""
    return list(map(type, walk.tensors)), [getattr(t, "dtype", None) for t in walk.tensors]
