"""`suggest`: a plan to start from, by rules of thumb or by measuring a batch."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer

from unifreeze._authoring.suggest import MADE_UP
from unifreeze._authoring.suggest import suggest as suggest_plan
from unifreeze._cli.capture import OutputOption
from unifreeze._cli.find_model import load_model_with, read_batch
from unifreeze._cli.output import (
    BackendOption,
    BatchOption,
    JsonOption,
    ModelArgument,
    SeedOption,
    say_as_it_is,
    say_plan,
    width_of,
    write_json,
)
from unifreeze._cli.progress_bars import progress_bars
from unifreeze._protocol import Batch
from unifreeze.errors import TargetError

ExamplesOption = Annotated[
    int | None, typer.Option(metavar="N", help="Number of training examples.")
]
SimilarityOption = Annotated[
    str,
    typer.Option(
        metavar="WORD", help="Of the data to the pre-training data: same, similar, different."
    ),
]
ComputeOption = Annotated[
    str,
    typer.Option(metavar="SHARE", help="low, medium, high, or a share of a full fine-tune: 0.6."),
]
NewHeadOption = Annotated[bool, typer.Option("--new-head", help="The head is new.")]
ShiftOption = Annotated[
    str,
    typer.Option(metavar="WORD", help="How the data differ, if known: input, features, output."),
]
MeasureOption = Annotated[
    bool, typer.Option("--measure", help="Measure gradients and blocks on the batch.")
]
LabelsOption = Annotated[
    str,
    typer.Option(metavar="NAME", help="Array of the batch that holds labels, for the loss."),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="Cut the batch into several; 0 leaves it whole."),
]


def suggest(
    model: ModelArgument,
    output: OutputOption = None,
    examples: ExamplesOption = None,
    similarity: SimilarityOption = "similar",
    compute: ComputeOption = "high",
    new_head: NewHeadOption = False,
    shift: ShiftOption = "",
    measure: MeasureOption = False,
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    labels: LabelsOption = "",
    batch_size: BatchSizeOption = 0,
    seed: SeedOption = 0,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Suggest what to freeze: a plan file that gives its reasons, ready to edit.

    By rules of thumb from what is known of the task; with --measure by the gradients of a batch and
    by the loss without each block. The loss is the one that the model returns, or the cross-entropy
    of --labels.
    """
    if examples is None and not (shift or measure):
        raise TargetError(
            "there is nothing to go by",
            context="rules of thumb go by the number of examples, or by how the data differ",
            hint="--examples 2000, --shift input, or --measure --batch …",
        )
    inputs = _inputs(batch, seed, labels, batch_size, measure=measure)
    live, _ = load_model_with(backend, model, seed=seed)
    made_up = measure and any(not text.endswith(".npz") for text in batch)
    with progress_bars() as show:
        suggestion = suggest_plan(
            live,
            examples=examples,
            similarity=similarity,
            compute=compute,
            new_head=new_head,
            shift=shift,
            batches=inputs if measure else None,
            labels=labels if measure else "",
            batch=None if measure or not inputs else inputs[0],
            progress=lambda subject, done, total: show(f"measuring {subject}", done, total),
            note=MADE_UP if made_up else "",
        )
    if output is not None:
        suggestion.save(output)
    if json:
        write_json(suggestion.to_json(), json)
    if json != "-":
        table = suggestion.table(width_of(sys.stdout))
        if table:
            say_as_it_is(table if output is not None else f"{table}\n")
        if output is not None:
            say_as_it_is(f"written to {output}")
        else:
            say_plan(suggestion.text())


def _inputs(
    specs: list[str], seed: int, labels: str, size: int, *, measure: bool
) -> list[Batch] | None:
    """Read the batch, and cut it.

    Raises:
        TargetError: It is missing, or cannot be cut.
    """
    whole = read_batch(specs, seed=seed)
    if measure and whole is None:
        raise TargetError(
            "--measure needs a batch to measure on",
            hint='--batch examples.npz --labels y, or --batch "float32[8,3,64,64]"',
        )
    if not measure and (labels or size):
        raise TargetError("--labels and --batch-size are for measuring", hint="add --measure")
    if whole is None:
        return None
    return _cut(whole, size) if size else [whole]


def _cut(batch: Batch, size: int) -> list[Batch]:
    arrays = [*batch.args, *batch.kwargs.values()]
    lengths = {len(array) if array.ndim else 0 for array in arrays}
    if len(lengths) != 1:
        raise TargetError(
            "the batch cannot be cut: its arrays are not equally long",
            context=f"lengths: {', '.join(map(str, sorted(lengths)))}",
        )
    starts = range(0, lengths.pop(), size)
    return [
        replace(
            batch,
            args=tuple(array[at : at + size] for array in batch.args),
            kwargs={name: array[at : at + size] for name, array in batch.kwargs.items()},
        )
        for at in starts
    ]
