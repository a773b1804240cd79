"""What freezing saves on a model, and what a cache would add, before any training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._cache.costing import Costing, Work
from unifreeze._cache.input_rows import Inputs, read_inputs
from unifreeze._cache.module_calls import ModuleCalls
from unifreeze._cache.nested_values import take_apart
from unifreeze._cache.observing import Observing
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.soundness import breaks_prefix
from unifreeze._cache.timed_steps import Times, timed_steps
from unifreeze._cache.trial_passes import state_kept
from unifreeze._experiments.restoring import kept_attributes, python_random_state, restored
from unifreeze._modules.live_models import refused_batch
from unifreeze._modules.walking import Walk
from unifreeze._pictures import html_of
from unifreeze._protocol.batches import Batch
from unifreeze._protocol.live import Model
from unifreeze._tables import human_bytes, one_line
from unifreeze.errors import UnifreezeError, counted


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
        predicted: How many times as fast a step is, by steps that were timed.
        predicted_cached: The same for a step whose rows are cached.
        gradient_bytes: Bytes of the gradients; a parameter that no pass uses has none.
        optimizer_bytes: Bytes of the two moments that AdamW keeps of each value with a gradient.
        activation_bytes: Bytes that are kept for the backward pass of this batch.
        cache_bytes: Bytes of a cache of all examples, in float32.
        examples: The number of examples.
        epochs: The number of epochs.
        pays_from: The epoch, counted from 1, with which a cache has saved more time than its trial
            passes took; 0 if none.
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
        pays = f"pays from epoch {self.pays_from} on" if self.pays_from else "does not pay"
        if self.why_not:
            lines.append(f"no cache: {self.why_not}")
        else:
            lines += [
                f"with a cache, in later epochs: at most {self.cached_limit:.3g}x, predicted "
                f"{self.predicted_cached:.3g}x; over {counted(self.epochs, 'epoch')} at most "
                f"{self.run_limit:.2f}x",
                f"the cache: {human_bytes(self.cache_bytes)} for "
                f"{counted(self.examples, 'example')}; it {pays}",
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

    Raises:
        TargetError: The model does not run on the batch.
    """
    walk = backend.walk(model)
    calls = ModuleCalls(backend, walk, lambda forward, args, kwargs: forward(*args, **kwargs))
    args, kwargs = backend.inputs(model, batch)
    inputs = read_inputs(backend, args, kwargs)
    outer, backend.runs_itself = backend.runs_itself, True
    with ExitStack() as stack:
        stack.enter_context(restored(backend, walk))
        stack.enter_context(backend.unchanged_state(walk))
        stack.enter_context(backend.random_state())
        stack.enter_context(python_random_state())
        stack.enter_context(kept_attributes(backend, walk))
        backend.train_mode(model)
        try:
            try:
                times = timed_steps(backend, model, walk, inputs)
            except UnifreezeError:
                raise
            except Exception as error:
                raise refused_batch(batch, error) from error
            look = _Look(backend, walk, calls, inputs)
            calls.put_in()
            return look.estimate(times, examples, epochs)
        finally:
            calls.take_out()
            backend.runs_itself = outer


class _Look:
    """The passes of one estimate whose work is counted."""

    def __init__(
        self, backend: CacheOperations, walk: Walk, calls: ModuleCalls, inputs: Inputs
    ) -> None:
        self._backend, self._walk, self._calls, self._inputs = backend, walk, calls, inputs
        self._forward = walk.root.forward

    def estimate(self, times: Times, examples: int, epochs: int) -> Estimate:
        """Return the estimate."""
        kept = frozenset(times.boundary.axes) if times.boundary else frozenset()
        work, saved = self._counted(kept)
        order = self._order()
        ends_at = breaks_prefix(self._backend, self._walk, order)
        cure, cured = self._cure(ends_at, work)
        full = work.forward + work.full_backward
        frozen, cached = work.forward + work.backward, work.forward + work.backward - work.kept
        later = max(cached, 1e-9 * full)
        saved_each_epoch = times.saved * examples / self._inputs.rows
        pays = 1 + ceil(times.preparing / saved_each_epoch) if saved_each_epoch > 0 else 0
        return Estimate(
            frozen_share=work.frozen / work.forward if work.forward else 0.0,
            cached_share=work.kept / work.forward if work.forward else 0.0,
            limit=full / frozen if frozen else 1.0,
            cached_limit=full / later if full else 1.0,
            run_limit=epochs * full / (frozen + (epochs - 1) * later) if full else 1.0,
            predicted=times.predicted,
            predicted_cached=times.predicted_cached,
            gradient_bytes=times.gradient_bytes,
            optimizer_bytes=2 * times.gradient_bytes,
            activation_bytes=saved,
            cache_bytes=round(times.row_bytes * examples),
            examples=examples,
            epochs=epochs,
            pays_from=max(pays, 2) if pays else 0,
            ends_at=ends_at,
            cure=cure,
            cured_share=cured,
            why_not=times.why_not,
        )

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

    def _counted(self, kept: frozenset[Any]) -> tuple[Work, int]:
        """Return the work of a step, and the bytes it keeps for its backward pass."""
        backend = self._backend
        with ExitStack() as stack:
            so_far = stack.enter_context(backend.counting_operations())
            saved = stack.enter_context(backend.counting_saved(self._walk.tensors))
            costing = Costing(backend, self._walk, self._inputs.tensors, kept, so_far)
            with self._passes(costing) as result:
                costing.rest(take_apart(result, backend.is_tensor)[0])
                return costing.work, saved()

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
                then, _ = self._counted(frozenset())
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
