"""A captured plan as a plan file with comments: what each rule takes is written above it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from textwrap import wrap

import numpy as np

from unifreeze._plan import FORMAT, FreezePlan
from unifreeze._plan.selectors import Selector
from unifreeze._resolution import Resolution
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import counted, listing

WIDTH = 98
CHECKED = (
    "What the plan came to. Another port of this network must come to the same, or it is refused "
    "there; take this out for another network."
)


def commented_plan(
    plan: FreezePlan, resolution: Resolution, title: str, notes: Iterable[str]
) -> str:
    """Return a plan as YAML text with comments; reading it gives the same plan.

    Args:
        plan: The plan.
        resolution: The plan, resolved on the unfrozen model.
        title: First comment.
        notes: Further comments.
    """
    spec, frozen = resolution.spec, ~resolution.trainable
    counts = (
        f"{int(frozen.sum())} of {counted(len(spec), 'parameter')} frozen, {_values(spec, frozen)}"
    )
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
    """Return the lines of one rule: its selector, or a selector for each framework."""
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
    """Return a selector in quotes that it does not contain, broken between words."""
    mark = "'" if '"' in selector else '"'
    pieces = wrap(selector, WIDTH - 10, break_long_words=False, break_on_hyphens=False)
    if mark in selector or "\\" in selector or " ".join(pieces) != selector:
        pieces, mark = [json.dumps(selector, ensure_ascii=False)], ""
    return f"{mark}{chr(10).join(pieces)}{mark}".splitlines()


def _policies(plan: FreezePlan) -> list[str]:
    """Return the lines below the rules."""
    bare = replace(plan, rules=())
    lines = bare.to_yaml().split("rules: []\n")[1].splitlines()
    if "captured:" in lines:
        at = lines.index("captured:")
        lines[at:at] = _comment(CHECKED)
    return lines


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in wrap(text, WIDTH, break_on_hyphens=False)]


def _takes(resolution: Resolution, number: int) -> str:
    """Say how many parameters a rule takes, and where in the model they are."""
    spec, rule = resolution.spec, resolution.plan.rules[number]
    taken = resolution.rule == number
    verb = {"freeze": "freezes", "train": "trains", "only": "freezes all but"}[rule.verb]
    if rule.verb == "only":
        taken = taken & resolution.trainable
    size = f"{counted(int(taken.sum()), 'parameter')}, {_values(spec, taken)}"
    return f"{verb} {size}: {_where(spec, taken)}"


def _values(spec: ModelSpec, mask: Mask) -> str:
    return counted(int(spec.counts[mask].sum()), "value")


def _where(spec: ModelSpec, mask: Mask) -> str:
    """Name the modules that are taken as a whole, by native path, then single parameters."""
    tree, names = spec.tree, mask[spec.tensor_of]
    sums = np.concatenate(([0], np.cumsum(names)))
    paths: list[str] = []
    module, done = 0, 0
    while module < len(tree.paths):
        low, high = tree.name_starts[module], tree.name_ends[module]
        if high > low and sums[high] - sums[low] == high - low and high > done:
            paths.append(tree.paths[module] or "everything")
            module, done = tree.ends[module], high
        else:
            paths += [tree.names[n] for n in tree.own_names(module) if names[n]]
            module += 1
    return listing(paths, limit=5)


def join_with_and(names: Sequence[str]) -> str:
    """Join names as a sentence does.

    >>> join_with_and(["stem", "head"]), join_with_and(["a", "b", "c"])
    ('stem and head', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
