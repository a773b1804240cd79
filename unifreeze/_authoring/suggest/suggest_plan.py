"""`suggest`: from facts about a task, or measurements on a few batches, to a plan with reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from unifreeze._arguments import checked
from unifreeze._authoring.suggest.model_units import (
    ModelUnit,
    has_head,
    run_word,
    units_of_model,
)
from unifreeze._authoring.suggest.plan_by_measures import by_measures
from unifreeze._authoring.suggest.plan_draft import Draft, draft_text
from unifreeze._authoring.suggest.rules_of_thumb import by_rules, describe_task
from unifreeze._authoring.suggest.suggestion import Suggestion
from unifreeze._authoring.suggest.task_facts import Task, read_task
from unifreeze._authoring.suggest.unit_measures import Measure, measures_of
from unifreeze._numerics.measurements import MeasureConfig, MeasureRun
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Backend, Batch, backend_for
from unifreeze._protocol.batches import is_made_up
from unifreeze._protocol.live import Model
from unifreeze._resolution import resolve_phases, resolve_spec
from unifreeze._structure import ModelSpec
from unifreeze.errors import TargetError, TieConflictError, TrivialPlanError

Progress = Callable[[str, int, int], None]

MADE_UP = (
    "Measured on made-up numbers, which shows how measuring goes and says nothing about your data: "
    "give real examples, in arrays or in a .npz file."
)
"""Comment in the plan file if the batches were random numbers."""


@checked
def suggest(
    model: Model,
    *,
    examples: int | None = None,
    similarity: str = "similar",
    compute: str | float = "high",
    new_head: bool = False,
    shift: str = "",
    batches: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    labels: str = "",
    most: int = 5,
    batch: Any = None,
    progress: Progress | None = None,
    note: str = "",
) -> Suggestion:
    """Suggest what to freeze, as a plan that gives its reasons and is ready to edit.

    Without batches the plan follows rules of thumb. With batches it is measured where tuning would
    pay: by the gradient of each unit relative to its weights (Auto-RGN, Lee et al. 2022, arXiv
    2210.11466), and by the loss with each block left out. (Freezing a block and evaluating again
    would measure nothing: freezing changes no output.) The model is measured in inference mode, as
    if everything in it trained, and is left unchanged, bit for bit.

    Args:
        model: A live model.
        examples: Number of training examples.
        similarity: Of the data to what the model was pretrained on: `same`, `similar`, `different`.
        compute: `low`, `medium`, `high`, or a share of a full fine-tune.
        new_head: The head is new, or its classes are.
        shift: How the data differ, if known: `input`, `features`, `output`.
        batches: Batches of the task; the first `most` are used.
        loss: Takes the model and a batch, and returns a tensor of one number; it must leave the
            model in inference mode. Without it batches are as for `resolve`, and the loss is what
            the model returns as `loss`.
        labels: Name of the array in each batch that holds labels, for a cross-entropy.
        most: Largest number of batches to use.
        batch: One batch, to count positions in order of execution.
        progress: Called with what is measured, how much of it is done, and how much there is.
        note: A further comment for the plan file.

    Raises:
        TargetError: An argument cannot be used, or there is nothing to base a suggestion on.

    >>> print(suggest(model, examples=2000, similarity="different").text().splitlines()[0])
    # Suggested for Plain (torch): 2,000 examples, different data and the head as it is.
    """
    task = read_task(examples, similarity, compute, shift, new_head=new_head)
    _check_arguments(task, batches, loss, labels, most)
    backend = _backend_for_one(model)
    spec = backend.describe(model, None if batch is None else Batch.of(batch))
    units = units_of_model(spec)
    _check_model(task, spec, units, measured=batches is not None)
    if batches is None:
        return _suggestion(_with_remark(by_rules(task, spec, units), note), spec, task)
    made_up: list[bool] = []
    watched = _watched(batches, made_up)
    blocks = tuple(dict.fromkeys(unit.block for unit in units if unit.block))
    options = {} if progress is None else {"progress": progress}
    run = backend.measure(model, MeasureConfig(watched, loss, labels, blocks, most, **options))
    remark = MADE_UP if loss is None and any(made_up) else ""
    return _by_measuring(task, spec, units, run, f"{note} {remark}".strip())


def _by_measuring(
    task: Task, spec: ModelSpec, units: list[ModelUnit], run: MeasureRun, note: str
) -> Suggestion:
    measures = measures_of(spec, units, run)
    draft = _with_remark(by_measures(task, spec, units, measures, fmean(run.losses)), note)
    if task.shift:
        draft = _with_remark(
            draft, f"Measured, so that the shift of the {task.shift} was not used."
        )
    return _suggestion(draft, spec, task, measures, run.losses)


def _check_arguments(task: Task, batches: object, loss: object, labels: str, most: int) -> None:
    if batches is None and (loss is not None or labels):
        raise TargetError("a loss is given, and nothing to measure it on", hint="batches=[…]")
    if loss is not None and labels:
        raise TargetError("both a loss and labels are given", hint="a loss takes labels itself")
    if most < 1:
        raise TargetError(
            f"most={most} is not a number of batches", hint="a whole number from 1 on"
        )
    if batches is None and task.examples is None and not task.shift:
        raise TargetError(
            "there is nothing to go by",
            context="rules of thumb go by the number of examples, or by how the data differ",
            hint="examples=2000, shift='input', or batches=[…] to measure",
        )


def _backend_for_one(model: Model) -> Backend:
    if isinstance(model, Mapping):
        raise TargetError("several models are given", hint="suggest for one of them at a time")
    return backend_for(model)


def _check_model(task: Task, spec: ModelSpec, units: list[ModelUnit], *, measured: bool) -> None:
    """Refuse a new head without a head, and rules of thumb for stacks of blocks side by side."""
    if task.new_head and not has_head(units):
        raise TargetError("the model has no head that could be new", hint="leave new_head out")
    if not measured and len(spec.runs) > 1 and not run_word(spec, 0):
        raise TargetError(
            f"the model has {len(spec.runs)} stacks of blocks side by side, and rules of thumb go "
            "by the depth of one",
            context=f"they are: {', '.join(spec.placement.labels)}",
            hint="suggest for one of them, or measure: batches=[…]",
        )


def _watched(batches: Iterable[Any], made_up: list[bool]) -> Iterator[Any]:
    """Yield the batches, and note for each whether its numbers are random."""
    for batch in batches:
        made_up.append(is_made_up(batch))
        yield batch


def _with_remark(draft: Draft, remark: str) -> Draft:
    return Draft(draft.stages, (*draft.remarks, *filter(None, [remark])))


def _suggestion(
    draft: Draft,
    spec: ModelSpec,
    task: Task,
    measures: Sequence[Measure] = (),
    losses: Sequence[float] = (),
) -> Suggestion:
    count = len(losses)
    by = f", measured on {count} batch{'es' if count > 1 else ''}" if count else ""
    title = f"Suggested for {spec.tree.types[0]} ({spec.framework}){by}: {describe_task(task)}."
    loss = fmean(losses) if losses else None
    for variant in (draft, draft.with_tied(), draft.of_everything()):
        text = draft_text(variant, title)
        plan = FreezePlan.from_yaml(text)
        try:
            _resolve(plan, spec)
        except (TieConflictError, TrivialPlanError):
            continue
        return Suggestion(plan, variant.reasons, tuple(measures), loss, text)
    raise AssertionError("unreachable: a plan that trains everything always fits")


def _resolve(plan: FreezePlan, spec: ModelSpec) -> None:
    """Raise if the plan does not fit the model."""
    if plan.phases:
        resolve_phases(plan, spec)
    else:
        resolve_spec(plan, spec)
