"""Selectors by native paths, for plans that are meant for one port alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from unifreeze._authoring.capture.candidates import INDEXED, WORD, Candidate
from unifreeze._authoring.capture.unit_sequences import UnitSequence, index_of
from unifreeze._plan.selectors import WORDS, Path
from unifreeze._plan.selectors.expression import Segment
from unifreeze._structure import Mask, ModelSpec

DEEPER, FLOATING, SINGLE = 0.1, 0.3, 1.0
"""What each further segment, a `**.name` and a single parameter add to the cost of a word."""


def native_candidates(spec: ModelSpec, wanted: Mask, *, positions: bool) -> Iterator[Candidate]:
    """Yield modules, runs of a module's children, `**.name` for each last segment, and parameters.

    Args:
        spec: The model.
        wanted: For each name, whether it is to be trainable.
        positions: All children of every module are known, so that positions can be used.
    """
    tree = spec.tree
    for number, path in enumerate(tree.paths[1:], start=1):
        yield Candidate(path_of(path), WORD + DEEPER * path.count("."))
        if positions:
            yield from _children(spec, wanted, number)
    leaves = (name.rpartition(".")[2] for name in (*tree.names, *tree.paths[1:]))
    for leaf in dict.fromkeys(leaves):
        if leaf.isidentifier() and leaf.isascii():
            yield Candidate(Path((Segment("**"), Segment(leaf))), WORD + FLOATING)
    yield from every_native_path(spec, cost=WORD + SINGLE)


def every_native_path(spec: ModelSpec, *, cost: float) -> Iterator[Candidate]:
    """Yield every parameter by its native path."""
    for name in spec.tree.names:
        yield Candidate(path_of(name), cost)


def path_of(path: str) -> Path:
    """Return a native path as an expression; it is quoted where it could be read as a word."""
    segments = tuple(Segment(piece) for piece in path.split("."))
    plain = all(piece.isascii() and piece.replace("_", "a").isalnum() for piece in path.split("."))
    return Path(segments, quoted=not plain or path in WORDS or path == "in")


def _children(spec: ModelSpec, wanted: Mask, module: int) -> Iterator[Candidate]:
    """Yield runs of a list's children that have one decision: `encoder.layer[0:10]`."""
    tree = spec.tree
    children, path = tree.children(module), path_of(tree.paths[module])
    numbered = all(tree.paths[child].rpartition(".")[2].isdigit() for child in children)
    if len(children) < 2 or not numbered or path.quoted:
        return
    of_name = np.full(len(tree.names), -1, np.intp)
    for position, child in enumerate(children):
        of_name[tree.name_starts[child] : tree.name_ends[child]] = position
    sequence = UnitSequence("", "", len(children), of_name, INDEXED)
    *above, last = path.segments
    for start, stop in sequence.uniform(wanted, sequence.inside):
        index = index_of(start, stop, len(children))
        if index is not None:
            segments = (*above, Segment(last.name, index))
            yield Candidate(Path(segments), INDEXED + DEEPER * len(above))
