"""Matching native paths against a model: anchored at the root, whole segments, never substrings."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from unifreeze._plan.selectors.expression import Index, Path, Quoted
from unifreeze._plan.selectors.globs import ANY_SEGMENTS, glob_pattern
from unifreeze._plan.selectors.hints.nearest import unmatched_module
from unifreeze._plan.selectors.positions import positions
from unifreeze._structure import Mask, ModelSpec, Tree
from unifreeze._structure.copies import Copies
from unifreeze.errors import UnmatchedSelectorError, counted

Matches = Callable[[str], object]


def match_path(path: Path, spec: ModelSpec) -> Mask:
    """Return, for each name of a spec, whether a path selects it.

    A module's path stands for everything under it.

    Raises:
        UnmatchedSelectorError: No module and no parameter has this path.
        SelectorRangeError: An index goes past a module's last child.
    """
    selected = np.zeros(len(spec.tree.names), np.bool_)
    if path.literal:
        _mark_literal(path.literal, spec, selected)
        is_module = path.literal in spec.module_numbers
    else:
        pattern = re.compile(_regex(path, spec) + r"(?:\..*)?")
        _mark_matching(path, pattern.fullmatch, spec.tree, selected)
        is_module = not selected.any() and any(map(pattern.fullmatch, spec.tree.paths[1:]))
    # A module that exists but holds no parameter is an empty set, not a mistake.
    if not selected.any() and not is_module:
        raise unmatched(path, spec)
    return selected


def _mark_literal(literal: str, spec: ModelSpec, selected: Mask) -> None:
    numbers, tree = spec.module_numbers, spec.tree
    if literal in numbers:
        module = numbers[literal]
        selected[tree.name_starts[module] : tree.name_ends[module]] = True
        return
    around = literal
    while around and around not in numbers:
        around = around.rpartition(".")[0]
    low, high = tree.name_starts[numbers[around]], tree.name_ends[numbers[around]]
    if literal in tree.names[low:high]:
        selected[tree.names.index(literal, low, high)] = True


def _mark_matching(path: Path, matches: Matches, tree: Tree, selected: Mask) -> None:
    """Mark the names that a pattern matches; in siblings that are built alike, once for all."""
    rows = [(row, _read_alike(path, tree, row)) for row in tree.copied]
    alone = np.ones(len(selected), np.bool_)
    for row, alike in rows:
        tree.names_in(row, alone)[alike] = False
    # Most names lack the pattern's longest plain piece, and `in` is faster than the pattern.
    piece, names, looked_at = _longest_plain(path), tree.names, np.flatnonzero(alone).tolist()
    selected[[n for n in looked_at if piece in names[n] and matches(names[n])]] = True
    for row, alike in rows:
        first = slice(tree.name_starts[row.first], tree.name_ends[row.first])
        tree.names_in(row, selected)[alike] = selected[first]


def _read_alike(path: Path, tree: Tree, row: Copies) -> Mask:
    """Return for each copy whether every piece of a path takes its name as it takes the first's.

    Below, the names are the same, so the path selects the same there.
    """
    alike = np.ones(row.siblings, np.bool_)
    if any(segment.index is not None for segment in path.segments):
        return ~alike
    first = tree.last_name(row.first)
    cut = len(tree.paths[row.first]) - len(first)
    own = [name[cut:] for name in tree.paths[row.top : row.tops.stop : row.modules]]
    for piece in {segment.name for segment in path.segments} - {"*", ANY_SEGMENTS}:
        if {*"*?"} & {*piece} or piece == first or piece in own:
            matches = re.compile(glob_pattern([piece])).fullmatch
            taken = np.asarray([bool(matches(name)) for name in own], np.bool_)
            alike &= taken == bool(matches(first))
    return alike


def _longest_plain(path: Path) -> str:
    """Return the longest piece that stands in every match as it is written, "" for none."""
    plain = [""]
    for segment in path.segments:
        if segment.index is not None or {*"*?"} & {*segment.name}:
            plain.append("")
        else:
            plain[-1] += f".{segment.name}" if plain[-1] else segment.name
    return max(plain, key=len)


def _regex(path: Path, spec: ModelSpec) -> str:
    """Translate a path with globs and indices to a regular expression."""
    below, names = "", list[str]()
    for segment in path.segments:
        names.append(segment.name)
        if segment.index is not None and segment.name != ANY_SEGMENTS:
            below = _children(glob_pattern(names, below=below), segment.index, path, spec)
            names = []
    return glob_pattern(names, below=below) if names else below


def _children(prefix: str, index: Index, path: Path, spec: ModelSpec) -> str:
    """Return a pattern for the children, at an index, of every module that a prefix matches."""
    pattern = re.compile(prefix)
    reached = [n for n, name in enumerate(spec.tree.paths) if n and pattern.fullmatch(name)]
    if not reached:
        raise unmatched(path, spec)
    chosen: list[str] = []
    for module in reached:
        children = spec.tree.children(module)
        have = f"{spec.tree.paths[module]} has {counted(len(children), 'child', 'children')}"
        for at in positions(index, len(children), f"{path}: {have}"):
            chosen.append(re.escape(spec.tree.paths[children[at]]))
    return f"(?:{'|'.join(chosen)})" if chosen else "(?!)"


def match_modules(path: Path, spec: ModelSpec) -> list[int]:
    """Return the numbers of the modules at a native path, the model itself left out.

    Raises:
        UnmatchedSelectorError: There is no such module.
        SelectorRangeError: An index goes past a module's last child.
    """
    if path.literal:
        known = spec.module(path.literal)
        modules = [] if known is None else [known]
    else:
        matches = re.compile(_regex(path, spec)).fullmatch
        modules = [n for n, name in enumerate(spec.tree.paths) if n and matches(name)]
    if not modules:
        raise unmatched(path, spec)
    return modules


def find_module(place: str, spec: ModelSpec) -> int:
    """Return the number of the module at a native path.

    Raises:
        UnmatchedSelectorError: There is no such module.
    """
    module = spec.module(place)
    if module is None:
        raise unmatched_module(place, spec)
    return module


def unmatched(part: Path | Quoted, spec: ModelSpec) -> UnmatchedSelectorError:
    """Build the error for a part of a selector; `evaluate` adds what was probably meant."""
    error = UnmatchedSelectorError(
        f"{str(part)!r} matches none of {counted(len(spec), 'parameter')}"
    )
    error.part = part
    return error
