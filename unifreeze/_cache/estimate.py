"""What freezing saves on a model, and what a cache would add, before any training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter, process_time
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._cache.costing import Costing, Work
from unifreeze._cache.input_rows import Inputs, read_inputs
from unifreeze._cache.module_calls import Forward, ModuleCalls
from unifreeze._cache.nested_values import take_apart
from unifreeze._cache.observing import Observing
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.replaying import Boundary, Recording
from unifreeze._cache.soundness import Search, breaks_prefix
from unifreeze._cache.trial_passes import Trial, state_kept
from unifreeze._experiments.model_outputs import floating_outputs
from unifreeze._experiments.restoring import python_random_state, restored
from unifreeze._modules.walking import Walk
from unifreeze._pictures import html_of
from unifreeze._protocol.batches import Batch
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.optimizer_settings import OptimizerSpec
from unifreeze._tables import human_bytes, one_line
from unifreeze.errors import CacheError, counted

_TRIAL = 10
"""About how many passes over a few rows it takes to find the frozen part."""


@checked_methods
@dataclass(frozen=True, repr=False)
class Estimate:
    """What a plan saves on a model. Ratios are times as fast as training everything.

    Attributes:
        frozen_share: Share of the forward pass, in operations, that gradient does not reach.
        cached_share: Share that a cache would leave out.
        limit: What freezing can save at most, by operations.
        cached_limit: What it can save at most in later epochs with a cache.
        run_limit: The same for all epochs together, of which the first fills the cache.
        predicted: How many times as fast a step is, from the times of one full step.
        predicted_cached: The same for a step whose rows are cached.
        gradient_bytes: Bytes of the gradients.
        optimizer_bytes: Bytes of the two moments that AdamW keeps of each trainable value.
        activation_bytes: Bytes that are kept for the backward pass of this batch.
        cache_bytes: Bytes of a cache of all examples, in float32.
        examples: The number of examples.
        epochs: The number of epochs.
        pays_from: The epoch, counted from 1, with which a cache has paid; 0 if none.
        ends_at: The first trainable parameter that a forward pass uses: there the frozen part ends.
        cure: What to freeze as well where nothing can be cached; "" if that does not help.
        cured_share: The share that could then be cached.
        why_not: Why nothing can be cached; "" if something can.
    """

    frozen_share: float
    cached_share: float
    limit: float
    cached_limit: float
    run_limit: float
    predicted: float
    predicted_cached: float
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    cache_bytes: int
    examples: int
    epochs: int
    pays_from: int
    ends_at: str
    cure: str
    cured_share: float
    why_not: str

    def plain(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return asdict(self)

    def __repr__(self) -> str:
        cached = "no cache" if self.why_not else f"{self.cached_limit:.3g}x with a cache"
        return one_line(self, f"a step at most {self.limit:.2f}x as fast, {cached}")

    _repr_html_ = html_of

    def __str__(self) -> str:
        lines = [
            f"frozen: {self.frozen_share:.0%} of the forward pass; trainable from "
            f"{self.ends_at or 'nowhere'} on",
            f"a step: at most {self.limit:.2f}x as fast as training everything; predicted "
            f"{self.predicted:.2f}x",
        ]
        if self.why_not:
            lines.append(f"no cache: {self.why_not}")
        else:
            lines += [
                f"with a cache, in later epochs: at most {self.cached_limit:.3g}x, predicted "
                f"{self.predicted_cached:.3g}x; over {counted(self.epochs, 'epoch')} at most "
                f"{self.run_limit:.2f}x",
                f"the cache: {human_bytes(self.cache_bytes)} for "
                f"{counted(self.examples, 'example')}; it pays from epoch {self.pays_from} on",
            ]
        if self.cure:
            lines.append(
                f"{self.ends_at} is trainable: freeze {self.cure} as well, and "
                f"{self.cured_share:.0%} can be cached"
            )
        lines.append(
            f"memory: {human_bytes(self.gradient_bytes)} of gradients, "
            f"{human_bytes(self.optimizer_bytes)} of AdamW's moments, "
            f"{human_bytes(self.activation_bytes)} kept for the backward pass of this batch"
        )
        return "\n".join(lines)


def estimate_savings(
    backend: CacheOperations, model: Model, batch: Batch, *, examples: int, epochs: int
) -> Estimate:
    """Return what the flags of a model save; the model is put back to the bit.

    Args:
        backend: The model's backend.
        model: The live model, under a plan.
        batch: One real batch.
        examples: The number of examples of the data.
        epochs: The number of epochs.
    """
    walk = backend.walk(model)
    calls = ModuleCalls(backend, walk, lambda forward, args, kwargs: forward(*args, **kwargs))
    args, kwargs = backend.inputs(model, batch)
    inputs = read_inputs(backend, args, kwargs)
    forward = walk.root.forward
    outer, backend.runs_itself = backend.runs_itself, True
    with restored(backend, walk), backend.random_state(), python_random_state():
        backend.train_mode(model)
        calls.put_in()
        try:
            look = _Look(backend, model, walk, calls, forward, inputs)
            return look.estimate(examples, epochs)
        finally:
            calls.take_out()
            backend.runs_itself = outer


class _Look:
    """All passes of one estimate."""

    def __init__(
        self,
        backend: CacheOperations,
        model: Model,
        walk: Walk,
        calls: ModuleCalls,
        forward: Forward,
        inputs: Inputs,
    ) -> None:
        self._backend, self._model, self._walk = backend, model, walk
        self._calls, self._forward, self._inputs = calls, forward, inputs
        # On a processor that has other work, too, wall time says little.
        on_cpu = all(map(backend.is_exact, inputs.tensors))
        self._clock = process_time if on_cpu else perf_counter

    def estimate(self, examples: int, epochs: int) -> Estimate:
        """Return the estimate."""
        boundary, why_not = self._boundary()
        kept = frozenset(boundary.axes) if boundary else frozenset()
        work, _, saved = self._counted(kept)
        order = self._order()
        ends_at = breaks_prefix(self._backend, self._walk, order)
        cure, cured = self._cure(ends_at, work)
        full = work.forward + work.full_backward
        frozen, cached = work.forward + work.backward, work.forward + work.backward - work.kept
        later = max(cached, 1e-9 * full)
        steps = self._timed(kept, work)
        size = self._row_bytes(boundary)
        trained = sum(self._nbytes(t) for t in self._walk.tensors if self._backend.get_flag(t))
        share = work.kept / work.forward if work.forward else 0.0
        pays = 1 + -(-_TRIAL * 4 // max(int(examples * share), 1)) if share else 0
        return Estimate(
            frozen_share=work.frozen / work.forward if work.forward else 0.0,
            cached_share=share,
            limit=full / frozen if frozen else 1.0,
            cached_limit=full / later if full else 1.0,
            run_limit=epochs * full / (frozen + (epochs - 1) * later) if full else 1.0,
            predicted=steps[0],
            predicted_cached=steps[1],
            gradient_bytes=trained,
            optimizer_bytes=2 * trained,
            activation_bytes=saved,
            cache_bytes=size * examples,
            examples=examples,
            epochs=epochs,
            pays_from=max(pays, 2) if share else 0,
            ends_at=ends_at,
            cure=cure,
            cured_share=cured,
            why_not=why_not,
        )

    def _boundary(self) -> tuple[Boundary | None, str]:
        trial = Trial(self._backend, self._walk, self._calls, self._forward, self._inputs)
        try:
            return Search(self._backend, self._walk, trial).boundary(), ""
        except CacheError as error:
            return None, f"{error.fact} (hint: {error.hint})"

    def _order(self) -> Sequence[Any]:
        seen = Observing(self._backend, ())
        self._run(seen)
        return seen.order

    @contextmanager
    def _passes(self, running: Any) -> Iterator[Any]:
        """Run the model on the whole batch; state is put back when the block ends."""
        args, kwargs = self._inputs.first(self._inputs.rows)
        with state_kept(self._backend, self._walk), self._backend.with_gradient(enabled=True):
            with self._calls.during(running):
                result = self._forward(*args, **kwargs)
            yield result

    def _run(self, running: Any) -> None:
        with self._passes(running):
            pass

    def _counted(self, kept: frozenset[Any]) -> tuple[Work, float, int]:
        """Return the work of a step, the seconds of the kept calls, and the bytes it keeps."""
        backend = self._backend
        with ExitStack() as stack:
            so_far = stack.enter_context(backend.counting_operations())
            saved = stack.enter_context(backend.counting_saved(self._walk.tensors))
            costing = Costing(backend, self._walk, self._inputs.tensors, kept, so_far, self._clock)
            with self._passes(costing) as result:
                costing.rest(take_apart(result, backend.is_tensor)[0])
                return costing.work, costing.seconds, saved()

    def _cure(self, ends_at: str, work: Work) -> tuple[str, float]:
        """Return what to freeze as well if nothing can be cached, and which share can be then."""
        backend, walk = self._backend, self._walk
        if work.kept > 0.1 * work.forward:
            return "", 0.0
        place = ends_at.rpartition(".")[0]
        while place:
            chosen = [t for n, t in walk.named() if n.startswith(f"{place}.")]
            flags = [(t, backend.get_flag(t)) for t in chosen]
            try:
                for tensor, _ in flags:
                    backend.set_flag(tensor, trainable=False)
                then, _, _ = self._counted(frozenset())
            finally:
                for tensor, flag in flags:
                    backend.set_flag(tensor, trainable=flag)
            cured = then.frozen / then.forward if then.forward else 0.0
            if cured >= 1.0:
                return "", 0.0  # nothing would train
            if cured > 0.2:
                return place, cured
            place = place.rpartition(".")[0]
        return "", 0.0

    def _timed(self, kept: frozenset[Any], work: Work) -> tuple[float, float]:
        """Return how many times as fast a step is, frozen and cached, from one full step.

        A forward pass as the plan has it is timed as well; of the backward pass that share counts
        which is left by operations, and of the update that by bytes.
        """
        backend, walk = self._backend, self._walk
        frozen = [self._forward_alone(kept) for _ in range(2)]
        flags = [(tensor, backend.get_flag(tensor)) for tensor in walk.tensors]
        guards = backend.get_guards(walk)
        sizes = [self._nbytes(tensor) for tensor in walk.tensors]
        trained = sum(size for size, (_, flag) in zip(sizes, flags, strict=True) if flag)
        try:
            backend.set_guards(walk, {})
            for tensor, _ in flags:
                if backend.is_floating(tensor):
                    backend.set_flag(tensor, trainable=True)
            spec = OptimizerSpec("adamw", 0.0, 0.0)
            step, clear = backend.plain_optimizer(self._model, spec)
            times = [self._full_step(step, clear) for _ in range(3)]
        finally:
            backend.set_guards(walk, guards)
            for tensor, flag in flags:
                backend.set_flag(tensor, trainable=flag)
        forward, backward, update = (min(row) for row in zip(*times, strict=True))
        alone, of_kept = min(frozen)
        left = backward * work.backward / work.full_backward if work.full_backward else backward
        left += update * trained / max(sum(sizes), 1)
        full = forward + backward + update
        return full / (alone + left), full / max(alone - of_kept + left, 1e-9)

    def _forward_alone(self, kept: frozenset[Any]) -> tuple[float, float]:
        """Return the seconds of a forward pass as the plan has it, and of its kept calls."""
        costing = Costing(self._backend, self._walk, (), kept, lambda: 0, self._clock)
        start = self._clock()
        with self._passes(costing):
            return self._clock() - start, costing.seconds

    def _full_step(self, step: Any, clear: Any) -> tuple[float, float, float]:
        start = self._clock()
        with self._passes(
            Costing(self._backend, self._walk, (), (), lambda: 0, self._clock)
        ) as result:
            forward = self._clock() - start
            outputs = floating_outputs(self._backend, result)
            weights = [_ones(self._backend, output) for output in outputs.values()]
            start = self._clock()
            self._backend.backward(list(outputs.values()), weights)
            backward = self._clock() - start
        start = self._clock()
        step(None)
        update = self._clock() - start
        clear()
        return forward, backward, update

    def _row_bytes(self, boundary: Boundary | None) -> int:
        if boundary is None:
            return 0
        recording = Recording(self._backend, boundary, layouts=True)
        self._run(recording)
        if not recording.complete:
            return 0
        rows = recording.rows(recording.layouts(self._inputs.rows), self._inputs.rows)
        return sum(piece.nbytes for call in rows[0] for piece in call)

    def _nbytes(self, tensor: LiveTensor) -> int:
        payload = self._backend.payload(tensor)
        return 0 if payload is None else int(payload.data.nbytes)


def _ones(backend: CacheOperations, output: LiveTensor) -> Any:
    return backend.to_array(output) * 0 + 1
