"""Cutting out a part of a model that is not one module: a tower with its head beside it."""

from __future__ import annotations

from collections.abc import Sequence

from unifreeze._structure.tree import Tree


def only_names(
    tree: Tree, kept: Sequence[bool]
) -> tuple[Tree, list[int], list[int], dict[int, int]]:
    """Return a tree that holds some names alone, with the modules around them.

    A module without names is kept with the module that holds it.

    Args:
        tree: The model.
        kept: For each name, whether it is kept.

    Returns:
        The tree; for each of its names, the number of that name here; for each of its tensors, the
        number of that tensor here; for each module here that is kept, its number there.
    """
    names = [number for number, keep in enumerate(kept) if keep]
    before = [0]
    for keep in kept:
        before.append(before[-1] + keep)
    modules: list[int] = []
    inside = set[int]()
    for module, parent in enumerate(tree.parents):
        start, end = tree.name_starts[module], tree.name_ends[module]
        some = before[end] > before[start]
        if module == 0 or some or (start == end and parent in inside):
            modules.append(module)
            inside.add(module)
    number_of = {old: new for new, old in enumerate(modules)}
    tensors = list(dict.fromkeys(tree.tensor_of[name] for name in names))
    tensor_number = {old: new for new, old in enumerate(tensors)}
    ends = [_end(tree, module, number_of) for module in modules]
    part = Tree(
        tree.framework,
        paths=[tree.paths[m] for m in modules],
        types=[tree.types[m] for m in modules],
        kinds=[tree.kinds[m] for m in modules],
        parents=[number_of.get(tree.parents[m], -1) for m in modules],
        ends=ends,
        repeats=[tree.repeats[m] for m in modules],
        keys=[tree.keys[m] for m in modules],
        name_starts=[before[tree.name_starts[m]] for m in modules],
        name_ends=[before[tree.name_ends[m]] for m in modules],
        names=[tree.names[n] for n in names],
        owners=[number_of[tree.owners[n]] for n in names],
        leaves=[tree.leaves[n] for n in names],
        adapters=[tree.adapters[n] for n in names],
        tensor_of=[tensor_number[tree.tensor_of[n]] for n in names],
        tensors=[tree.tensors[t] for t in tensors],
        trainable=[tree.trainable[t] for t in tensors],
        states=[
            state._replace(owner=number_of[state.owner])
            for state in tree.states
            if state.owner in number_of
        ],
        unused=[
            row._replace(owner=number_of[row.owner])
            for row in tree.unused
            if row.owner in number_of
        ],
        copies=[(before[a], before[b]) for a, b in tree.copies if before[a] < before[b]],
        modeless={number_of[m]: why for m, why in tree.modeless.items() if m in number_of},
    )
    return part, names, tensors, number_of


def _end(tree: Tree, module: int, number_of: dict[int, int]) -> int:
    """Return the number after the last kept module under a module."""
    last = tree.ends[module] - 1
    while last not in number_of:
        last -= 1
    return number_of[last] + 1
