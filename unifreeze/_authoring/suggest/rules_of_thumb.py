"""The field's rules of thumb: how deep to train, in which order, and where.

They are experience, not laws, and each reason names its source:

- CS231n, "Transfer learning": few and similar examples, a linear classifier; few and different,
  from earlier in the network; many, the whole (https://cs231n.github.io/transfer-learning/).
- Howard and Ruder 2018 (ULMFiT, arXiv 1801.06146): thaw gradually, from the last layer down.
- Kumar et al. 2022 (LP-FT, arXiv 2202.10054): a random head's gradients distort the features, so
  train it alone first.
- Lee et al. 2022 (surgical fine-tuning, arXiv 2210.11466): tune the first blocks for a shift of the
  input, the middle for one of features, the last for one of labels.
"""

from __future__ import annotations

from unifreeze._authoring.suggest.model_units import Stretch, has_head, middle, reached, run_of, top
from unifreeze._authoring.suggest.plan_draft import Draft, Stage, listed, without_repeats
from unifreeze._authoring.suggest.task_facts import (
    FEW,
    HALF,
    HEAD_EPOCHS,
    MANY,
    RATES,
    STAGE_EPOCHS,
    TOP,
    WHOLE,
    Inputs,
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
"""How much of a network's depth trains in the end, and why."""

LP_FT = (
    "The head is new: it trains alone first, because a random head's gradients would distort the "
    "pretrained features (Kumar et al. 2022)."
)
GRADUAL = (
    "Thawed from the head down, so that lower features are not forgotten (Howard and Ruder 2018)."
)
NO_HEAD = "The model has no head, so the top of it trains."
SHIFTS = {
    "input": "The input looks different: tune the first blocks (Lee et al. 2022).",
    "features": "The same classes look different: tune the middle blocks (Lee et al. 2022).",
    "output": "The labels mean something else: tune the end (Lee et al. 2022).",
}


def by_rules(inputs: Inputs, spec: ModelSpec, units: list[Stretch]) -> Draft:
    """Draft a plan by the rules of thumb."""
    if inputs.shift:
        return _by_shift(inputs, spec, units)
    wanted, why = DEPTH[inputs.size, inputs.similarity]
    depth = min(wanted, inputs.reach)
    remarks = [_size_remark(inputs)] if inputs.size != "many" else []
    if depth < wanted:
        remarks += [why, _compute_remark(inputs)]
        why = f"As much as the compute given reaches, and not the {wanted:.0%} that would be usual."
        depth *= reached(depth, len(middle(units))) > 0
    return Draft(without_repeats(_stages(inputs, spec, units, depth, why)), tuple(remarks))


def _stages(
    inputs: Inputs, spec: ModelSpec, units: list[Stretch], depth: float, why: str
) -> list[Stage]:
    if not has_head(units):
        final = max(depth, TOP)
        return [_stage(spec, units, final, f"{why} {NO_HEAD}")]
    head = ("head",)
    if not depth:
        return [Stage("head", head, why, lr=RATES["head"])]
    at_once = inputs.size == "many"
    depths = [depth] if at_once else [*(one for one in (TOP, HALF) if one < depth), depth]
    steps = [_stage(spec, units, one, why if one == depth else GRADUAL) for one in depths]
    if inputs.new_head:
        return [head_first(), *steps]
    return steps


def head_first() -> Stage:
    """Return the stage in which a new head trains alone."""
    return Stage("head", ("head",), LP_FT, lr=RATES["head"])


def _stage(spec: ModelSpec, units: list[Stretch], depth: float, why: str) -> Stage:
    name = "all" if depth >= WHOLE else "top" if depth <= TOP else "half"
    train = top(spec, units, depth)
    if train != ("all",) and has_head(units):
        train = (*train, "head")
    after = HEAD_EPOCHS if name == "top" else STAGE_EPOCHS
    return Stage(name, train, why, after, RATES[name])


def _size_remark(inputs: Inputs) -> str:
    return (
        f'{inputs.examples:,} examples are "{inputs.size}" here: below {FEW:,} they are few, from '
        f"{MANY:,} on many. All numbers here are rules of thumb."
    )


def _compute_remark(inputs: Inputs) -> str:
    return (
        f"The compute given is {inputs.compute:.0%} of a full fine-tune's. A forward pass is a "
        f"third of a step; the rest pays for gradients through the upper {inputs.reach:.0%} of the "
        "network."
    )


def _by_shift(inputs: Inputs, spec: ModelSpec, units: list[Stretch]) -> Draft:
    """Draft a plan by where the data differ."""
    deep = middle(units)
    third = max(1, round(len(deep) / 3))
    chosen = {
        "input": [*(unit for unit in units if unit.zone is Zone.STEM), *deep[:third]],
        "features": deep[third : len(deep) - third] or deep,
        "output": [unit for unit in units if unit.zone is Zone.HEAD] or deep[-third:],
    }[inputs.shift]
    train = run_of(spec, chosen)
    step = Stage("shift", train, SHIFTS[inputs.shift], HEAD_EPOCHS, RATES["top"])
    remarks = []
    if inputs.shift != "output" and inputs.compute < 2 / 3:
        remarks.append(
            "Gradients have to pass all blocks above what trains, so that a step takes up to two "
            "thirds of a full one, which is more than the compute given."
        )
    if inputs.new_head and has_head(units):
        beyond = [] if all(unit.zone is Zone.HEAD for unit in chosen) else [step]
        return Draft((head_first(), *beyond), tuple(remarks))
    return Draft((step,), tuple(remarks))


def described(inputs: Inputs) -> str:
    """Say in words what was given."""
    said = [] if inputs.examples is None else [f"{inputs.examples:,} examples"]
    if inputs.shift:
        said.append(f"a shift of the {inputs.shift}")
    elif inputs.examples is not None:
        said.append({"same": "the same data"}.get(inputs.similarity, f"{inputs.similarity} data"))
    said.append("a new head" if inputs.new_head else "the head as it is")
    if inputs.compute < 1:
        said.append(f"{inputs.compute:.0%} of the compute of a full fine-tune")
    return listed(said)
