"""The values of a live model's tensors: copied out, written in place, fingerprinted."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping

from unifreeze._modules.digests import digest
from unifreeze._modules.live_models import LiveModels
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.results import Digest, Undo
from unifreeze.errors import TargetError

NO_VALUES = Digest("", "")
"""The digest of a tensor that has no values: on a meta device, or not initialised."""


class TensorValues(LiveModels):
    """Reads and writes tensors by path."""

    def objects(self, model: Model) -> dict[str, LiveTensor]:
        """Return the live parameter and state tensors by every name they have."""
        walk = self.walk(model)
        parameters = walk.memo.objects
        if parameters is None:
            parameters = walk.memo.objects = dict(walk.named())
        states = {state.path: tensor for state, tensor in walk.states() if tensor is not None}
        return {**parameters, **states} if states else parameters

    def fingerprint(
        self, model: Model, paths: Iterable[str], *, sums: bool = False, whole: bool = False
    ) -> dict[str, Digest]:
        """Return a digest over dtype, shape and bytes of each tensor, each tensor read once."""
        objects, walk = self.objects(model), self.walk(model)
        stored = self.stored(walk)
        if not stored and not walk.slots and self.has_no_values(walk):
            return dict.fromkeys(paths, NO_VALUES)
        tensors = {path: objects[path] for path in paths}
        distinct = {id(tensor): tensor for tensor in tensors.values()}
        values = (_loaded(stored, tensor) for tensor in distinct.values())
        payloads = map(self.payload, map(self.gathered, values) if whole else values)
        prints = [NO_VALUES if row is None else digest(row, with_sums=sums) for row in payloads]
        by_key = dict(zip(distinct, prints, strict=True))
        return {path: by_key[id(tensor)] for path, tensor in tensors.items()}

    def offloaded(self, model: Model) -> list[str]:
        """Return the native paths of tensors whose values are kept outside of the model."""
        stored = self.stored(self.walk(model))
        live = self.objects(model).items() if stored else ()
        return [path for path, tensor in live if id(tensor) in stored]

    def tensor(self, model: Model, path: str) -> Array:
        """Return a copy of a tensor's values as a NumPy array."""
        tensor = _loaded(self.stored(self.walk(model)), self._object(model, path))
        if not self.has_values(tensor):
            raise _no_values(path)
        return self.to_array(tensor)

    def assign(self, model: Model, path: str, array: Array) -> None:
        """Write values into a tensor in place."""
        tensor = self._object(model, path)
        if not self.has_values(tensor):
            raise _no_values(path)
        shape = tuple(int(n) for n in tensor.shape)
        if array.shape != shape:
            raise TargetError(f"{path} is of shape {list(shape)}, and not {list(array.shape)}")
        self.copy_into(tensor, self.from_array(array, tensor))

    def _object(self, model: Model, path: str) -> LiveTensor:
        objects = self.objects(model)
        if path not in objects:
            raise TargetError(f"the model has no tensor {path!r}")
        return objects[path]

    def gradients(self, model: Model) -> dict[str, float | None]:
        """Return the norm of the gradient that each parameter has now; None where it has none."""
        walk = self.walk(model)
        rows = zip(walk.first_paths(), map(self.get_gradient, walk.tensors), strict=True)
        gradients = {path: gradient for path, gradient in rows if gradient is not None}
        norms = dict(zip(gradients, self.norms([*gradients.values()]), strict=True))
        return {path: norms.get(path) for path in walk.first_paths()}

    def watch_loads(self, model: Model) -> tuple[Callable[[], Mapping[str, str]], Undo]:
        """Watch for state dicts being loaded; see the protocol."""
        walk = self.walk(model)
        root = weakref.ref(walk.root)
        digests: dict[str, str] = {}

        def loaded() -> None:
            live = root()
            if live is not None:
                prints = self.fingerprint(live, self.objects(live))
                digests.update((path, print_now.bits) for path, print_now in prints.items())

        return lambda: digests, self.on_load(walk, loaded)


def _loaded(
    stored: Mapping[int, Callable[[], LiveTensor | None]], tensor: LiveTensor
) -> LiveTensor:
    """Return a placeholder's values if they can be loaded; else the tensor itself."""
    load = stored.get(id(tensor))
    values = load() if load else None
    return tensor if values is None else values


def _no_values(path: str) -> TargetError:
    return TargetError(
        f"{path} has no values in the model",
        context="it is on the meta device, not initialised yet, or offloaded",
        hint="give it its values first; offloaded ones: take the offloading hooks off",
    )
