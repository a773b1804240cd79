"""What two ports of one network have in common, as plain data that a plan file can hold.

Canonical names count layers. They mean the same in two ports where what is counted is the same:
layers of one kind in one unit, of the same sizes in the same order. A layer that holds several
projections counts as all of them, so sizes are compared where both ports have a boundary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

from unifreeze._structure.spec import ModelSpec
from unifreeze._structure.words import FAMILIES, KEY, POSITION, QUERY, TASK, TOKEN_TYPE, VALUE, WORD
from unifreeze._structure.words import PARTS as FUSED_PARTS
from unifreeze._structure.zones import Unit, Zone

Shares = Mapping[str, Mapping[str, tuple[int, int]]]
"""For each zone and each sort of parameter in it, how many values are frozen, and of how many."""
Groups = Mapping[str, Mapping[str, Sequence[str]]]
"""For each unit and each kind of layer in it, its layers in order, each as a text."""

_TAGS = {QUERY: "q", KEY: "k", VALUE: "v", WORD: "word", POSITION: "position"}
_TAGS |= {TOKEN_TYPE: "type", TASK: "task"}
_ROW = re.compile(
    r"(?:(?P<tags>[a-z ]+) )?(?P<unsure>~?)(?P<shape>\d+(?:x\d+)*)(?:/(?P<places>\d+))?"
)
_RANGE = re.compile(r"(.*)\.(\d{1,6})\.\.(\d{1,6})")
_NUMBERED = re.compile(r"(.*?)_?(\d+)")


def zone_of(spec: ModelSpec, unit: Unit) -> str:
    """Return what a unit belongs to: a run of blocks, with what lies between them, or a zone."""
    middle = unit.zone in (Zone.BLOCK, Zone.TRANSITION)
    return spec.placement.labels[unit.run] if middle else unit.label


def shares_of(spec: ModelSpec, trainable: Sequence[bool]) -> dict[str, dict[str, tuple[int, int]]]:
    """Return how many values are frozen, by zone and by sort of parameter.

    What a framework never trains is left out; adapters are a zone of their own.

    Args:
        spec: The model.
        trainable: For each parameter, the decision.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    at, counts = spec.placement, spec.counts.tolist()
    parts = {int(name): part for name, part in zip(spec.atoms.name, spec.atoms.part, strict=True)}
    for number, name in enumerate(spec.first_names.tolist()):
        if spec.tensors[number].fixed:
            continue
        owner = spec.tree.owners[name]
        zone, sort = zone_of(spec, at.units[at.unit_of[owner]]), at.kind_of[owner]
        if spec.tree.adapters[name]:
            zone, sort = "adapters", "adapter"
        sort += {1: " weight", 2: " bias"}.get(parts[name], "")
        rows = found.setdefault(zone, {})
        frozen, every = rows.get(sort, (0, 0))
        count = counts[number]
        rows[sort] = (frozen + count * (not trainable[number]), every + count)
    return found


def unlike_shares(one: Shares, other: Shares) -> Iterator[str]:
    """Say where two decisions about two ports of one network cannot be the same.

    Where both have as many values, as many must be frozen. Where one has more, as with another
    head, all of a sort must be decided one way, and the same way in both.
    """
    for zone in dict.fromkeys((*one, *other)):
        here, there = one.get(zone, {}), other.get(zone, {})
        if _total(here) == _total(there) and _counts(here) != _counts(there):
            here, there = {"": _total_share(here)}, {"": _total_share(there)}
        for sort in dict.fromkeys((*here, *there)):
            a, b = here.get(sort, (0, 0)), there.get(sort, (0, 0))
            if not _may_be_same(a, b):
                yield f"{' '.join(filter(None, (zone, sort)))}: {_said(a)}, and {_said(b)} here"
    yield from _unlike_kinds(one, other)


def _unlike_kinds(one: Shares, other: Shares) -> Iterator[str]:
    """Say of which kind, wherever it is, the two freeze different amounts."""
    sides = [_by_kind(side) for side in (one, other)]
    for kind in sides[0]:
        a, b = sides[0][kind], sides[1].get(kind, (0, 0))
        if a[1] == b[1] and a[0] != b[0]:
            yield f"{kind or 'all'}: {_said(a)}, and {_said(b)} here"


def _by_kind(shares: Shares) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {"": (0, 0)}
    for rows in shares.values():
        for sort, (frozen, every) in rows.items():
            for key in ("", sort.partition(" ")[0]):
                before = found.get(key, (0, 0))
                found[key] = before[0] + frozen, before[1] + every
    return found


def _counts(rows: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    return {sort: every for sort, (_, every) in rows.items()}


def _total(rows: Mapping[str, tuple[int, int]]) -> int:
    return sum(every for _, every in rows.values())


def _total_share(rows: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(frozen for frozen, _ in rows.values()), _total(rows)


def _may_be_same(one: tuple[int, int], other: tuple[int, int]) -> bool:
    if one[1] == other[1]:
        return one[0] == other[0]
    nothing = one[0] == other[0] == 0
    everything = one[0] == one[1] and other[0] == other[1]
    return nothing or everything


def _said(share: tuple[int, int]) -> str:
    return f"{share[0]:,} of {share[1]:,} values frozen"


# Layers that are counted --------------------------------------------------------------------


def folded(groups: Groups) -> dict[str, Mapping[str, Sequence[str]]]:
    """Write units in a row that hold the same layers as one: `blocks.0..11`."""
    found: dict[str, Mapping[str, Sequence[str]]] = {}
    start, last, before = "", -1, None
    for unit, kinds in groups.items():
        above, _, number = unit.rpartition(".")
        follows = above and number.isdigit() and int(number) == last + 1 and kinds == before
        if follows and start.rpartition(".")[0] == above:
            found.pop(_run(start, last), None)
            found[_run(start, last + 1)] = kinds
        else:
            start = unit
            found[unit] = kinds
        last, before = int(number) if number.isdigit() else -2, kinds
    return found


def _run(start: str, last: int) -> str:
    return start if start.endswith(f".{last}") else f"{start}..{last}"


def unfolded(groups: Groups) -> dict[str, Mapping[str, Sequence[str]]]:
    """Return every unit by itself."""
    found: dict[str, Mapping[str, Sequence[str]]] = {}
    for name, kinds in groups.items():
        match = _RANGE.fullmatch(name)
        if match is None:
            found[name] = kinds
        else:
            units = range(int(match[2]), int(match[3]) + 1)
            found |= {f"{match[1]}.{number}": kinds for number in units}
    return found


class Row(NamedTuple):
    """One layer among those of its kind in its unit, read from its text.

    Attributes:
        tags: For each place it takes, the word that tells it from others, "" if there is none.
        values: Number of values of its largest tensor.
        length: First axis of that in the neutral layout, 0 where nothing tells which it is.
    """

    tags: tuple[str, ...]
    values: int
    length: int


def groups_of(spec: ModelSpec) -> Groups:
    """Return, for each unit and each kind of layer in it, its layers in the order they count in."""
    if "groups" not in spec.memo:
        spec.memo["groups"] = _groups(spec)
    found: Groups = spec.memo["groups"]
    return found


def alike_but_for_order(
    spec: ModelSpec, trainable: Sequence[bool], groups: Iterable[tuple[str, str]]
) -> list[str]:
    """Return canonical names of layers that nothing but their order tells from ones decided apart.

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
        unit: {kind: [text for _, text in sorted(found)] for kind, found in kinds.items()}
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
    """Return the largest parameter of each layer; adapters are none of it."""
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


def read_row(text: str) -> Row | None:
    """Read a layer's text; None if it is none."""
    match = _ROW.fullmatch(text)
    if match is None:
        return None
    places = int(match["places"] or 1)
    tags = (match["tags"] or "").split()
    shape = [int(size) for size in match["shape"].split("x")]
    told = tuple(tags) if len(tags) == places else ("",) * places
    return Row(told, prod(shape), 0 if match["unsure"] else shape[0])


def same_layers(one: Sequence[str], other: Sequence[str]) -> bool:
    """Tell whether two ports count the same layers: the same sizes and words at the same places."""
    sides = [[read_row(text) for text in side] for side in (one, other)]
    rows = [[row for row in side if row is not None] for side in sides]
    tags = [[tag for row in side for tag in row.tags] for side in rows]
    if rows != sides or len(tags[0]) != len(tags[1]):
        return False
    if any(a != b for a, b in zip(*tags, strict=True) if a and b):
        return False
    sure = all(row.length for side in rows for row in side)
    marks = [_marks(side, sure=sure) for side in rows]
    return all(marks[0][place] == marks[1][place] for place in marks[0].keys() & marks[1].keys())


def _marks(rows: Sequence[Row], *, sure: bool) -> dict[int, tuple[int, int]]:
    """Return, at every place where a layer ends, what all up to there hold."""
    place, values, length, found = 0, 0, 0, {}
    for row in rows:
        place += len(row.tags)
        values, length = values + row.values, length + row.length * sure
        found[place] = values, length
    return found


# Order of registration ----------------------------------------------------------------------


def misnumbered(spec: ModelSpec) -> dict[int, tuple[str, str]]:
    """Find modules whose children are registered in another order than they are numbered in.

    Returns:
        For each such module, the first two children that stand the wrong way round.
    """
    if "misnumbered" not in spec.memo:
        found, tree = {}, spec.tree
        for module in {tree.parents[index] for index in range(1, len(tree.paths))}:
            last: dict[str, tuple[int, str]] = {}
            for child in tree.children(module):
                name = tree.paths[child].rpartition(".")[2]
                match = _NUMBERED.fullmatch(name)
                if match is None:
                    continue
                before = last.get(match[1])
                if before is not None and before[0] > int(match[2]):
                    found[module] = before[1], name
                    break
                last[match[1]] = int(match[2]), name
        spec.memo["misnumbered"] = found
    made: dict[int, tuple[str, str]] = spec.memo["misnumbered"]
    return made
