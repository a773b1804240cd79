"""The layers that canonical names count, as plain data that a plan file can hold.

Canonical names mean the same in two ports where both count the same: layers of one kind in one
unit, of the same sizes in the same order. A layer that holds several projections counts as all of
them, so sizes are compared where both ports have a boundary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import NamedTuple

from unifreeze._structure.spec import ModelSpec
from unifreeze._structure.words_in_names import (
    FAMILIES,
    KEY,
    POSITION,
    QUERY,
    TASK,
    TOKEN_TYPE,
    VALUE,
    WORD,
)
from unifreeze._structure.words_in_names import PARTS as FUSED_PARTS

Groups = Mapping[str, Mapping[str, Sequence[str]]]
"""For each unit and each kind of layer in it, its layers in order, each as a text."""

_TAGS = {QUERY: "q", KEY: "k", VALUE: "v", WORD: "word", POSITION: "position"}
_TAGS |= {TOKEN_TYPE: "type", TASK: "task"}
_LAYER = re.compile(
    r"(?:(?P<tags>[a-z ]+) )?(?P<unsure>~?)(?P<shape>\d+(?:x\d+)*)(?:/(?P<places>\d+))?"
)
_RANGE = re.compile(r"(.*)\.(\d{1,6})\.\.(\d{1,6})")


def folded(groups: Groups) -> dict[str, Mapping[str, Sequence[str]]]:
    """Write units in a row that hold the same layers as one: `blocks.0..11`."""
    rows: dict[str, Mapping[str, Sequence[str]]] = {}
    start, last, before = "", -1, None
    for unit, kinds in groups.items():
        above, _, number = unit.rpartition(".")
        follows = above and number.isdigit() and int(number) == last + 1 and kinds == before
        if follows and start.rpartition(".")[0] == above:
            rows.pop(_range(start, last), None)
            rows[_range(start, last + 1)] = kinds
        else:
            start = unit
            rows[unit] = kinds
        last, before = int(number) if number.isdigit() else -2, kinds
    return rows


def _range(start: str, last: int) -> str:
    return start if start.endswith(f".{last}") else f"{start}..{last}"


def unfolded(groups: Groups) -> dict[str, Mapping[str, Sequence[str]]]:
    """Write every unit by itself again."""
    rows: dict[str, Mapping[str, Sequence[str]]] = {}
    for name, kinds in groups.items():
        match = _RANGE.fullmatch(name)
        if match is None:
            rows[name] = kinds
        else:
            units = range(int(match[2]), int(match[3]) + 1)
            rows |= {f"{match[1]}.{number}": kinds for number in units}
    return rows


class CountedLayer(NamedTuple):
    """One layer among those of its kind in its unit, read from its text.

    Attributes:
        tags: For each place it takes, the word that tells it from others, "" if there is none.
        values: Number of values of its largest tensor.
        length: First axis of that tensor in the neutral layout, 0 where the layout is unknown.
    """

    tags: tuple[str, ...]
    values: int
    length: int


def groups_of(spec: ModelSpec) -> Groups:
    """Return, for each unit and each kind of layer in it, its layers in the order they count in."""
    return spec.once("groups", lambda: _groups(spec))


def alike_but_for_order(
    spec: ModelSpec, trainable: Sequence[bool], groups: Iterable[tuple[str, str]]
) -> list[str]:
    """Return canonical names of layers that look alike and get different decisions.

    Only their order tells these layers apart.

    Args:
        spec: The model.
        trainable: For each parameter, the decision.
        groups: The units and kinds to look at.
    """
    at, wanted = spec.placement, set(groups)
    flags: dict[int, set[bool]] = {}
    for number, name in enumerate(spec.first_names.tolist()):
        flags.setdefault(spec.tree.owners[name], set()).add(bool(trainable[number]))
    rows: dict[tuple[str, str, str], list[int]] = {}
    for owner, number in _largest(spec).items():
        unit, kind = at.units[at.unit_of[owner]].label, at.kind_of[owner]
        if (unit, kind) in wanted:
            rows.setdefault((unit, kind, _text(spec, owner, number)), []).append(owner)
    alike = (owners for owners in rows.values() if len(owners) > 1)
    apart = (owners for owners in alike if len(set().union(*(flags[o] for o in owners))) > 1)
    return [spec.owner_name(owner) for owners in apart for owner in sorted(owners)]


def _groups(spec: ModelSpec) -> Groups:
    at = spec.placement
    rows: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for owner, number in _largest(spec).items():
        unit, kind = at.units[at.unit_of[owner]].label, at.kind_of[owner]
        row = at.count_of[owner], _text(spec, owner, number)
        rows.setdefault(unit, {}).setdefault(kind, []).append(row)
    return {
        unit: {kind: [text for _, text in sorted(layers)] for kind, layers in kinds.items()}
        for unit, kinds in rows.items()
    }


def layer_texts(spec: ModelSpec) -> dict[int, str]:
    """Write every layer down by its kind and sizes: `linear q 16x16`."""
    kinds = spec.placement.kind_of
    return {
        owner: f"{kinds[owner]} {_text(spec, owner, number)}"
        for owner, number in _largest(spec).items()
    }


def _largest(spec: ModelSpec) -> dict[int, int]:
    """Return the largest parameter of each layer, adapters left out."""
    largest: dict[int, int] = {}
    for number, name in enumerate(spec.first_names.tolist()):
        owner = spec.tree.owners[name]
        best = largest.get(owner)
        if not spec.tree.adapters[name] and (
            best is None or spec.tensors[number].size > spec.tensors[best].size
        ):
            largest[owner] = number
    return largest


def _text(spec: ModelSpec, owner: int, number: int) -> str:
    """Write a layer down: `q 16x16`, `q k v 48x16/3`, `~8x4` if either axis may be the first."""
    at = spec.placement
    shape, oriented = spec.neutral_shape(number)
    sizes = "x".join(map(str, shape)) or "1"
    span, word = at.spans.get(owner), at.words[owner]
    places = span.width if span else 1
    parts = next((p for flag, p in FUSED_PARTS.items() if word & flag), (word,))
    if span and span.roles:
        parts = (QUERY, KEY, VALUE)[:places]
    tags = " ".join(filter(None, (_tag(part) for part in parts)))
    return f"{tags} {'' if oriented else '~'}{sizes}{f'/{places}' if places > 1 else ''}".strip()


def _tag(word: int) -> str:
    known = word & (FAMILIES[0] | FAMILIES[1])
    return next((tag for flag, tag in _TAGS.items() if known & flag), "")


def read_layer(text: str) -> CountedLayer | None:
    """Read a layer's text; None if it is not such a text."""
    match = _LAYER.fullmatch(text)
    if match is None:
        return None
    places = int(match["places"] or 1)
    tags = (match["tags"] or "").split()
    shape = [int(size) for size in match["shape"].split("x")]
    told = tuple(tags) if len(tags) == places else ("",) * places
    return CountedLayer(told, prod(shape), 0 if match["unsure"] else shape[0])


def same_layers(there: Sequence[str], here: Sequence[str]) -> bool:
    """Return whether two ports count the same layers: equal sizes and words at equal places."""
    sides = [[read_layer(text) for text in side] for side in (there, here)]
    rows = [[row for row in side if row is not None] for side in sides]
    tags = [[tag for row in side for tag in row.tags] for side in rows]
    if rows != sides or len(tags[0]) != len(tags[1]):
        return False
    if any(a != b for a, b in zip(*tags, strict=True) if a and b):
        return False
    sure = all(row.length for side in rows for row in side)
    # Where one port fuses what the other holds apart, both have a boundary after the last part.
    marks = [_marks(side, sure=sure) for side in rows]
    return all(marks[0][place] == marks[1][place] for place in marks[0].keys() & marks[1].keys())


def _marks(rows: Sequence[CountedLayer], *, sure: bool) -> dict[int, tuple[int, int]]:
    """Return, for every place where a layer ends, the total size of all layers up to there."""
    place, values, length, marks = 0, 0, 0, {}
    for row in rows:
        place += len(row.tags)
        values, length = values + row.values, length + row.length * sure
        marks[place] = values, length
    return marks
