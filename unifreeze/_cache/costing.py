"""What each call of a training step costs: floating-point operations, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from unifreeze._cache.module_calls import CallKey, Forward, Frames
from unifreeze._cache.nested_values import take_apart
from unifreeze._cache.operations import CacheOperations
from unifreeze._modules.walking import Walk
from unifreeze._protocol.live import LiveTensor
from unifreeze._structure import Tensor


class Work(NamedTuple):
    """Floating-point operations of one step.

    Attributes:
        forward: Of the forward pass.
        frozen: Those of the forward pass that gradient does not reach.
        kept: Those of the calls that a cache would leave out.
        backward: Of the backward pass as flags are now.
        full_backward: Of the backward pass if everything trained.
    """

    forward: float = 0.0
    frozen: float = 0.0
    kept: float = 0.0
    backward: float = 0.0
    full_backward: float = 0.0


class Costing:
    """A forward pass whose work is counted.

    A layer with weights costs its forward work once for the forward pass, once more if gradient
    flows on into its inputs, and once more if its weights train; other code costs two more.

    Attributes:
        work: What was counted.
    """

    def __init__(
        self,
        backend: CacheOperations,
        walk: Walk,
        inputs: Sequence[LiveTensor],
        kept: Collection[CallKey],
        counted: Callable[[], int] | None,
    ) -> None:
        """Begin.

        Args:
            backend: The model's backend.
            walk: The model as walked.
            inputs: The model's inputs, into which no gradient ever flows.
            kept: The calls that a cache would leave out.
            counted: Returns the operations so far, where the framework counts them; else layers
                with weights are counted by their shapes.
        """
        self.work = Work()
        self._backend, self._walk, self._kept, self._counted = backend, walk, kept, counted
        self._raw = {id(tensor) for tensor in inputs}
        self._frames = Frames()
        self._inner: list[float] = [0.0]

    def call(
        self, number: int, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Run a call and count its work."""
        key = self._frames.next_key(number)
        self._inner.append(0.0)
        before = self._so_far()
        with self._frames.inside(key):
            result = forward(*args, **kwargs)
        inner = self._inner.pop()
        outputs, _ = take_apart(result, self._backend.is_tensor)
        total = (
            self._so_far() - before if self._counted else inner + self._by_shape(number, outputs)
        )
        self._inner[-1] += total
        given, _ = take_apart((args, kwargs), self._backend.is_tensor)
        self._add(number, given, outputs, total - inner)
        if key in self._kept:
            self.work = self.work._replace(kept=self.work.kept + total)
        return result

    def rest(self, outputs: Sequence[LiveTensor]) -> None:
        """Count the work of the model's own code outside of all calls."""
        if self._counted is not None:
            self._add(0, [], outputs, self._so_far() - self._inner[0])

    def _so_far(self) -> float:
        return float(self._counted()) if self._counted is not None else 0.0

    def _by_shape(self, number: int, outputs: Sequence[LiveTensor]) -> float:
        kind = self._walk.tree.kinds[number]
        matrices = [t for t in self._own(number) if len(t.neutral) > 1]
        if kind not in ("linear", "conv") or not matrices or not outputs:
            return 0.0
        values = 1.0
        for size in outputs[0].shape:
            values *= int(size)
        return 2 * values * sum(matrix.size / matrix.neutral[0] for matrix in matrices)

    def _own(self, number: int) -> list[Tensor]:
        tree = self._walk.tree
        rows = range(tree.name_starts[number], tree.name_ends[number])
        return [tree.tensors[tree.tensor_of[n]] for n in rows if tree.owners[n] == number]

    def _add(
        self, number: int, inputs: Sequence[LiveTensor], outputs: Sequence[LiveTensor], own: float
    ) -> None:
        if not own:
            return
        backend, tree = self._backend, self._walk.tree
        live = any(map(backend.requires_gradient, outputs))
        names = range(tree.name_starts[number], tree.name_ends[number])
        weights = [self._walk.tensors[tree.tensor_of[n]] for n in names if tree.owners[n] == number]
        back = full = 2.0
        if weights and inputs:
            flows = any(map(backend.requires_gradient, inputs))
            back = flows + any(map(backend.get_flag, weights))
            full = 2.0 - all(id(tensor) in self._raw for tensor in inputs)
        work = self.work
        self.work = work._replace(
            forward=work.forward + own,
            frozen=work.frozen + (0.0 if live else own),
            backward=work.backward + (own * back if live else 0.0),
            full_backward=work.full_backward + own * full,
        )
