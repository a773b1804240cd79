"""Placing every layer of a model: which zone, which block, its index among layers of its kind.

Zones: `stem` before the first block, `blocks.N`, `transition.N` between blocks (it leads into block
N), `neck` and `head` after the last block, `net` in a model without blocks, `unplaced` for tensors
that hang on no layer and whose first use is unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property, partial
from typing import NamedTuple

from unifreeze._structure.blocks import Run, find_runs, number_runs
from unifreeze._structure.counting import LayerCounter, Numbering, Span
from unifreeze._structure.order import Order, Rank
from unifreeze._structure.tree import STATISTICS, Trace, Tree
from unifreeze._structure.words import (
    AUXILIARY,
    CONTAINER,
    EXPERTS,
    FUSED_KV,
    FUSED_QKV,
    INHERITED,
    INPUT,
    LAYERS,
    QUERY,
    attention_in_class,
    guess_kind,
    words_in,
)


class Zone(IntEnum):
    """Where in the network, in the order in which parameters are listed."""

    STEM = 0
    BLOCK = 1
    TRANSITION = 2
    NET = 3
    NECK = 4
    HEAD = 5
    UNPLACED = 6


class Unit(NamedTuple):
    """One stretch of the network that has a name: `stem`, `blocks.3`, `decoder.0/expert.5`.

    Attributes:
        label: First piece of the canonical names in it.
        zone: Which zone it is.
        run: Index of the run of blocks it belongs to, -1 where it belongs to none in particular.
        block: Position in the run for a block, of the block it leads into for a transition.
        expert: Position among its block's experts, -1 elsewhere.
    """

    label: str
    zone: Zone
    run: int
    block: int
    expert: int


@dataclass
class Placement:
    """Where every owner of tensors is.

    Attributes:
        kinds: Kind of every module, guesses included.
        words: Word bits of every module, inherited ones included.
        runs: The runs of blocks; in order of execution when traced.
        towers: For each run, the highest module that holds no other run.
        labels: For each run, the word its blocks go by (`blocks`, `encoder`, `decoder`).
        units: All units met.
        unit_of: For each owner, its unit's number.
        kind_of: For each owner, the kind it is counted as.
        ranks: For each owner, and each layer with state, its place in the order that was used;
            compare, do not count with it.
        unreached: Those of them that a traced forward pass never ran.
    """

    kinds: list[str]
    words: list[int]
    runs: list[Run] = field(default_factory=list)
    towers: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    unit_of: dict[int, int] = field(default_factory=dict)
    kind_of: dict[int, str] = field(default_factory=dict)
    ranks: dict[int, Rank] = field(default_factory=dict)
    unreached: frozenset[int] = frozenset()
    number: Callable[[], Numbering] = Numbering
    """Numbers the layers; only names need that, so it waits until one is asked for."""

    @cached_property
    def _numbering(self) -> Numbering:
        return self.number()

    @property
    def count_of(self) -> dict[int, int]:
        """For each owner, how many places of its kind come before it in its unit."""
        return self._numbering.count_of

    @property
    def spans(self) -> dict[int, Span]:
        """The layers that take several places in the count, by owner."""
        return self._numbering.spans

    @property
    def ambiguous(self) -> set[int]:
        """Owners whose number differs between the two orders with nothing to settle it."""
        return self._numbering.ambiguous


def place(tree: Tree, trace: Trace | None = None) -> Placement:
    """Place every owner of a tensor in the network.

    Args:
        tree: The model as its backend found it.
        trace: What a forward pass showed; with it positions follow execution, without it
            registration.
    """
    if tree.members:
        return _place_members(tree, trace)
    placement = Placement(_kinds(tree), _words(tree))
    placement.runs = find_runs(tree, placement.kinds)
    _Placer(tree, placement, trace).run()
    return placement


def _place_members(tree: Tree, trace: Trace | None) -> Placement:
    """Place several models that one plan takes in, each as if it were alone."""
    whole = Placement(_kinds(tree), _words(tree))
    parts = {
        index: place(tree.subtree(index)[0], trace and trace.within(tree.paths[index]))
        for index in tree.children(0)
    }
    whole.number = partial(_number_members, tree, parts)
    for index, part in parts.items():
        name = tree.paths[index]
        first_run, first_unit = len(whole.runs), len(whole.units)
        whole.runs += [
            Run(run.holder + index, tuple(b + index for b in run.blocks), run.stages)
            for run in part.runs
        ]
        whole.towers += [tower + index for tower in part.towers]
        whole.labels += [f"{name}.{label}" for label in part.labels]
        whole.units += [
            unit._replace(label=f"{name}.{unit.label}", run=max(unit.run, 0) + first_run)
            if part.runs
            else unit._replace(label=f"{name}.{unit.label}")
            for unit in part.units
        ]
        for owner, unit_number in part.unit_of.items():
            whole.unit_of[owner + index] = unit_number + first_unit
            whole.kind_of[owner + index] = part.kind_of[owner]
        whole.ranks |= {owner + index: (0, owner + index) for owner in part.ranks}
        whole.unreached |= {owner + index for owner in part.unreached}
    return whole


def _number_members(tree: Tree, parts: dict[int, Placement]) -> Numbering:
    numbering = Numbering()
    for index, part in parts.items():
        first = tree.name_starts[index]
        numbering.count_of.update({owner + index: n for owner, n in part.count_of.items()})
        for owner, (width, places, roles) in part.spans.items():
            numbering.spans[owner + index] = Span(
                width,
                {name + first: where for name, where in places.items()},
                {name + first: role for name, role in roles.items()},
            )
    return numbering


def _kinds(tree: Tree) -> list[str]:
    kinds = list(tree.kinds)
    ranks: dict[int, list[int]] = defaultdict(list)
    for owner, tensor in zip(tree.owners, tree.tensor_of, strict=True):
        if not kinds[owner] and tree.ends[owner] == owner + 1:
            ranks[owner].append(len(tree.tensors[tensor].shape))
    for owner, found in ranks.items():
        kinds[owner] = guess_kind(tree.types[owner], found)
    return kinds


def _words(tree: Tree) -> list[int]:
    by_class = {type_name: attention_in_class(type_name) for type_name in set(tree.types)}
    words: list[int] = []
    for path, type_name, parent in zip(tree.paths, tree.types, tree.parents, strict=True):
        inherited = words[parent] & INHERITED if parent >= 0 else 0
        words.append(inherited | words_in(path.rpartition(".")[2]) | by_class[type_name])
    _tell_keys_and_values(tree, words)
    return words


def _tell_keys_and_values(tree: Tree, words: list[int]) -> None:
    """Take what is called after all three projections, beside a query of its own, for two."""
    queries = {tree.parents[index] for index, word in enumerate(words) if word & QUERY}
    for index, word in enumerate(words):
        if word & FUSED_QKV and tree.parents[index] in queries:
            words[index] = word & ~FUSED_QKV | FUSED_KV


class _Placer:
    """One placement under way: assigns units, then counts within them."""

    def __init__(self, tree: Tree, placement: Placement, trace: Trace | None) -> None:
        self.tree, self.at, self.trace = tree, placement, trace
        self._order = Order(tree, trace, placement.runs)
        self._rank = self._order.of_module
        self._unit_numbers: dict[Unit, int] = {}
        self._inside: dict[int, int] = {}
        """Unit number of every module that is in a block."""

    def run(self) -> None:
        owners = self._owners()
        ranked = {*owners, *(state.owner for state in self.tree.states if state.moves)}
        self.at.ranks = {owner: self._order.of_owner(owner) for owner in sorted(ranked)}
        if self.trace:
            starts, ends = self.tree.name_starts, self.tree.name_ends
            alone = {owner for owner in ranked if starts[owner] == ends[owner]}
            self.at.unreached = self._order.unreached(alone.union(owners))
            self._order_runs()
        self._name_runs()
        self._enter_blocks()
        self._assign(sorted(owners, key=self.at.ranks.__getitem__))
        self.at.kind_of = {owner: self._kind(owner) for owner in owners}
        self.at.number = self._number_layers

    def _owners(self) -> list[int]:
        """Modules that own a parameter or running statistics, each object once per place."""
        found = dict.fromkeys(self.tree.owners)
        found.update(dict.fromkeys(s.owner for s in self.tree.states if s.role in STATISTICS))
        return sorted(found)

    def _order_runs(self) -> None:
        runs = []
        for run in self.at.runs:
            blocks = tuple(sorted(run.blocks, key=self._rank))
            runs.append(Run(run.holder, blocks, self._stages(run, blocks)))
        self.at.runs = sorted(runs, key=lambda run: self._rank(run.blocks[0]))

    def _stages(self, run: Run, blocks: tuple[int, ...]) -> tuple[int, ...]:
        """Number the containers' runs; where there is one, runs of equal resolution as seen."""
        assert self.trace is not None
        container = dict(zip(run.blocks, run.stages, strict=True))
        marks: list[object] = [container[block] for block in blocks]
        shapes = [self.trace.shapes.get(self.tree.paths[block]) for block in blocks]
        if len(set(marks)) == 1 and None not in shapes:
            marks = [_resolution(shape) for shape in shapes if shape is not None]
        return tuple(number_runs(marks))

    def _name_runs(self) -> None:
        self.at.towers = _towers(self.tree, self.at.runs)
        paths = [self.tree.paths[tower] for tower in self.at.towers]
        sides = [_side(path) for path in paths]
        if len(paths) == 1:
            self.at.labels = ["blocks"]
        elif sorted(sides) == ["decoder", "encoder"]:
            self.at.labels = sides
        else:
            self.at.labels = [f"{path}.blocks".lstrip(".") for path in paths]

    def _enter_blocks(self) -> None:
        for number, (run, label) in enumerate(zip(self.at.runs, self.at.labels, strict=True)):
            for position, block in enumerate(run.blocks):
                top = Unit(f"{label}.{position}", Zone.BLOCK, number, position, -1)
                self._enter_block(block, top)

    def _enter_block(self, block: int, top: Unit) -> None:
        tree, inside = self.tree, self._inside
        inside[block] = self._number(top)
        for index in range(block, tree.ends[block]):
            if index not in inside:
                inside[index] = inside[tree.parents[index]]
            unit = inside[index]
            if self.at.words[index] & EXPERTS and self.at.kinds[index] == CONTAINER:
                around = self.at.units[unit]
                for number, child in enumerate(tree.children(index)):
                    label = f"{around.label}/expert.{number}"
                    inside[child] = self._number(around._replace(label=label, expert=number))

    def _number(self, unit: Unit) -> int:
        number = self._unit_numbers.setdefault(unit, len(self.at.units))
        if number == len(self.at.units):
            self.at.units.append(unit)
        return number

    def _assign(self, owners: list[int]) -> None:
        tails: dict[int, list[int]] = defaultdict(list)
        for owner in owners:
            if owner in self._inside:
                self.at.unit_of[owner] = self._inside[owner]
            elif not self.at.runs:
                tails[-1].append(owner)
            else:
                self._assign_outside(owner, tails)
        for tower, tail in tails.items():
            self._split_tail(tower, tail)

    def _assign_outside(self, owner: int, tails: dict[int, list[int]]) -> None:
        """Place an owner that is in no block, by the tower it is in, else by all of them."""
        towers = [n for n, tower in enumerate(self.at.towers) if self._under(owner, tower)]
        tower = max(towers, key=self.at.towers.__getitem__, default=-1)
        runs = self.at.runs if tower < 0 else [self.at.runs[tower]]
        rank = self.at.ranks[owner]
        if self._named_for_input(owner):
            self._put(owner, Zone.STEM, tower)
        elif self.at.words[owner] & AUXILIARY:
            self._put(owner, Zone.HEAD, tower)
        elif self._order.spans(owner) and self._order.first_use(owner) is None:
            self._put(owner, Zone.UNPLACED, -1)
        elif rank < self._rank(runs[0].blocks[0]):
            self._put(owner, Zone.STEM, tower)
        elif rank > self._rank(runs[-1].blocks[-1]):
            tails[tower].append(owner)
        elif tower < 0 and len(runs) > 1:
            self._put(owner, Zone.NECK, -1)
        else:
            self._put_transition(owner, max(tower, 0))

    def _named_for_input(self, owner: int) -> bool:
        """Tell whether names alone say that an owner works on the input: no trace saw it used.

        Tables and norms for embeddings are often registered after the blocks, and tokens and
        position tables on a module that spans them.
        """
        if self._order.first_use(owner) is not None:
            return False
        if self._order.spans(owner):
            leaves = [self.tree.leaves[n] for n in self.tree.own_names(owner)]
            return bool(leaves) and all(words_in(leaf) & INPUT for leaf in leaves)
        return bool(self.at.words[owner] & INPUT) and self._kind(owner) in ("embedding", "norm")

    def _put_transition(self, owner: int, tower: int) -> None:
        run, rank = self.at.runs[tower], self.at.ranks[owner]
        following = next(n for n, block in enumerate(run.blocks) if self._rank(block) > rank)
        label = self.at.labels[tower].removesuffix("blocks")
        if label in ("encoder", "decoder"):
            label += "_"
        unit = Unit(f"{label}transition.{following}", Zone.TRANSITION, tower, following, -1)
        self.at.unit_of[owner] = self._number(unit)

    def _put(self, owner: int, zone: Zone, tower: int) -> None:
        """Put an owner into a zone that is no block; towers of their own prefix its name."""
        prefix = ""
        if tower >= 0 and self.at.labels[tower].endswith(".blocks"):
            prefix = self.at.labels[tower].removesuffix("blocks")
        run = tower if prefix else -1
        unit = Unit(f"{prefix}{zone.name.lower()}", zone, run, -1, -1)
        self.at.unit_of[owner] = self._number(unit)

    def _split_tail(self, tower: int, tail: list[int]) -> None:
        """Split what follows the last block into neck and head; without blocks, net and head."""
        kinds = [self._kind(owner) for owner in tail]
        if not self.at.runs:
            cut, zone = _trailing_linears(kinds), Zone.NET
        elif self.at.labels[tower] == "encoder" and tower >= 0:
            cut, zone = len(tail), Zone.NECK
        else:
            cut, zone = _neck_length(kinds), Zone.NECK
        cut -= self._norms_of_head(tail, kinds, cut)
        for owner in tail[:cut]:
            self._put(owner, zone, tower)
        for owner in tail[cut:]:
            self._put(owner, Zone.HEAD, tower)

    def _norms_of_head(self, tail: list[int], kinds: list[str], cut: int) -> int:
        """Count norms without parameters right before a head that stand in one module with it.

        Linear probes begin with one.
        """
        if cut == len(tail):
            return 0
        count, parent = 0, self.tree.parents[tail[cut]]
        while (
            parent > 0
            and not self._order.spans(parent)
            and count < cut
            and kinds[owner := cut - count - 1] == "norm"
            and not self.tree.own_names(tail[owner])
            and self._under(tail[owner], parent)
        ):
            count += 1
        return count

    def _kind(self, owner: int) -> str:
        kind = self.at.kinds[owner]
        return kind if kind in LAYERS else "param"

    def _number_layers(self) -> Numbering:
        groups: dict[tuple[int, str], list[int]] = defaultdict(list)
        for owner, kind in self.at.kind_of.items():
            groups[self.at.unit_of[owner], kind].append(owner)
        counter = LayerCounter(self.tree, self.at.words, self.at.kind_of, self.at.unreached)
        for (unit, _), group in groups.items():
            # Which experts run depends on the batch.
            traced = self.trace and self.at.units[unit].expert < 0
            counter.add(group, self.at.ranks.__getitem__ if traced else None)
        return counter.numbering

    def _under(self, index: int, tower: int) -> bool:
        return tower <= index < self.tree.ends[tower]


def _resolution(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the spatial axes of an output: BxCxHxW, BxHxWxC or BxLxC.

    Channels-last maps are told by H = W; the shape alone says no more.
    """
    if len(shape) == 4:
        channels_last = shape[2] != shape[3] and shape[1] == shape[2]
        return shape[1:3] if channels_last else shape[2:]
    return shape[1:-1]


def _towers(tree: Tree, runs: list[Run]) -> list[int]:
    """For each run, climb from its holder to the highest module that holds no other run."""
    towers = []
    for run in runs:
        tower = run.holder
        while tower > 0 and not any(
            tree.parents[tower] <= other.holder < tree.ends[tree.parents[tower]]
            for other in runs
            if other is not run
        ):
            tower = tree.parents[tower]
        towers.append(tower)
    return towers


def _side(path: str) -> str:
    """Return "encoder" or "decoder" when a tower's own name says so."""
    last = path.rpartition(".")[2].lower()
    return next((side for side in ("decoder", "encoder") if side in last), "")


def _trailing_linears(kinds: list[str]) -> int:
    """Return where the head of a model without blocks begins: its trailing linears.

    Of a plain stack of linears it is the last one.
    """
    kinds_that_end = [n for n, kind in enumerate(kinds) if kind not in ("linear", "activation")]
    start = kinds_that_end[-1] + 1 if kinds_that_end else len(kinds) - 1
    while start < len(kinds) and kinds[start] != "linear":
        start += 1
    return start


def _neck_length(kinds: list[str]) -> int:
    """Return how many of the layers after the last block are neck.

    Norms right after the last block are; so is everything up to the last convolution before the
    first linear layer, for then the linears are the head.
    """
    linear = kinds.index("linear") if "linear" in kinds else 0
    cut = max((n + 1 for n in range(linear) if kinds[n] == "conv"), default=0)
    while cut < len(kinds) and kinds[cut] == "norm":
        cut += 1
    return cut
