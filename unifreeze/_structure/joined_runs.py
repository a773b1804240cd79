"""Joins runs of blocks that hand over to each other in one tower: stages of several classes.

Without a forward pass, names show it: the parts that hold two runs are members of one numbered row
(`stages.2` and `stages.3`), or are called by one word for a step of a network (`entry_flow` and
`middle_flow`). Parts that each begin with the model's input stand side by side, whatever their
names, and so do parts that are named for what they read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

from unifreeze._structure.block_runs import BlockRun, number_runs
from unifreeze._structure.matrices import reads_input
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import CONTAINER, without_digits

_STEP = re.compile(r"(?:(?P<before>.*)_)?(?P<step>stage|cell|flow|level|layer|block|group)s?")
"""A name that says which step of a network a module is."""
_SIDE = re.compile(
    r".*(?:text|image|vision|visual|video|audio|speech|language|encode|decode|token|pixel|source|"
    r"target|query|key|left|right|student|teacher|online|local|global).*"
)
"""A name that says what one of several towers is for."""


def join_runs(tree: Tree, kinds: list[str], runs: Sequence[BlockRun]) -> list[BlockRun]:
    """Join the runs of blocks that follow each other in one tower."""
    joints = [
        (a, b, joint)
        for a, b in combinations(range(len(runs)), 2)
        if (joint := _joint(tree, kinds, runs[a], runs[b])) is not None
    ]
    group_of = list(range(len(runs)))
    for a, b, _ in joints:
        old, new = group_of[b], group_of[a]
        group_of = [new if group == old else group for group in group_of]
    joined: list[BlockRun] = []
    for group in dict.fromkeys(group_of):
        members = [run for run, number in zip(runs, group_of, strict=True) if number == group]
        inside = [joint for a, _, joint in joints if group_of[a] == group]
        joined.append(_join(tree, kinds, members, inside) if len(members) > 1 else members[0])
    return joined


def _joint(tree: Tree, kinds: list[str], a: BlockRun, b: BlockRun) -> int | None:
    """Return the module in which one run hands over to the other, None if neither does."""
    for first in _one_per_list(tree, a):
        for second in _one_per_list(tree, b):
            above, branches = _parting(tree, first, second)
            if not _in_a_row(tree, *branches):
                continue
            if not all(reads_input(tree, kinds, branch) for branch in branches):
                return above
    return None


def _one_per_list(tree: Tree, run: BlockRun) -> list[int]:
    return list({tree.parents[block]: block for block in run.blocks}.values())


def _parting(tree: Tree, a: int, b: int) -> tuple[int, tuple[int, int]]:
    """Return the lowest module that holds both modules, and its children that hold each."""
    below = {a: -1}
    child = a
    while (parent := tree.parents[child]) >= 0:
        below[parent] = child
        child = parent
    child = b
    while (parent := tree.parents[child]) not in below:
        child = parent
    return parent, (below[parent], child)


def _in_a_row(tree: Tree, a: int, b: int) -> bool:
    first, second = (tree.last_name(index).lower() for index in (a, b))
    if without_digits(first) == without_digits(second):
        return True
    steps = [_STEP.fullmatch(without_digits(name).strip("_")) for name in (first, second)]
    if steps[0] is None or steps[1] is None or steps[0]["step"] != steps[1]["step"]:
        return False
    return not any(_SIDE.fullmatch(step["before"] or "") for step in steps if step)


def _join(
    tree: Tree, kinds: list[str], runs: Sequence[BlockRun], joints: Sequence[int]
) -> BlockRun:
    """Return one run of all blocks; lists that one stage holds side by side are one stage."""
    holder = min(joints)
    # A joint below another holds a single stage, in two lists.
    single = sorted({joint for joint in joints if joint > holder}, reverse=True)
    blocks = sorted(block for run in runs for block in run.blocks)
    marks = [
        next((joint for joint in single if joint < block < tree.ends[joint]), tree.parents[block])
        for block in blocks
    ]
    while holder > 0 and kinds[holder] == CONTAINER:
        holder = tree.parents[holder]
    why = f"{runs[0].why}; such runs follow each other in one tower"
    return BlockRun(holder, tuple(blocks), tuple(number_runs(marks)), joined=True, why=why)
