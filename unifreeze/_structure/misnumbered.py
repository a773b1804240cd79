"""Modules whose children are registered in another order than their numbers say."""

from __future__ import annotations

import re

from unifreeze._structure.spec import ModelSpec
from unifreeze._structure.tree import Tree

_NUMBERED = re.compile(r"(.*?)_?(\d+)")


def misnumbered(spec: ModelSpec) -> dict[int, tuple[str, str]]:
    """Find modules whose children are registered in another order than they are numbered in.

    Returns:
        For each such module, the first two children in the wrong order.
    """
    return spec.once("misnumbered", lambda: _find(spec.tree))


def _find(tree: Tree) -> dict[int, tuple[str, str]]:
    modules = {tree.parents[index] for index in range(1, len(tree.paths))}
    pairs = {module: _first_pair(tree, module) for module in modules}
    return {module: pair for module, pair in pairs.items() if pair is not None}


def _first_pair(tree: Tree, module: int) -> tuple[str, str] | None:
    last: dict[str, tuple[int, str]] = {}
    for child in tree.children(module):
        name = tree.paths[child].rpartition(".")[2]
        match = _NUMBERED.fullmatch(name)
        if match is None:
            continue
        before = last.get(match[1])
        if before is not None and before[0] > int(match[2]):
            return before[1], name
        last[match[1]] = int(match[2]), name
    return None
