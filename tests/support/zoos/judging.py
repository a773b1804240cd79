"""Holding what a word selects in a model against what the model's library says of its layers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from unifreeze._plan.selectors import evaluate, parse
from unifreeze._structure import ModelSpec, Zone
from unifreeze.errors import UnifreezeError


class Row(NamedTuple):
    """One word judged on one model.

    Attributes:
        task: What the library lists the model for; a row of the table.
        model: The library's name of it.
        word: The word, or what else is judged.
        fault: What the word takes or lacks, against the library; "" where they agree.
        note: Something to count that is not a fault, for example "more layers than the last".
    """

    task: str
    model: str
    word: str
    fault: str = ""
    note: str = ""


class Unbuilt(NamedTuple):
    """One model that could not be built, or about which the library says nothing."""

    task: str
    model: str
    reason: str


def selected(word: str, spec: ModelSpec) -> set[str]:
    """Return the names of the parameters that a word selects; nothing where it matches nothing."""
    try:
        mask = evaluate(parse(word), spec)
    except UnifreezeError:
        return set()
    return {spec.tree.names[name] for name in spec.atoms.name[mask].tolist()}


def difference(got: set[str], least: set[str], most: set[str] | None = None) -> str:
    """Say what is selected against the library's word for it; "" if it is as the library says.

    Args:
        got: Names of the selected parameters.
        least: Names that must be among them.
        most: Names that may be among them; those that must be, unless given.
    """
    extra, lacking = got - (least if most is None else most), least - got
    parts = [
        f"{what} {len(names)}: {', '.join(sorted(names)[:3])}"
        for what, names in (("takes", extra), ("lacks", lacking))
        if names
    ]
    return "; ".join(parts)


def head_beside_blocks(spec: ModelSpec) -> str:
    """Say which parameters of the head are inside a module that holds a block; "" if none is.

    The model itself is such a module, and so is a plain wrapper's only child; they do not count. A
    tensor that is registered outside as well is a shared head, and does not count either. If no
    head stands beside several towers, a tower is a model of its own.
    """
    tree, head = spec.tree, selected("head", spec)
    wide = [name for n, name in enumerate(tree.names) if tree.tensors[tree.tensor_of[n]].size > 1]
    holders = {p for run in spec.runs for b in run.blocks for p in above(tree.paths[b])}
    holders = {h for h in holders if not all(name.startswith(f"{h}.") for name in wide)}
    towers = {tree.paths[tower] for tower in spec.placement.towers} if len(spec.runs) > 1 else set()
    tensor_of = dict(zip(tree.names, tree.tensor_of, strict=True))
    outside = {tensor_of[name] for name in head if not holders & above(name)}
    if not outside:
        holders -= towers.union(*map(above, towers))
    inside = sorted(n for n in head if tensor_of[n] not in outside and holders & above(n))
    return f"{len(inside)} beside blocks: {', '.join(inside[:3])}" if inside else ""


def above(path: str) -> set[str]:
    """Return the paths of the modules that a path is under, but the model itself.

    >>> sorted(above("a.b.weight"))
    ['a', 'a.b']
    """
    pieces = path.split(".")
    return {".".join(pieces[:count]) for count in range(1, len(pieces))}


def order_of_blocks(spec: ModelSpec, layer_of: dict[str, int]) -> str:
    """Say where the order of blocks contradicts a library's numbers of layers; "" if nowhere.

    Args:
        spec: The model.
        layer_of: For each parameter, the number of its layer by the library's account.
    """
    atoms, names = spec.atoms, spec.tree.names
    latest: dict[int, tuple[int, int]] = {}
    rows: dict[tuple[int, int], list[int]] = {}
    for atom in range(len(atoms)):
        layer = layer_of.get(names[atoms.name[atom]])
        if atoms.zone[atom] == Zone.BLOCK and layer is not None:
            rows.setdefault((int(atoms.run[atom]), int(atoms.block[atom])), []).append(layer)
    for (run, block), layers in sorted(rows.items()):
        before, last = latest.get(run, (-1, -1))
        if min(layers) < last:
            return f"block {block} has layer {min(layers)}, block {before} before it layer {last}"
        latest[run] = block, max(layers)
    return ""


def number_of_layers(config: Any) -> int | None:
    """Return how many blocks a configuration says there are; None if it does not say.

    Blocks of stages, and blocks that several layers share, are counted as such; a number that a
    configuration derives from others comes last.
    """
    if repeats := getattr(config, "num_block_repeats", None):
        return sum(math.ceil(config.depth_coefficient * count) for count in repeats)
    for name in ("stage_num_blocks", "depths", "block_sizes"):
        depths = getattr(config, name, None)
        if isinstance(depths, list | tuple) and all(isinstance(depth, int) for depth in depths):
            return sum(depths)
    if groups := getattr(config, "num_hidden_groups", None):
        return int(groups * config.inner_group_num)
    for name in ("num_decoder_layers", "num_layers", "num_hidden_layers"):
        layers = getattr(config, name, None)
        if isinstance(layers, int):
            return layers
    return None


def timed(rows: Iterable[Row | Unbuilt]) -> Iterator[tuple[Row | Unbuilt, float]]:
    """Yield each row with the seconds it took."""
    before = time.perf_counter()
    for row in rows:
        now = time.perf_counter()
        yield row, now - before
        before = now


def ids_of(tensors: Iterable[Any]) -> set[int]:
    """Return the identities of tensors."""
    return {id(tensor) for tensor in tensors}
