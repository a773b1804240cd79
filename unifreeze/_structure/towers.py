"""Runs of blocks side by side: which part of the model belongs to each, and what it is called."""

from __future__ import annotations

from collections.abc import Sequence

from unifreeze._structure.blocks import BlockRun
from unifreeze._structure.tree import Tree


def find_towers(tree: Tree, runs: Sequence[BlockRun]) -> list[int]:
    """For each run, climb from its holder to the highest module that holds no other run."""
    towers = []
    for run in runs:
        tower = run.holder
        while tower > 0 and not any(
            tree.parents[tower] <= rival.holder < tree.ends[tree.parents[tower]]
            for rival in runs
            if rival is not run
        ):
            tower = tree.parents[tower]
        towers.append(tower)
    return towers


def label_towers(paths: Sequence[str]) -> list[str]:
    """Return the word by which each tower's blocks are called.

    >>> label_towers([""]), label_towers(["net.encoder", "net.decoder"])
    (['blocks'], ['encoder', 'decoder'])
    >>> label_towers(["vision", "text"])
    ['vision.blocks', 'text.blocks']
    """
    sides = [_side(path) for path in paths]
    if len(paths) == 1:
        return ["blocks"]
    if sorted(sides) == ["decoder", "encoder"]:
        return sides
    return [f"{path}.blocks".lstrip(".") for path in paths]


def _side(path: str) -> str:
    """Return "encoder" or "decoder" when the last name in a path says so."""
    last = path.rpartition(".")[2].lower()
    return next((side for side in ("decoder", "encoder") if side in last), "")
