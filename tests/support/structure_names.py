"""Where the blocks, zones and parameters of a described model are."""

from __future__ import annotations


def blocks(made):
    """The native paths of each run's blocks."""
    return [[made.tree.paths[block] for block in run.blocks] for run in made.runs]


def name_of(made, path):
    """The canonical name of the parameter at a native path."""
    return made.canonical[made.tree.names.index(path)]
