"""The field's rules of thumb: how deep to train, in which order, and where.

They are experience, not laws; each reason names its source:

- CS231n, "Transfer learning": few and similar examples, a linear classifier; few and different,
  from earlier in the network; many, the whole (https://cs231n.github.io/transfer-learning/).
- Howard and Ruder 2018 (ULMFiT, arXiv 1801.06146): thaw gradually, from the last layer down.
- Kumar et al. 2022 (LP-FT, arXiv 2202.10054): a random head's gradients distort the features, so
  train it alone first.
- Lee et al. 2022 (surgical fine-tuning, arXiv 2210.11466): tune the first blocks for a shift of the
  input, the middle for one of features, the last for one of labels.
"""

from __future__ import annotations

from unifreeze._authoring.capture.plan_comments import join_with_and
from unifreeze._authoring.suggest.model_units import (
    ModelUnit,
    has_head,
    middle,
    reached,
    run_of,
    top,
)
from unifreeze._authoring.suggest.plan_draft import Draft, Stage, without_repeats
from unifreeze._authoring.suggest.task_facts import (
    FEW,
    HALF,
    HEAD_EPOCHS,
    MANY,
    RATES,
    STAGE_EPOCHS,
    TOP,
    WHOLE,
    Task,
)
from unifreeze._structure import ModelSpec, Zone

DEPTH = {
    ("few", "same"): (0.0, "Few examples like the old ones: the features fit (CS231n)."),
    ("few", "similar"): (
        0.0,
        "Few examples, similar data: more than a linear classifier on the features would overfit "
        "(CS231n).",
    ),
    ("few", "different"): (
        HALF,
        "Few examples, different data: the upper features are the old data's own, the lower ones "
        "are general and stay (CS231n); watch for overfitting.",
    ),
    ("some", "same"): (TOP, "The data are the old ones: the top of the network is enough."),
    ("some", "similar"): (
        HALF,
        "Similar data, and neither few nor many examples: the upper half adapts, the general lower "
        "half stays.",
    ),
    ("some", "different"): (
        WHOLE,
        "Different data: everything may have to move, in the end (CS231n).",
    ),
    ("many", "same"): (WHOLE, "Many examples: the whole network can train (CS231n)."),
    ("many", "similar"): (
        WHOLE,
        "Many examples: the whole network can train without overfitting (CS231n).",
    ),
    ("many", "different"): (
        WHOLE,
        "Many examples, different data: the whole network, from the pretrained weights (CS231n).",
    ),
}
"""Share of a network's depth that trains in the end, and why."""

LP_FT = (
    "The head is new: it trains alone first, because a random head's gradients would distort the "
    "pretrained features (Kumar et al. 2022)."
)
GRADUAL = (
    "Thawed from the head down, so that lower features are not forgotten (Howard and Ruder 2018)."
)
NO_HEAD = "The model has no head, so the top of it trains."
SHIFT_REASONS = {
    "input": "The input looks different: tune the first blocks (Lee et al. 2022).",
    "features": "The same classes look different: tune the middle blocks (Lee et al. 2022).",
    "output": "The labels mean something else: tune the end (Lee et al. 2022).",
}


def by_rules(task: Task, spec: ModelSpec, units: list[ModelUnit]) -> Draft:
    """Draft a plan by the rules of thumb."""
    if task.shift:
        return _by_shift(task, spec, units)
    usual, why = DEPTH[task.size, task.similarity]
    depth = min(usual, task.reach)
    remarks = [_size_remark(task)] if task.size != "many" else []
    if depth < usual:
        remarks += [why, _compute_remark(task)]
        why = f"As much as the compute given reaches, and not the {usual:.0%} that would be usual."
        depth *= reached(depth, len(middle(units))) > 0
    return Draft(without_repeats(_stages(task, spec, units, depth, why)), tuple(remarks))


def _stages(
    task: Task, spec: ModelSpec, units: list[ModelUnit], depth: float, why: str
) -> list[Stage]:
    if not has_head(units):
        final = max(depth, TOP)
        return [_stage(spec, units, final, f"{why} {NO_HEAD}")]
    head = ("head",)
    if not depth:
        return [Stage("head", head, why, lr=RATES["head"])]
    at_once = task.size == "many"
    shares = [depth] if at_once else [*(share for share in (TOP, HALF) if share < depth), depth]
    stages = [_stage(spec, units, share, why if share == depth else GRADUAL) for share in shares]
    if task.new_head:
        return [head_first(), *stages]
    return stages


def head_first() -> Stage:
    """Return the stage in which a new head trains alone."""
    return Stage("head", ("head",), LP_FT, lr=RATES["head"])


def _stage(spec: ModelSpec, units: list[ModelUnit], depth: float, why: str) -> Stage:
    name = "all" if depth >= WHOLE else "top" if depth <= TOP else "half"
    train = top(spec, units, depth)
    if train != ("all",) and has_head(units):
        train = (*train, "head")
    after = HEAD_EPOCHS if name == "top" else STAGE_EPOCHS
    return Stage(name, train, why, after, RATES[name])


def _size_remark(task: Task) -> str:
    return (
        f'{task.examples:,} examples are "{task.size}" here: below {FEW:,} they are few, from '
        f"{MANY:,} on many. All numbers here are rules of thumb."
    )


def _compute_remark(task: Task) -> str:
    return (
        f"The compute given is {task.compute:.0%} of a full fine-tune's. A forward pass is a "
        f"third of a step; the rest pays for gradients through the upper {task.reach:.0%} of the "
        "network."
    )


def _by_shift(task: Task, spec: ModelSpec, units: list[ModelUnit]) -> Draft:
    """Draft a plan by where the data differ."""
    deep = middle(units)
    third = max(1, round(len(deep) / 3))
    chosen = {
        "input": [*(unit for unit in units if unit.zone is Zone.STEM), *deep[:third]],
        "features": deep[third : len(deep) - third] or deep,
        "output": [unit for unit in units if unit.zone is Zone.HEAD] or deep[-third:],
    }[task.shift]
    train = run_of(spec, chosen)
    stage = Stage("shift", train, SHIFT_REASONS[task.shift], HEAD_EPOCHS, RATES["top"])
    remarks = []
    if task.shift != "output" and task.compute < 2 / 3:
        remarks.append(
            "Gradients have to pass all blocks above what trains, so that a step takes up to two "
            "thirds of a full one, which is more than the compute given."
        )
    if task.new_head and has_head(units):
        later = [] if all(unit.zone is Zone.HEAD for unit in chosen) else [stage]
        return Draft((head_first(), *later), tuple(remarks))
    return Draft((stage,), tuple(remarks))


def describe_task(task: Task) -> str:
    """Describe the task in words."""
    words = [] if task.examples is None else [f"{task.examples:,} examples"]
    if task.shift:
        words.append(f"a shift of the {task.shift}")
    elif task.examples is not None:
        words.append({"same": "the same data"}.get(task.similarity, f"{task.similarity} data"))
    words.append("a new head" if task.new_head else "the head as it is")
    if task.compute < 1:
        words.append(f"{task.compute:.0%} of the compute of a full fine-tune")
    return join_with_and(words)
