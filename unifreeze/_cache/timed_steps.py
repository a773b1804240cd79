"""Times training steps of a model: of everything, as its plan has it, and with kept rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from unifreeze._cache.cached_run import CachedRun
from unifreeze._cache.input_rows import Inputs
from unifreeze._cache.module_calls import is_stand_in
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.replaying import Boundary
from unifreeze._cache.row_store import MemoryStore
from unifreeze._cache.trial_passes import state_kept
from unifreeze._experiments.model_outputs import floating_outputs
from unifreeze._modules.walking import Walk
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.optimizer_settings import OptimizerSpec
from unifreeze.errors import CacheError

_Optimizer: TypeAlias = tuple[Callable[[Any], None], Callable[[], None]]
"""Its step and its clear."""
ENOUGH, MOST = 6.0, 7
"""Seconds of rounds after which no other one begins, from the second on; and the most rounds."""
TURN, STEPS = 0.3, 9
"""Seconds of steps of one kind after which none is added to a round; and the most of them.

Steps of a loop follow each other, and what a short one uses is still near the processor.
"""


class Times(NamedTuple):
    """What steps took, and what they showed.

    Attributes:
        predicted: How many times as fast as a full step one is as the plan has it.
        predicted_cached: The same for a step whose rows are kept; the same number if none can be.
        preparing: Seconds that the first cached step takes more than the plain one.
        saved: Seconds that a later cached step takes less than the plain one.
        gradient_bytes: Bytes of the gradients of a step as the plan has it.
        row_bytes: Bytes that are kept of one row.
        boundary: Where the frozen part ends, if it can be cached.
        why_not: Why nothing can be cached; "" if something can.
    """

    predicted: float
    predicted_cached: float
    preparing: float
    saved: float
    gradient_bytes: int
    row_bytes: float
    boundary: Boundary | None
    why_not: str


def timed_steps(backend: CacheOperations, model: Model, walk: Walk, inputs: Inputs) -> Times:
    """Time steps of each kind in turn; a ratio is the median over rounds.

    Operations are not time: norms, activations and optimizers wait for memory, and a backward pass
    does not take twice its forward pass. So each kind of step is run, the cached one in a real
    cached block. The caller puts the model back.

    Args:
        backend: The model's backend; it has been told that it runs the model itself.
        model: The model, in training mode, as its plan has it.
        walk: The model as walked.
        inputs: A real batch.
    """
    if is_stand_in(vars(walk.root).get("forward")):
        raise CacheError(
            "this model is in a cached block, where steps do not take their own time",
            hint="call estimate before the block",
        )
    with backend.with_gradient(enabled=True):
        return _Steps(backend, model, walk, inputs).times()


class _Trained:
    """Stands for a model that has the parameters that train, and no others."""

    def __init__(self, tensors: list[LiveTensor]) -> None:
        self._tensors = tensors

    def parameters(self) -> list[LiveTensor]:
        """Return them, for an optimizer: it looks at each of its parameters in each step."""
        return self._tensors


class _Steps:
    """The steps of one model, with one optimizer for full steps and one for all others."""

    def __init__(self, backend: CacheOperations, model: Model, walk: Walk, inputs: Inputs) -> None:
        self._backend, self._model, self._walk, self._inputs = backend, model, walk, inputs
        # The cached block takes passes as those of a training loop; what watches the user's loop
        # asks the other backend, which says that they are not.
        self._loop = copy.copy(backend)
        self._store = MemoryStore(1 << 62)
        self._run = CachedRun(self._loop, model, self._store, dtype="float32")
        # A rate of 0 keeps all values; a decay of 0 would leave a pass over the weights out.
        spec = OptimizerSpec("adamw", lr=0.0, weight_decay=0.01)
        self._of_all = backend.plain_optimizer(model, spec)
        trained = _Trained([t for t in walk.tensors if backend.get_flag(t)])
        self._of_trained = (
            backend.plain_optimizer(trained, spec) if trained.parameters() else self._of_all
        )
        self._weights: dict[tuple[int, ...], Array] = {}
        self._gradient_bytes = 0
        # On a processor that has other work, too, wall time says little.
        self._on_cpu = all(map(backend.is_exact, inputs.tensors))
        self._clock = process_time if self._on_cpu else perf_counter
        self._smallest = min(walk.tensors, key=lambda tensor: prod(map(int, tensor.shape)))

    def times(self) -> Times:
        """Run the first step of each kind, which prepares much, and then rounds of all kinds."""
        self._step(look=self._read_gradients)
        plain = self._step()
        with ExitStack() as stack:
            first, why_not = self._enter(stack)
            self._full_step()
            rounds: list[tuple[float, float, float]] = []
            spent = 0.0
            while len(rounds) < 2 or (spent < ENOUGH and len(rounds) < MOST):
                start = self._clock()
                full, plain = _turn(self._full_step), _turn(self._step)
                rounds.append((full, plain, plain if why_not else _turn(self._cached_step)))
                spent += self._clock() - start
        plain = median(row[1] for row in rounds)
        boundary = None if why_not else self._run._parts[0].boundary
        return Times(
            predicted=median(row[0] / row[1] for row in rounds),
            predicted_cached=median(row[0] / row[2] for row in rounds),
            preparing=max(first - plain, 0.0),
            saved=median(row[1] - row[2] for row in rounds),
            gradient_bytes=self._gradient_bytes,
            row_bytes=self._store.nbytes / max(self._store.count(), 1),
            boundary=boundary,
            why_not=why_not,
        )

    def _enter(self, stack: ExitStack) -> tuple[float, str]:
        """Begin the cached block; return the seconds of its first step, and why there is none."""
        try:
            stack.enter_context(self._run)
            first = self._cached_step()
        except CacheError as error:
            return 0.0, f"{error.fact} (hint: {error.hint})"
        if not self._store.count():
            return 0.0, "with inputs of this form, kept outputs give other results"
        return first, ""

    def _cached_step(self) -> float:
        self._loop.runs_itself = False
        try:
            return self._step()
        finally:
            self._loop.runs_itself = True

    def _full_step(self) -> float:
        with state_kept(self._backend, self._walk), self._everything_trains():
            seconds = self._step(of=self._of_all)
        for part in self._run._parts:
            part.watch.check_step()  # the optimizer has left traces on all parameters
        return seconds

    @contextmanager
    def _everything_trains(self) -> Iterator[None]:
        backend, walk = self._backend, self._walk
        flags = [(tensor, backend.get_flag(tensor)) for tensor in walk.tensors]
        guards = backend.get_guards(walk)
        try:
            backend.set_guards(walk, {})
            for tensor, _ in flags:
                if backend.is_floating(tensor):
                    backend.set_flag(tensor, trainable=True)
            yield
        finally:
            backend.set_guards(walk, guards)
            for tensor, flag in flags:
                backend.set_flag(tensor, trainable=flag)

    def _step(self, look: Callable[[], None] = lambda: None, of: _Optimizer | None = None) -> float:
        """Run one training step as flags are now; return its seconds.

        Args:
            look: Called when all gradients are there.
            of: The optimizer's step and clear; None for those of what the plan trains.
        """
        backend, (update, clear) = self._backend, of or self._of_trained
        args, kwargs = self._inputs.first(self._inputs.rows)
        self._wait()
        start = self._clock()
        outputs = list(floating_outputs(backend, self._walk.root.forward(*args, **kwargs)).values())
        backend.backward(outputs, [self._weight(output) for output in outputs])
        update({})
        look()
        clear()
        self._wait()
        return self._clock() - start

    def _weight(self, output: LiveTensor) -> Array:
        """Return weights for the sum of an output, the same each time."""
        shape = tuple(map(int, output.shape))
        if shape not in self._weights:
            drawn = np.random.default_rng(0).standard_normal(shape)
            self._weights[shape] = (drawn / max(drawn.size, 1)).astype(np.float32)
        return self._weights[shape]

    def _wait(self) -> None:
        """Wait for a device that computes on its own: reading a value waits for all before it."""
        if not self._on_cpu:
            self._backend.to_array(self._smallest)

    def _read_gradients(self) -> None:
        backend = self._backend
        grown = [t for t in self._walk.tensors if backend.get_gradient(t) is not None]
        payloads = [backend.payload(tensor) for tensor in grown]
        self._gradient_bytes = sum(int(p.data.nbytes) for p in payloads if p is not None)


def _turn(step: Callable[[], float]) -> float:
    """Return the seconds of a step: of a long one, or the median of several short ones."""
    seconds = [step()]
    while sum(seconds) < TURN and len(seconds) < STEPS:
        seconds.append(step())
    return median(seconds)
