"""Live models as a backend knows them: walked once, described, run on a batch."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import numpy as np

from unifreeze._identity import WeakIdentityDict, WeakIdentitySet
from unifreeze._modules.accounting import check_accounted
from unifreeze._modules.module_operations import ModuleOperations
from unifreeze._modules.walking import Walk
from unifreeze._modules.wrapping import unwrapped
from unifreeze._protocol.batches import Batch
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.not_models import cure, described
from unifreeze._structure import Mask, derive
from unifreeze.errors import TargetError, listing


class LiveModels(ModuleOperations):
    """A framework's live models: each is walked when first met, and again when it has changed."""

    def __init__(self) -> None:
        self._walks: WeakIdentityDict[Walk] = WeakIdentityDict()
        self._groups = WeakIdentitySet()
        self._settled: WeakIdentityDict[weakref.ref[_Block]] = WeakIdentityDict()

    def group(self, models: Mapping[str, Model]) -> Model:
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

    def is_group(self, model: Model) -> bool:
        """Return whether a model was made by `group`."""
        return model in self._groups

    def root(self, model: Model) -> Model:
        """Return the model itself, seen through its wrappers."""
        self.check_model(model)
        return unwrapped(self.reader, model)

    def check_model(self, model: Model) -> None:
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

    def walk(self, model: Model) -> Walk:
        """Walk a model, or return the last walk if the model still has that structure."""
        root = self.root(model)
        walk = self._walks.get(root)
        if walk is None:
            self.check_model(root)
        if walk is not None and self.is_settled(root):
            return walk
        if walk is None or not walk.current():
            walk = self._walk_anew(root)
        return walk

    def _walk_anew(self, root: Model) -> Walk:
        walk = Walk(self.reader, root)
        walk.tree.members = tuple(self.reader.dicts(root)[0]) if self.is_group(root) else ()
        check_accounted(self.reader, root, walk)
        walk.tree.modeless = walk.modeless()
        self.find_shared(walk)
        walk.memo.types = list(map(type, walk.tensors))
        walk.memo.sizes, walk.memo.dtypes = self.sizes(walk), _dtypes(walk)
        walk.memo.spec = derive(walk.tree)
        self._walks[root] = walk
        return walk

    @contextmanager
    def settled(self, model: Model) -> Iterator[None]:
        """Trust a model's structure until the block ends, without checking it again."""
        with _no_collections():
            known = self._walks.get(self.root(model))
            walk = self.walk(model)
            root = walk.root
            if self.is_settled(root):
                yield
                return
            block = _Block()
            try:
                walk.memo.having.clear()
                walk.memo.new = walk is not known
                self._settled[root] = weakref.ref(block)
                yield
            finally:
                walk.memo.new = False
                self._settled.pop(root, None)

    def is_settled(self, root: Model) -> bool:
        """Return whether a block trusts a model's structure now."""
        block = self._settled.get(root)
        return block is not None and block() is not None

    def is_cast(self, walk: Walk) -> bool:
        """Return whether a parameter was cast or resized in place, or a module changed its modes.

        Looking at every dtype takes time, and no decision depends on it, so it is only checked by
        `describe`.
        """
        memo = walk.memo
        if memo.new:
            memo.new = False  # once: a batch that is traced may make a lazy layer's parameters
            return False
        if memo.types != list(map(type, walk.tensors)):
            return True  # a lazy layer has seen its first batch
        sizes = self.sizes(walk)
        if memo.sizes is None:
            memo.sizes = sizes
        elif memo.sizes != sizes:
            return True  # a vocabulary has been resized in place
        if self.is_settled(walk.root):
            return False
        if walk.tree.states and walk.modeless() != walk.tree.modeless:
            return True
        return memo.dtypes != _dtypes(walk)

    def flags_now(self, walk: Walk) -> Mask:
        """Return each parameter's flag; of a settled model they are read once until `write`."""
        flags = walk.memo.flags
        if flags is None or not self.is_settled(walk.root):
            flags = np.asarray(self.get_flags(walk.tensors), np.bool_)
            walk.memo.flags = flags
        return flags

    def having(self, walk: Walk, attribute: str) -> list[int]:
        """Return the modules that have an attribute of their own, and not only their class's.

        Of a settled model they are looked at once, until guards change.
        """
        known = walk.memo.having
        if attribute not in known or not self.is_settled(walk.root):
            wanted = dict.fromkeys((attribute, *self.own_attributes))
            known.update(zip(wanted, walk.modules_having(*wanted), strict=True))
        return known[attribute]

    def inputs(self, model: Model, batch: Batch) -> tuple[list[Any], dict[str, Any]]:
        """Return a batch as a model's positional and named inputs."""
        like = self.anchor(model)
        args = [self.from_input(array, like) for array in batch.args]
        return args, {name: self.from_input(array, like) for name, array in batch.kwargs.items()}

    def anchor(self, model: Model) -> LiveTensor:
        """Return a tensor of the model, to read its device and floating dtype from."""
        walk = self.walk(model)
        floats = [tensor for tensor in walk.tensors if self.is_floating(tensor)]
        return floats[0] if floats else walk.tensors[0]

    def run(self, model: Model, batch: Batch) -> Any:
        """Call a model on a batch.

        Raises:
            TargetError: The model does not run on it.
        """
        args, kwargs = self.inputs(model, batch)
        outer, self.runs_itself = self.runs_itself, True
        try:
            return model(*args, **kwargs)
        except Exception as error:
            raise refused_batch(batch, error) from error
        finally:
            self.runs_itself = outer

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
                    slot.holder[slot.leaf] = tensor


class _Block:
    """A block of code that runs; it dies with the block, also if Ctrl-C hits what ends it."""


_stopping = threading.RLock()
_blocks: dict[int, weakref.ref[_Block]] = {}
"""The blocks that want no collections, in all threads: the last one to end lets them run again."""
_enabled: list[bool] = []
_MANY = 10_000
"""So many new objects are not collected at once, when collections run again."""


@contextmanager
def _no_collections() -> Iterator[None]:
    """Stop the garbage collector meanwhile: it would go over a large model again and again."""
    block = _Block()
    number = id(block)
    ended = weakref.ref(block, lambda _: _end_block(number))
    try:
        with _stopping:
            if not _blocks:
                _enabled[:] = [gc.isenabled()]
            _blocks[number] = ended
            gc.disable()
        yield
    finally:
        _end_block(number)


def _end_block(number: int) -> None:
    with _stopping:
        if [*_blocks] == [number] and _enabled == [True]:
            if gc.get_count()[0] > _MANY and not gc.get_freeze_count():
                # A collection now would go over all that was built, and most of that stays: the
                # two calls only move it to the oldest generation, which the next full one takes.
                gc.freeze()
                gc.unfreeze()
            gc.enable()
        _blocks.pop(number, None)


def _dtypes(walk: Walk) -> list[Any]:
    try:
        return list(map(attrgetter("dtype"), walk.tensors))
    except AttributeError:  # a framework may have tensors without one
        return [getattr(tensor, "dtype", None) for tensor in walk.tensors]


def refused_batch(batch: Batch, error: Exception) -> TargetError:
    """Return the error for a batch that a model does not run on."""
    shown = [f"{a.dtype}{list(a.shape)}" for a in batch.args]
    shown += [f"{n}={a.dtype}{list(a.shape)}" for n, a in batch.kwargs.items()]
    return TargetError(
        f"the model does not run on this batch: {type(error).__name__}: {error}",
        context=f"batch: {listing(shown)}",
        hint="give inputs that its forward takes",
    )
