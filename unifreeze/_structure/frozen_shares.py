"""How many values a plan freezes in each zone of a model, as plain data that a plan file can hold.

Two ports of one network can be compared by these numbers, whatever their layers are called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from unifreeze._structure.spec import ModelSpec
from unifreeze._structure.zones import Unit, Zone
from unifreeze.errors import counted

Share = tuple[int, int]
"""How many values are frozen, and of how many."""
Shares = Mapping[str, Mapping[str, Share]]
"""The share of each sort of parameter in each zone."""


def zone_of(spec: ModelSpec, unit: Unit) -> str:
    """Return what a unit belongs to: a run of blocks, with what lies between them, or a zone."""
    middle = unit.zone in (Zone.BLOCK, Zone.TRANSITION)
    return spec.placement.labels[unit.run] if middle else unit.label


def shares_of(spec: ModelSpec, trainable: Sequence[bool]) -> dict[str, dict[str, Share]]:
    """Return how many values are frozen, by zone and by sort of parameter.

    What a framework never trains is left out; adapters are a zone of their own.

    Args:
        spec: The model.
        trainable: For each parameter, the decision.
    """
    shares: dict[str, dict[str, Share]] = {}
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
        rows = shares.setdefault(zone, {})
        frozen, every = rows.get(sort, (0, 0))
        count = counts[number]
        rows[sort] = (frozen + count * (not trainable[number]), every + count)
    return shares


def unlike_shares(there: Shares, here: Shares) -> Iterator[str]:
    """Say where two decisions about two ports of one network cannot be the same.

    Where both ports have the same number of values, they must freeze the same number. Where one
    port has more, such as another head, all values of a sort must be frozen in both or in neither.

    Args:
        there: What was decided in the other port.
        here: What is decided in this port.
    """
    for zone in dict.fromkeys((*there, *here)):
        rows, mine = there.get(zone, {}), here.get(zone, {})
        if _total(rows) == _total(mine) and _counts(rows) != _counts(mine):
            # The ports call the sorts of these parameters otherwise: only the sums can be compared.
            rows, mine = {"": _total_share(rows)}, {"": _total_share(mine)}
        for sort in dict.fromkeys((*rows, *mine)):
            a, b = rows.get(sort, (0, 0)), mine.get(sort, (0, 0))
            if not _may_be_same(a, b):
                yield f"{' '.join(filter(None, (zone, sort)))}: {_said(a)}, and {_said(b)} here"
    yield from _unlike_kinds(there, here)


def _unlike_kinds(there: Shares, here: Shares) -> Iterator[str]:
    """Say which kinds have different amounts frozen in the two ports, all zones together."""
    totals, mine = _by_kind(there), _by_kind(here)
    for kind, a in totals.items():
        b = mine.get(kind, (0, 0))
        if a[1] == b[1] and a[0] != b[0]:
            yield f"{kind or 'all'}: {_said(a)}, and {_said(b)} here"


def _by_kind(shares: Shares) -> dict[str, Share]:
    totals: dict[str, Share] = {"": (0, 0)}
    for rows in shares.values():
        for sort, (frozen, every) in rows.items():
            for key in ("", sort.partition(" ")[0]):
                before = totals.get(key, (0, 0))
                totals[key] = before[0] + frozen, before[1] + every
    return totals


def _counts(rows: Mapping[str, Share]) -> dict[str, int]:
    return {sort: every for sort, (_, every) in rows.items()}


def _total(rows: Mapping[str, Share]) -> int:
    return sum(every for _, every in rows.values())


def _total_share(rows: Mapping[str, Share]) -> Share:
    return sum(frozen for frozen, _ in rows.values()), _total(rows)


def _may_be_same(a: Share, b: Share) -> bool:
    if a[1] == b[1]:
        return a[0] == b[0]
    nothing = a[0] == b[0] == 0
    everything = a[0] == a[1] and b[0] == b[1]
    return nothing or everything


def _said(share: Share) -> str:
    return f"{share[0]:,} of {counted(share[1], 'value')} frozen"
