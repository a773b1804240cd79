"""Small forward passes on a few rows, which show what frozen calls depend on."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from unifreeze._cache.input_rows import Inputs
from unifreeze._cache.module_calls import CallKey, Forward, ModuleCalls, Pass
from unifreeze._cache.nested_values import take_apart
from unifreeze._cache.observing import Observing, bits_of
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.python_state import Place, PythonState
from unifreeze._experiments.restoring import kept_attributes, python_random_state
from unifreeze._modules.walking import Walk
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor
from unifreeze.errors import CacheError

TRIAL_ROWS = 4


class Trial:
    """A model on a few rows of one batch; the model and all generators are put back after.

    Attributes:
        rows: The number of rows.
        inputs: The inputs, with these rows alone.
        moved: State that passes have moved: by its native path, the number of the module that
            holds it, and the tensor.
    """

    def __init__(
        self,
        backend: CacheOperations,
        walk: Walk,
        calls: ModuleCalls,
        forward: Forward,
        inputs: Inputs,
    ) -> None:
        self._backend, self._walk, self._calls, self._forward = backend, walk, calls, forward
        self.inputs = _at_least_two(backend, inputs)
        self.rows = min(TRIAL_ROWS, self.inputs.rows)
        self.moved: dict[str, tuple[int, LiveTensor]] = {}
        self._python = PythonState(backend, walk)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Put everything back after this block: state, attributes, gradients, generators."""
        backend, walk = self._backend, self._walk
        gradients = [(tensor, backend.kept_gradient(tensor)) for tensor in walk.tensors]
        outer, backend.runs_itself = backend.runs_itself, True
        put_random_back = backend.remember_random()
        try:
            with ExitStack() as stack:
                stack.enter_context(python_random_state())
                stack.enter_context(kept_attributes(backend, walk))
                stack.enter_context(state_kept(backend, walk))
                yield
        finally:
            put_random_back()
            backend.runs_itself = outer
            for tensor, gradient in gradients:
                backend.set_gradient(tensor, gradient)

    def run(
        self,
        running: Pass,
        *,
        rows: Sequence[int] | None = None,
        seed: int = 0,
        inputs: Inputs | None = None,
        then: Callable[[Any, Sequence[LiveTensor]], None] | None = None,
    ) -> Any:
        """Run the model on the first rows; return what it returns.

        Args:
            running: Takes the calls.
            rows: The numbers of other rows.
            seed: Seed of all generators.
            inputs: Other inputs.
            then: Called with the result and the inputs before state is put back: a backward pass
                needs it.
        """
        args, kwargs = (inputs or self.inputs).taken(range(self.rows) if rows is None else rows)
        with state_kept(self._backend, self._walk, self.moved, self._python):
            result = self._pass(running, args, kwargs, seed)
            if then is not None:
                then(result, take_apart((args, kwargs), self._backend.is_tensor)[0])
            return result

    def _pass(self, running: Pass, args: Any, kwargs: Any, seed: int) -> Any:
        self._backend.seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            with self._calls.during(running):
                return self._forward(*args, **kwargs)
        except Exception as error:
            raise CacheError(
                "the model does not run on the first rows of this batch alone: "
                f"{type(error).__name__}: {error}",
                hint="give a batch whose first axis counts rows, or train without a cache",
            ) from error

    def left_behind(self, first: Pass, then: Pass) -> dict[Place, str]:
        """Run a pass on two rows, and another one; return what the latter changes in Python.

        Tables that are made in the first pass of a model are there for the second.

        Args:
            first: Takes the calls of the pass on two rows, in the opposite order.
            then: Takes the calls of the other one.
        """
        with state_kept(self._backend, self._walk, python=self._python):
            self._pass(first, *self.inputs.taken([1, 0]), seed=1)
            state = PythonState(self._backend, self._walk)
            before = state.remember()
            self._pass(then, *self.inputs.taken(range(self.rows)), seed=0)
            return state.changes(before)

    def observe(
        self,
        among: Collection[CallKey] | None = None,
        *,
        rows: Sequence[int] | None = None,
        seed: int = 0,
        inputs: Inputs | None = None,
        draws: bool = False,
        values: bool = True,
    ) -> Observing:
        """Run the model and look at its calls."""
        seen = Observing(self._backend, among, draws=draws, values=values)
        seen.take(self.run(seen, rows=rows, seed=seed, inputs=inputs))
        return seen

    def blanked(self, rows: Collection[int]) -> Inputs:
        """Return inputs in which some rows are zero."""
        backend = self._backend

        def blank(tensor: LiveTensor) -> LiveTensor:
            if backend.requires_gradient(tensor):
                return tensor
            array = backend.to_array(tensor)
            array[list(rows)] = 0
            return backend.from_input(array, tensor)

        return self.inputs.changed(blank)

    def outcome(self, running: Pass, trained: Sequence[LiveTensor]) -> list[Array | None]:
        """Run the model forward, and backward if it can; return outputs, gradients and inputs.

        Args:
            running: Takes the calls.
            trained: The parameters whose gradients are returned.
        """
        backend = self._backend
        for tensor in trained:
            backend.set_gradient(tensor, None)
        found: list[Array | None] = []

        def look(result: Any, inputs: Sequence[LiveTensor]) -> None:
            outputs, _ = take_apart(result, backend.is_tensor)
            found.extend(backend.to_array(tensor) for tensor in outputs)
            ends = [t for t in outputs if backend.is_floating(t) and backend.requires_gradient(t)]
            if ends and trained:
                generator = np.random.default_rng(0)
                shapes = [tuple(map(int, tensor.shape)) for tensor in ends]
                weights = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
                backend.backward(ends, weights)
                gradients = [backend.get_gradient(tensor) for tensor in trained]
                found.extend(None if g is None else backend.to_array(g) for g in gradients)
            # Code may write to the inputs, and the training loop may read them after.
            found.extend(map(backend.to_array, inputs))

        self.run(running, then=look)
        return found


@contextmanager
def state_kept(
    backend: CacheOperations,
    walk: Walk,
    moved: dict[str, tuple[int, LiveTensor]] | None = None,
    python: PythonState | None = None,
) -> Iterator[None]:
    """Let copies stand in for state meanwhile, so that nothing is written to the state itself.

    A backward pass that the user's loop has yet to run would refuse state that was written to.
    What code can reach in Python is put back, too: attributes, lists, closures.

    Args:
        backend: The model's backend.
        walk: The model as walked.
        moved: Takes what has moved, by its native path: the number of its module, and the tensor.
        python: What code can reach in Python, if that is known already.
    """
    python = python or PythonState(backend, walk)
    before = python.remember()
    copies: dict[int, LiveTensor] = {}
    rows = []
    for (state, tensor), slot in zip(walk.states(), walk.slots, strict=True):
        if tensor is not None and backend.has_values(tensor):
            copies.setdefault(id(tensor), backend.clone(tensor))
            # While a pass is watched, a module has other dictionaries than when it was walked.
            holders = [slot.holder, *backend.reader.dicts(walk.module(state.owner))[1:]]
            holders = [holder for holder in holders if holder.get(slot.leaf) is tensor]
            rows.append((state, slot.leaf, holders, tensor, bits_of(backend, [tensor])))
    for _, leaf, holders, tensor, _ in rows:
        for holder in holders:
            holder[leaf] = copies[id(tensor)]
    try:
        yield
    finally:
        for state, leaf, holders, tensor, bits in rows:
            now = holders[-1].get(leaf)
            for holder in holders:
                holder[leaf] = tensor
            if moved is not None and now is not None and bits_of(backend, [now]) != bits:
                moved[state.path] = state.owner, tensor
        python.put_back(before)


def _at_least_two(backend: CacheOperations, inputs: Inputs) -> Inputs:
    """Return the inputs, with a second row made of the first if there is a single one."""
    if inputs.rows > 1:
        return inputs

    if any(map(backend.requires_gradient, inputs.tensors)):
        raise CacheError(
            "gradient flows into the inputs, and the batch has a single row",
            context="a single row does not show on what outputs depend",
            hint="give a first batch of at least two rows",
        )

    def doubled(tensor: LiveTensor) -> LiveTensor:
        array = backend.to_array(tensor)
        mirrored = array[..., ::-1] if array.ndim > 1 else array
        return backend.from_input(np.concatenate([array, mirrored]), tensor)

    return inputs.changed(doubled)._replace(rows=2)


def remember_generators(backend: CacheOperations) -> Callable[[], None]:
    """Return a function that puts all generators back, those of Python and NumPy too."""
    framework, python, array = backend.remember_random(), random.getstate(), np.random.get_state()

    def put_back() -> None:
        framework()
        random.setstate(python)
        np.random.set_state(array)

    return put_back


def equal(first: Array | None, second: Array | None, gap: Callable[[Array, Array], float],
          limit: float) -> bool:  # fmt: skip
    """Return whether two arrays are equal; to the bit if the limit is 0."""
    if first is None or second is None:
        return first is second
    if limit == 0:
        return first.shape == second.shape and first.tobytes() == second.tobytes()
    return gap(first, second) <= limit
