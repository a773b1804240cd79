"""What the words that take an index select: blocks[-2:], stages[3], children[0], params[:70%].

The list of all words, with a sentence for each, is in `vocabulary.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unifreeze._plan.selectors.expression import Index
from unifreeze._plan.selectors.hints.numbers import instead_of_stack
from unifreeze._plan.selectors.positions import positions
from unifreeze._plan.selectors.repeated_units import runs_called, stage_count
from unifreeze._plan.selectors.words_for_experts import select_experts
from unifreeze._structure import BlockRun, Mask, ModelSpec, Zone
from unifreeze.errors import SelectorScopeError, counted, listing


def select_counted(name: str, index: Index | None, spec: ModelSpec) -> Mask:
    """Return, for each atom, whether a word that takes an index selects it.

    Raises:
        SelectorRangeError: The index goes past the end.
        SelectorScopeError: The word has no single meaning in this model.
    """
    if name == "experts":
        return select_experts(index, spec)
    if name not in ("children", "params"):
        return _units(name, index, spec)
    # The parser has refused these two without an index.
    assert index is not None
    return _children(index, spec) if name == "children" else _params(index, spec)


def _children(index: Index, spec: ModelSpec) -> Mask:
    tree = spec.tree
    children = tree.children(0)
    have = counted(len(children), "direct child", "direct children")
    chosen = np.zeros(len(tree.names), np.bool_)
    for at in positions(index, len(children), f"the model has {have}"):
        child = children[at]
        chosen[tree.name_starts[child] : tree.name_ends[child]] = True
    return chosen[spec.atoms.name]


def _params(index: Index, spec: ModelSpec) -> Mask:
    places = positions(index, len(spec), f"the model has {counted(len(spec), 'parameter')}")
    chosen = np.zeros(len(spec), np.bool_)
    chosen[spec.canonical_order[places.start : places.stop]] = True
    return chosen[spec.atoms.tensor]


def _units(name: str, index: Index | None, spec: ModelSpec) -> Mask:
    """Select blocks, stages, or one of two stacks; a transition goes with the block after it."""
    atoms = spec.atoms
    in_runs: Mask = np.isin(atoms.zone, (Zone.BLOCK, Zone.TRANSITION))
    runs = _runs(name, spec, "" if index is None else str(index))
    if index is None:
        return in_runs & np.isin(atoms.run, runs)
    if len(runs) != 1:
        raise _several_runs(f"{name}{index}", spec)
    run = spec.runs[runs[0]]
    if name == "stages":
        count = _stages(run, f"{name}{index}", spec)
        stages = positions(index, count, f"the model has {counted(count, 'stage')}")
        chosen = [number for number, stage in enumerate(run.stages) if stage in stages]
    else:
        count = len(run.blocks)
        chosen = list(positions(index, count, f"the model has {counted(count, 'block')}"))
    selected: Mask = in_runs & (atoms.run == runs[0]) & np.isin(atoms.block, chosen)
    return selected


def unit_count(name: str, spec: ModelSpec) -> int:
    """Return how many blocks, stages, … an index can select from.

    Raises:
        SelectorScopeError: The word has no single meaning in this model.
    """
    runs = _runs(name, spec)
    if len(runs) != 1:
        raise _several_runs(f"{name}[-1]", spec)
    run = spec.runs[runs[0]]
    return _stages(run, f"{name}[-1]", spec) if name == "stages" else len(run.blocks)


def _stages(run: BlockRun, text: str, spec: ModelSpec) -> int:
    """Return the number of a run's stages; `text` is the selector that a message names."""
    count = stage_count(run, spec)
    if count is None:
        raise SelectorScopeError(
            f"{text} is unknown: all {len(run.blocks)} blocks stand in one list",
            context="stages are then runs of equal resolution, which a forward pass shows",
            hint="give a batch, or count blocks: blocks[-2:]",
        )
    return count


def _runs(name: str, spec: ModelSpec, index: str = "") -> Sequence[int]:
    """Return the runs of blocks that a word stands for, or raise an error with the reason."""
    if not spec.runs:
        raise SelectorScopeError(
            f"{name!r} selects nothing: the model has no repeated units",
            hint="select by path, by kind, or by position: params[:50%]",
        )
    runs = runs_called(name, spec)
    if not runs:
        raise SelectorScopeError(
            f"{name!r} selects nothing: the model has no two stacks",
            context=f"runs of blocks: {_run_listing(spec)}",
            hint=instead_of_stack(name, index, spec)
            if len(spec.runs) == 1 or not index
            else _several_runs(f"blocks{index}", spec).hint,
        )
    return runs


def _several_runs(text: str, spec: ModelSpec) -> SelectorScopeError:
    labels = spec.placement.labels
    if set(labels) == {"encoder", "decoder"}:
        hint = f"encoder{text[text.index('[') :]} or decoder{text[text.index('[') :]}"
    else:
        paths = [spec.tree.paths[tower] for tower in spec.placement.towers]
        hint = " or ".join(f"{text} in {path}" for path in paths[:3] if path)
        if "" in paths:
            hint += f', or at:"{labels[paths.index("")]}.…" for those of the model itself'
    return SelectorScopeError(
        f"{text} could be of any of {len(labels)} runs of blocks",
        context=f"runs: {_run_listing(spec)}",
        hint=hint,
    )


def _run_listing(spec: ModelSpec) -> str:
    pairs = zip(spec.runs, spec.placement.labels, strict=True)
    return listing(
        f"{counted(len(run.blocks), 'block')} under {spec.tree.paths[run.holder] or 'the model'} "
        f"({label})"
        for run, label in pairs
    )
