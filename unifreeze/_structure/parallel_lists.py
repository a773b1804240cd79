"""Blocks whose parts stand in parallel lists: `attentions[3]` and `ffns[3]` are one block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unifreeze._structure.block_runs import BlockRun
from unifreeze._structure.head_names import named_for_head
from unifreeze._structure.matrices import shapes_under
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import ATTENTION, CONTAINER, LAYERS


def join_parts(tree: Tree, kinds: list[str], words: Sequence[int], run: BlockRun) -> BlockRun:
    """Return a run whose parallel lists of parts are joined into one block for each index.

    Lists are parallel if they are equally long, side by side in one module, each of one class and
    of one size; and either some hold nothing but attention, so that these are no whole blocks, and
    the others none, or lists of single layers, such as norms, stand beside them. Heads in a list,
    one for each block, are no parts of the blocks.
    """
    lists = [
        at
        for at in tree.children(run.holder)
        if kinds[at] == CONTAINER and not named_for_head(tree.last_name(at))
    ]
    parts = {at: tree.children(at) for at in lists}
    parts = {at: row for at, row in parts.items() if _one_class(tree, row)}
    blocks = set(run.blocks)
    whole = [at for at, row in parts.items() if blocks.issuperset(row)]
    lengths = {len(parts[at]) for at in whole}
    if len(whole) < 2 or len(lengths) != 1 or sum(len(parts[at]) for at in whole) != len(blocks):
        return run
    if len({tree.types[parts[at][0]] for at in whole}) < len(whole):
        return run
    beside = [
        at for at, row in parts.items() if kinds[row[0]] in LAYERS and len(row) == min(lengths)
    ]
    if not all(_one_size(tree, parts[at]) for at in whole):
        return run
    shares = [attention_share(tree, words, parts[at][0]) for at in whole]
    if not (set(shares) == {0.0, 1.0} or beside):
        return run
    columns = list(zip(*(parts[at] for at in sorted([*whole, *beside])), strict=True))
    leads = tuple(next(part for part in column if part in blocks) for column in columns)
    others = tuple(
        tuple(part for part in column if part != lead)
        for column, lead in zip(columns, leads, strict=True)
    )
    why = f"{run.why}; their parts stand in lists side by side"
    return replace(run, blocks=leads, stages=(0,) * len(leads), beside=others, why=why)


def _one_class(tree: Tree, row: Sequence[int]) -> bool:
    return len(row) >= 2 and len({tree.types[index] for index in row}) == 1


def _one_size(tree: Tree, row: Sequence[int]) -> bool:
    return len({shapes_under(tree, index) for index in row}) == 1


def attention_share(tree: Tree, words: Sequence[int], index: int) -> float:
    """Return the share of a module's matrices that are in attention; 0 if it has none."""
    owners = [
        tree.owners[name]
        for name in range(tree.name_starts[index], tree.name_ends[index])
        if len(tree.tensors[tree.tensor_of[name]].shape) > 1
    ]
    attending = sum(bool(words[owner] & ATTENTION) for owner in owners)
    return attending / len(owners) if owners else 0.0
