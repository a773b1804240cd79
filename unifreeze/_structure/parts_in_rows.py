"""Blocks whose parts follow each other in lists: an attention layer, then its feed-forward layer.

Some networks keep the two in a small list for each block, others all of them in one flat list. A
part that holds nothing but attention is not a whole block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from unifreeze._structure.block_runs import BlockRun, number_runs
from unifreeze._structure.matrices import shapes_under
from unifreeze._structure.parallel_lists import attention_share
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import CONTAINER, LAYERS


class _Pair(NamedTuple):
    """Two neighbours in a flat list: what mixes places, and what follows it.

    Attributes:
        parts: The two modules.
        stage: The number of the stage that they are in.
        attends: The first part holds nothing but attention.
    """

    parts: tuple[int, ...]
    stage: int
    attends: bool


def join_rows(tree: Tree, kinds: list[str], words: Sequence[int], run: BlockRun) -> BlockRun:
    """Return a run in which parts that follow each other are joined to blocks."""
    if run.beside:
        return run
    # Blocks that are built alike, and have the same words, hold the same share.
    originals, known = tree.originals(), dict[tuple[int, int], float]()
    share = {}
    for block in run.blocks:
        key = originals[block], words[block]
        if key not in known:
            known[key] = attention_share(tree, words, block)
        share[block] = known[key]
    if not any(value == 1 for value in share.values()):
        return run
    return (
        _of_small_lists(tree, kinds, words, run)
        or _of_flat_lists(tree, kinds, words, run, share)
        or run
    )


def _of_small_lists(
    tree: Tree, kinds: list[str], words: Sequence[int], run: BlockRun
) -> BlockRun | None:
    """Join the members of each small list in a list; None if they are not parts of blocks."""
    small = list(dict.fromkeys(tree.parents[block] for block in run.blocks))
    outer = {tree.parents[at] for at in small}
    if len(small) < 2 or any(at < 0 or kinds[at] != CONTAINER for at in (*small, *outer)):
        return None
    columns = []
    for at in small:
        parts = [part for part in tree.children(at) if _has_names(tree, part)]
        if not _make_a_block(tree, kinds, words, parts):
            return None
        columns.append(tuple(parts))
    stages = tuple(number_runs(tree.parents[at] for at in small))
    return _joined(run, columns, stages, "the parts of each stand in a small list")


def _make_a_block(tree: Tree, kinds: list[str], words: Sequence[int], parts: Sequence[int]) -> bool:
    """Return whether parts are attention and not more of other modules; layers count together."""
    wide = [part for part in parts if any(len(shape) > 1 for shape in shapes_under(tree, part))]
    shares = [attention_share(tree, words, part) for part in wide]
    modules = [part for part, share in zip(wide, shares, strict=True) if not share]
    single = [part for part in modules if kinds[part] in LAYERS]
    others = len(modules) - len(single) + bool(single)
    return set(shares) == {0.0, 1.0} and others <= shares.count(1.0)


def _of_flat_lists(
    tree: Tree,
    kinds: list[str],
    words: Sequence[int],
    run: BlockRun,
    share: dict[int, float],
) -> BlockRun | None:
    """Join every two neighbours in flat lists; None if they do not take turns."""
    pairs: list[_Pair] = []
    stage_of = dict(zip(run.blocks, run.stages, strict=True))
    for at in dict.fromkeys(tree.parents[block] for block in run.blocks):
        row = [child for child in tree.children(at) if shapes_under(tree, child)]
        if kinds[at] != CONTAINER or len(row) % 2 or any(kinds[part] in LAYERS for part in row):
            return None
        stage = next(stage_of[part] for part in row if part in stage_of)
        for parts in zip(row[::2], row[1::2], strict=True):
            shares = [share.get(part, attention_share(tree, words, part)) for part in parts]
            if shares[1]:
                return None
            pairs.append(_Pair(parts, stage, shares[0] == 1))
    attending = {tree.types[pair.parts[0]] for pair in pairs if pair.attends}
    unlike = [pair for pair in pairs if not pair.attends]
    if len(pairs) < 2 or any(tree.types[pair.parts[0]] in attending for pair in unlike):
        return None
    if 2 * len(unlike) >= len(pairs):
        return None
    kept, marks = [], []
    for number, pair in enumerate(pairs):
        if not _resamples(tree, pairs, number):
            kept.append(pair.parts)
            marks.append((pair.stage, sum(not p.attends for p in pairs[:number])))
    return _joined(run, kept, tuple(number_runs(marks)), "their parts take turns in a list")


def _resamples(tree: Tree, pairs: Sequence[_Pair], number: int) -> bool:
    """Return whether a pair of another class stands between blocks of two sizes."""
    if pairs[number].attends or not 0 < number < len(pairs) - 1:
        return False
    before, after = (
        [shapes_under(tree, part) for part in pairs[at].parts] for at in (number - 1, number + 1)
    )
    return before != after


def _joined(
    run: BlockRun, columns: Sequence[tuple[int, ...]], stages: tuple[int, ...], why: str
) -> BlockRun:
    return replace(
        run,
        blocks=tuple(column[0] for column in columns),
        stages=stages,
        beside=tuple(column[1:] for column in columns),
        why=f"{run.why}; {why}",
    )


def _has_names(tree: Tree, module: int) -> bool:
    return tree.name_starts[module] < tree.name_ends[module]
