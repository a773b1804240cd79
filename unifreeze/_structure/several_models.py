"""Several models that one plan covers, such as a student and its teacher, placed as one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from unifreeze._structure.counting import FusedSpan, Numbering
from unifreeze._structure.kinds_and_words import kinds_of, words_of
from unifreeze._structure.tree import Tree
from unifreeze._structure.zones import Placement


def join_placements(tree: Tree, parts: Mapping[int, Placement]) -> Placement:
    """Return the placement of a tree whose members were each placed as if they were alone.

    Args:
        tree: The tree that holds all of them.
        parts: For each member, by its index in the tree, where its own layers are.
    """
    whole = Placement(kinds_of(tree), words_of(tree))
    whole.number = partial(_join_numbers, tree, parts)
    for index, part in parts.items():
        name = tree.paths[index]
        first_run, first_unit = len(whole.runs), len(whole.units)
        whole.runs += [run.moved(index) for run in part.runs]
        whole.towers += [tower + index for tower in part.towers]
        whole.labels += [f"{name}.{label}" for label in part.labels]
        whole.units += [
            unit._replace(label=f"{name}.{unit.label}", run=max(unit.run, 0) + first_run)
            if part.runs
            else unit._replace(label=f"{name}.{unit.label}")
            for unit in part.units
        ]
        for owner, unit_number in part.unit_of.items():
            whole.unit_of[owner + index] = unit_number + first_unit
            whole.kind_of[owner + index] = part.kind_of[owner]
        # Ranks are compared within one member only, so registration serves as the order of all.
        whole.ranks |= {owner + index: (0, owner + index) for owner in part.ranks}
        whole.reasons |= {owner + index: why for owner, why in part.reasons.items()}
        whole.unreached |= {owner + index for owner in part.unreached}
    return whole


def _join_numbers(tree: Tree, parts: Mapping[int, Placement]) -> Numbering:
    numbering = Numbering()
    for index, part in parts.items():
        first = tree.name_starts[index]
        numbering.count_of.update({owner + index: n for owner, n in part.count_of.items()})
        for owner, (width, places, roles) in part.spans.items():
            numbering.spans[owner + index] = FusedSpan(
                width,
                {name + first: where for name, where in places.items()},
                {name + first: role for name, role in roles.items()},
            )
    return numbering
