"""Branches that only their names tell apart: two towers of equal layers, or two lists of blocks.

Words and canonical names count layers, by registration or execution. If branches hold equal layers
and another port counts them in another order, no size shows it. Their native names can show it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from unifreeze._structure.counted_layers import layer_texts
from unifreeze._structure.frozen_shares import zone_of
from unifreeze._structure.spec import ModelSpec

Letters = Mapping[str, str]
"""For each sort of parameter, a letter for each layer of a branch, or for each projection in it:
frozen (f), trained (t) or partly frozen (p)."""
Branches = Mapping[str, Sequence[Mapping[str, Letters]]]
"""For each zone, its sets of equal branches: the name of each, and what is frozen in it. A name
that ends in `.*` belongs to a set that nothing but names tells apart."""

_NUMBER = re.compile(r"(?:_?\d+)+$")
ALONE = ".*"


@dataclass
class _Layers:
    """The layers of a model in the order they count in.

    Attributes:
        spec: The model.
        trainable: For each parameter, the decision.
        texts: For each layer, its kind and sizes.
        zones: For each layer, its zone.
        places: For each layer, its place among all of them.
        frozen: For each layer and sort of parameter, whether it is frozen: `f`, `t` or `p`.
    """

    spec: ModelSpec
    trainable: Sequence[bool]
    texts: dict[int, str] = field(init=False)
    zones: dict[int, str] = field(init=False)
    places: dict[int, int] = field(init=False)
    frozen: dict[int, dict[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        spec, at = self.spec, self.spec.placement
        self.texts = layer_texts(spec)
        self.owners = sorted(self.texts)
        self.zones = {owner: zone_of(spec, at.units[at.unit_of[owner]]) for owner in self.owners}
        self.places, self.frozen = {}, {}
        parts = dict(zip(spec.atoms.name.tolist(), spec.atoms.part.tolist(), strict=True))
        for place, number in enumerate(spec.canonical_order.tolist()):
            name = int(spec.first_names[number])
            owner = spec.tree.owners[name]
            if spec.tensors[number].fixed or owner not in self.texts or spec.tree.adapters[name]:
                continue
            self.places.setdefault(owner, place)
            sort = at.kind_of[owner] + {1: " weight", 2: " bias"}.get(parts[name], "")
            rows = self.frozen.setdefault(owner, {})
            letter = "t" if self.trainable[number] else "f"
            rows[sort] = letter if rows.get(sort, letter) == letter else "p"
        self.owners = [owner for owner in self.owners if owner in self.places]
        self._plain = [_plain(path) for path in spec.tree.paths]

    def under(self, module: int) -> list[int]:
        """Return the layers in a module, in the order they count in."""
        low = bisect_left(self.owners, module)
        high = bisect_left(self.owners, self.spec.tree.ends[module])
        return sorted(self.owners[low:high], key=self.places.__getitem__)

    def named(self, zone: str, name: str) -> Letters | None:
        """Return what is frozen in the branches of this name that begin in a zone, if any do."""
        tree, members, end = self.spec.tree, list[int](), 0
        for module in range(1, len(tree.paths)):
            if module < end or not (
                _alike(tree.paths[module], name) or _alike(self._plain[module], name)
            ):
                continue
            end, owners = tree.ends[module], self.under(module)
            if owners and self.zones[owners[0]] == zone:
                members += owners
        rows: dict[str, str] = {}
        for owner in sorted(members, key=self.places.__getitem__):
            span = self.spec.placement.spans.get(owner)
            for sort, letter in self.frozen[owner].items():
                rows[sort] = rows.get(sort, "") + letter * (span.width if span else 1)
        return rows or None


def _plain(path: str) -> str:
    """Return a path without its numbers: `layers.0.attn` and `layers.1.attn` become equal."""
    pieces = (_NUMBER.sub("", piece) for piece in path.split("."))
    return ".".join(filter(None, pieces))


def _numbers(path: str) -> list[int]:
    matches = (_NUMBER.search(piece) for piece in path.split("."))
    return [int(number) for match in matches if match for number in re.findall(r"\d+", match[0])]


def _alike(path: str, name: str) -> bool:
    return bool(path) and f".{path}".endswith(f".{name}")


def branches_of(
    spec: ModelSpec,
    trainable: Sequence[bool],
    counted: Collection[tuple[str, str]],
) -> dict[str, list[dict[str, Letters]]]:
    """Return the equal branches that a decision tells apart, by zone.

    Args:
        spec: The model.
        trainable: For each parameter, the decision.
        counted: The units and kinds in which single layers are told apart by counting them.
    """
    layers, branches = _Layers(spec, trainable), dict[str, list[dict[str, Letters]]]()
    inside: dict[int, int] = {}
    for members, single in (*_alike_modules(layers), *_alike_layers(layers, counted)):
        groups, scrambled = _by_name(layers, members)
        # Where every branch is decided alike, their order does not matter. Parts of branches that
        # are known already would only repeat what those say.
        if not _apart(layers, groups) or _repeats(layers, members, inside):
            continue
        inside |= {member: spec.tree.ends[member] for member in members}
        zone = layers.zones[layers.under(members[0])[0]]
        mark = ALONE if scrambled or not single else ""
        rows = {f"{name}{mark}": layers.named(zone, name) or {} for name in groups}
        branches.setdefault(zone, []).append(rows)
    return branches


def _alike_modules(layers: _Layers) -> Iterator[tuple[list[int], bool]]:
    """Yield the modules that hold the same layers, the largest first."""
    tree, groups = layers.spec.tree, dict[tuple[str, ...], list[int]]()
    keys: dict[int, tuple[str, ...]] = {}
    for module in range(1, len(tree.paths)):
        owners = layers.under(module)
        if owners and owners != [module]:
            # The last layers of one of two towers may count as the head.
            texts = sorted(layers.texts[owner] for owner in owners)
            keys[module] = (layers.zones[owners[0]], *texts)
            if keys.get(tree.parents[module]) != keys[module]:
                # A part of a block is not a branch beside a whole block, though it may be as large.
                depth = str(tree.paths[module].count("."))
                groups.setdefault((*keys[module], depth), []).append(module)
    for key in sorted(groups, key=len, reverse=True):
        if len(groups[key]) > 1:
            yield groups[key], False


def _alike_layers(
    layers: _Layers, counted: Collection[tuple[str, str]]
) -> Iterator[tuple[list[int], bool]]:
    """Yield the layers of one size in a unit, or in all blocks of a run, that are counted."""
    at, groups = layers.spec.placement, dict[tuple[str, str], list[int]]()
    for owner in layers.owners:
        if (at.units[at.unit_of[owner]].label, at.kind_of[owner]) in counted:
            groups.setdefault((layers.zones[owner], layers.texts[owner]), []).append(owner)
    yield from ((members, True) for members in groups.values() if len(members) > 1)


def _by_name(layers: _Layers, members: Sequence[int]) -> tuple[dict[str, list[int]], bool]:
    """Group modules by their names without numbers, each group in the order it counts in.

    Returns:
        The groups, and whether some group counts in another order than its numbers. The members of
        such a group become groups of their own.
    """
    paths = [layers.spec.tree.paths[member] for member in members]
    columns = zip(*(path.split(".")[:-1] for path in paths), strict=False)
    above = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    groups: dict[str, list[int]] = {}
    for member, path in zip(members, paths, strict=True):
        groups.setdefault(_plain(".".join(path.split(".")[above:])), []).append(member)
    divided: dict[str, list[int]] = {}
    scrambled = False
    for name, group in groups.items():
        group.sort(key=lambda member: layers.places[layers.under(member)[0]])
        numbers = [_numbers(layers.spec.tree.paths[member]) for member in group]
        in_order = numbers == sorted(numbers)
        scrambled = scrambled or not in_order
        if in_order and name:
            divided[name] = group
        else:
            divided |= {layers.spec.tree.paths[member]: [member] for member in group}
    return (groups, False) if len(groups) == 1 and not scrambled else (divided, scrambled)


def _apart(layers: _Layers, groups: Mapping[str, Sequence[int]]) -> bool:
    """Return whether another order of the groups would decide something else."""
    decisions: list[list[Any]] = [
        [[layers.frozen[owner] for owner in layers.under(member)] for member in group]
        for group in groups.values()
    ]
    if len(decisions) < 2 or all(group == decisions[0] for group in decisions):
        return False
    members = [member for group in decisions for member in group]
    return any(member != members[0] for member in members)


def _repeats(layers: _Layers, members: Sequence[int], inside: Mapping[int, int]) -> bool:
    """Return whether modules are the same part of each of some branches that are known already."""
    tree, rests = layers.spec.tree, set[str]()
    for member in members:
        above = tree.parents[member]
        while above > 0 and above not in inside:
            above = tree.parents[above]
        if above <= 0:
            return False
        rests.add(_plain(tree.paths[member][len(tree.paths[above]) + 1 :]))
    return len(rests) == 1


def unlike_branches(
    there: Branches,
    spec: ModelSpec,
    trainable: Sequence[bool],
    counted: Collection[tuple[str, str]],
) -> Iterator[str]:
    """Say which branches of the same name are decided otherwise, and which share no name.

    Args:
        there: The branches of the other model.
        spec: This model.
        trainable: For each parameter of it, the decision.
        counted: The units and kinds in which single layers are told apart by counting them.
    """
    layers = _Layers(spec, trainable)
    for zone, sets in there.items():
        for rows in sets:
            yield from _unlike_set(zone, rows, layers)
    for zone, mine in branches_of(spec, trainable, counted).items():
        known = [n.removesuffix(ALONE) for rows in there.get(zone, ()) for n in rows]
        for rows in mine:
            alone = [name.removesuffix(ALONE) for name in rows if name.endswith(ALONE)]
            new = {n for n in alone if not any(_alike(n, k) or _alike(k, n) for k in known)}
            if len(new) > 1:
                yield f"{zone}: {_unknown(new)} here have other names there"


def _unlike_set(zone: str, rows: Mapping[str, Letters], layers: _Layers) -> Iterator[str]:
    """Say how a set of equal branches of the other model differs from the branches here."""
    names = {name.removesuffix(ALONE): row for name, row in rows.items()}
    here = {name: layers.named(zone, name) for name in names}
    shared = {name: row for name, row in here.items() if row is not None}
    for name, row in shared.items():
        if difference := _otherwise(names[name], row):
            yield f"{zone}: {name}: {difference}"
    if any(name.endswith(ALONE) for name in rows) and len(names) - len(shared) > 1:
        yield f"{zone}: {_unknown(set(names) - set(shared))} have other names here"


def _unknown(names: Collection[str]) -> str:
    few = sorted(names)[:4]
    more = f" and {len(names) - len(few)} more" if len(names) > len(few) else ""
    return f"{', '.join(few)}{more}, of equal layers,"


def _otherwise(there: Letters, here: Letters) -> str:
    """Say how two branches of one name differ, "" if they do not."""
    for sort in sorted(there.keys() & here.keys()):
        a, b = there[sort], here[sort]
        # With one more layer, such as another head, they cannot be compared layer by layer.
        same = a == b if len(a) == len(b) else set(a) == set(b)
        if not same:
            return f"{sort}: {a.count('f')} of {len(a)} frozen, and {_frozen_here(a, b)} here"
    return ""


def _frozen_here(there: str, here: str) -> str:
    same = len(there) == len(here) and there.count("f") == here.count("f")
    return "others" if same else f"{here.count('f')} of {len(here)}"
