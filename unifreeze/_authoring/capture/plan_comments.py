"""A captured plan as a plan file that explains itself: what each rule takes stands above it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from textwrap import wrap

import numpy as np

from unifreeze._plan import FORMAT, FreezePlan
from unifreeze._plan.selectors import Selector
from unifreeze._resolution import Resolution
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import listing

WIDTH = 98
CHECKED = (
    "What the plan came to. Another port of this network must come to the same, or it is refused "
    "there; take this out for another network."
)


def written(plan: FreezePlan, resolution: Resolution, title: str, notes: Iterable[str]) -> str:
    """Return a plan as YAML text with comments; read again, it is the same plan.

    Args:
        plan: The plan.
        resolution: It, resolved on the model as it comes.
        title: What it was captured from.
        notes: What the user should know of it.
    """
    spec, frozen = resolution.spec, ~resolution.trainable
    counts = f"{int(frozen.sum())} of {len(spec)} parameters frozen, {_values(spec, frozen)}"
    lines = [*_comment(f"{title}: {counts}.")]
    for note in notes:
        lines += _comment(note)
    lines += [f"unifreeze: {FORMAT}", "rules:"]
    for number in range(len(plan.rules)):
        lines += [f"  {line}" for line in _comment(_takes(resolution, number))]
        lines += _rule_lines(plan, number)
    lines += _policies(plan)
    return "\n".join(lines) + "\n"


def _rule_lines(plan: FreezePlan, number: int) -> list[str]:
    """Return one rule: its selector, or one for each framework."""
    rule = plan.rules[number]
    if isinstance(rule.choice, Selector):
        first, *more = _quoted(str(rule.choice))
        return [f"  - {rule.verb}: {first}", *(f"      {piece}" for piece in more)]
    lines = [f"  - {rule.verb}:"]
    for framework, selector in rule.choice:
        first, *more = _quoted(str(selector))
        lines += [f"      {framework}: {first}", *(f"        {piece}" for piece in more)]
    return lines


def _quoted(selector: str) -> list[str]:
    """Return a selector in quotes that it does not hold, broken between words."""
    mark = "'" if '"' in selector else '"'
    pieces = wrap(selector, WIDTH - 10, break_long_words=False, break_on_hyphens=False)
    if mark in selector or "\\" in selector or " ".join(pieces) != selector:
        pieces, mark = [json.dumps(selector, ensure_ascii=False)], ""
    return f"{mark}{chr(10).join(pieces)}{mark}".splitlines()


def _policies(plan: FreezePlan) -> list[str]:
    """Return what stands below the rules."""
    bare = replace(plan, rules=())
    lines = bare.to_yaml().split("rules: []\n")[1].splitlines()
    if "captured:" in lines:
        at = lines.index("captured:")
        lines[at:at] = _comment(CHECKED)
    return lines


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in wrap(text, WIDTH, break_on_hyphens=False)]


def _takes(resolution: Resolution, number: int) -> str:
    """Say what a rule takes: how much, and where that is in the model."""
    spec, rule = resolution.spec, resolution.plan.rules[number]
    mine = resolution.rule == number
    if rule.verb != "only":
        verb = "freezes" if rule.verb == "freeze" else "trains"
        return f"{verb} {_much(spec, mine)}: {_where(spec, mine)}"
    trained = mine & resolution.trainable
    return f"freezes all but {_much(spec, trained)}: {_where(spec, trained)}"


def _much(spec: ModelSpec, mask: Mask) -> str:
    count = int(mask.sum())
    return f"{count} parameter{'' if count == 1 else 's'}, {_values(spec, mask)}"


def _values(spec: ModelSpec, mask: Mask) -> str:
    count = int(spec.counts[mask].sum())
    return f"{count:,} value{'' if count == 1 else 's'}"


def _where(spec: ModelSpec, mask: Mask) -> str:
    """Name the modules that are taken whole, by their native paths, then what is left."""
    tree, names = spec.tree, mask[spec.tensor_of]
    sums = np.concatenate(([0], np.cumsum(names)))
    found: list[str] = []
    module, done = 0, 0
    while module < len(tree.paths):
        low, high = tree.name_starts[module], tree.name_ends[module]
        if high > low and sums[high] - sums[low] == high - low and high > done:
            found.append(tree.paths[module] or "everything")
            module, done = tree.ends[module], high
        else:
            own = [n for n in tree.own_names(module) if names[n]]
            found += [tree.names[n] for n in own]
            module += 1
    return listing(found, limit=5)
