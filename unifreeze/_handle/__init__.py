"""Plans in force: how a plan is applied to a model, and the handle that a user then holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from unifreeze._arguments import checked
from unifreeze._handle.frozen_context import freeze_for_now
from unifreeze._handle.groups import param_groups
from unifreeze._handle.handle import Handle
from unifreeze._handle.lease import for_a_while
from unifreeze._handle.single_use_context import SingleUseBlock
from unifreeze._handle.target import Target
from unifreeze._handle.trained_file import load_trained
from unifreeze._handle.verify import Drift, Verified
from unifreeze._handle.whole_run import resolve_phase
from unifreeze._plan import FreezePlan, check_plan
from unifreeze._plan.selectors import Selector
from unifreeze._protocol import Batch, backend_for
from unifreeze._resolution import Resolution, expand_plan


@checked
def resolve(plan: FreezePlan, model: Any, *, batch: Any = None, phase: int | str = 0) -> Resolution:
    """Decide every parameter of a model without touching it.

    Args:
        plan: The plan.
        model: A live model, or several in a mapping from names to models.
        batch: One batch of inputs; positions then count in order of execution.
        phase: Number or name of the phase, for a plan with phases.

    Raises:
        ResolveError: The plan does not fit the model.
        PlanError: The plan has no such phase.

    >>> resolve(plan, model).trainable_paths
    ('head.weight', 'head.bias')
    """
    check_plan(plan)
    spec = Target(model, backend_for(model)).describe(_batch(batch))
    return resolve_phase(plan, spec, phase)


@checked
def expand(plan: FreezePlan, model: Any, *, batch: Any = None) -> FreezePlan:
    """Return a plan with plain phases in place of generators, as they are on a model.

    Args:
        plan: The plan.
        model: A live model; nothing is done to it.
        batch: One batch of inputs; positions then count in order of execution.

    Raises:
        ResolveError: The model lacks something that a generator needs, such as blocks.
    """
    check_plan(plan)
    return expand_plan(plan, Target(model, backend_for(model)).describe(_batch(batch)))


@checked
def apply(plan: FreezePlan, model: Any, *, batch: Any = None, keep_values: bool = False) -> Handle:
    """Put a plan in force on a live model; on any error, nothing has changed.

    Call it between steps: after the optimizer's step and before the next forward pass. Applying to
    a model that is under a plan replaces that plan.

    Args:
        plan: The plan.
        model: A live model, or several in a mapping from names to models; their names then begin
            the native paths.
        batch: One batch of inputs; positions then count in order of execution.
        keep_values: Keep a copy of frozen values, so that `verify` can say exactly by how much
            something moved.

    Raises:
        ResolveError: The plan does not fit the model.
        BackendError: The framework would not carry it out as it says.

    >>> print(apply(plan, model))
    trainable params: 21 || all params: 213 || trainable%: 9.8592
    """
    check_plan(plan)
    target = Target(model, backend_for(model))
    return Handle(plan, target, batch=_batch(batch), keep_values=keep_values)


@checked
def freeze(
    model: Any, what: str | Selector, *, batch: Any = None, keep_values: bool = False
) -> Handle:
    """Freeze what a selector selects: the one-liner for `FreezePlan().freeze(what).apply(model)`.

    >>> print(freeze(model, "backbone"))
    trainable params: 21 || all params: 213 || trainable%: 9.8592
    """
    return apply(FreezePlan().freeze(what), model, batch=batch, keep_values=keep_values)


@checked
def frozen(model: Any, what: str | Selector | None = None) -> AbstractContextManager[None]:
    """Freeze a model, or what a selector selects of it, for the length of a block.

    Without a selector every parameter is frozen: flags only, cheap enough for every step of a GAN;
    statistics and dropout are left alone. With one, the layers that become frozen hold their
    statistics, too, as under a plan. Gradient flows through in both cases. Existing gradients are
    set aside, so that no optimizer applies them, and come back after the block.
    Plans in force, and blocks around this one, stay as they are, and cannot be changed in it.

    Args:
        model: A live model, or several in a mapping from names to models.
        what: What to freeze; everything without it.

    Raises:
        ResolveError: The selector selects nothing in this model.

    >>> with frozen(discriminator):
    ...     generator_loss(discriminator(generator(noise))).backward()
    >>> with frozen(model, "backbone"):
    ...     train_head(model)
    """
    return SingleUseBlock(partial(_frozen, model, what), "with frozen(model): …")


@contextmanager
def _frozen(model: Any, what: str | Selector | None) -> Iterator[None]:
    target = Target(model, backend_for(model))
    if what is None:
        undo = target.backend.flags(target.model, trainable=False)
    else:
        undo = freeze_for_now(target, what)
    outermost = [root for root in target.names.values() if root not in for_a_while]
    for root in outermost:
        for_a_while.add(root)
    try:
        yield
    finally:
        for root in outermost:
            for_a_while.discard(root)
        undo()


@checked
def unpin(model: Any) -> None:
    """Release a copy of a model under a plan: its layers follow training mode again.

    A copy or pickle of a model holds the layers that the model holds, because teachers and averages
    of weights need that. A copy releases a layer by itself if somebody thaws it or resets
    its statistics; this function releases all layers. Flags stay as they are.

    Raises:
        PlanError: The model itself is under a plan; that takes the handle's `remove`.

    >>> handle = plan.apply(model)
    >>> average = deepcopy(model)  # holds the statistics that the model holds
    >>> unpin(average)
    """
    Target(model, backend_for(model)).unpin()


def _batch(batch: Any) -> Batch | None:
    return None if batch is None else Batch.of(batch)
