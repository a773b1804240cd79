"""Finding the place of every layer of a model: which zone, which block, which expert."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from unifreeze._structure.blocks import BlockRun, find_runs, number_runs
from unifreeze._structure.corrections import Correction
from unifreeze._structure.counting import LayerCounter, Numbering
from unifreeze._structure.kinds_and_words import kinds_of, words_of
from unifreeze._structure.neck_and_head import Ends, neck_length, trailing_linears
from unifreeze._structure.order import Order
from unifreeze._structure.several_models import join_placements
from unifreeze._structure.tower_words import is_clear, word_in
from unifreeze._structure.towers import find_towers, label_towers
from unifreeze._structure.tree import STATISTICS, Trace, Tree
from unifreeze._structure.words_in_names import (
    AUXILIARY,
    CONTAINER,
    EXPERTS,
    INPUT,
    LAYERS,
    WORD,
    words_in,
)
from unifreeze._structure.zones import STATED, Placement, Unit, Zone


def place(
    tree: Tree, trace: Trace | None = None, correction: Correction | None = None
) -> Placement:
    """Return where every owner of a tensor is in the network.

    Args:
        tree: The model as its backend found it.
        trace: What a forward pass showed; with it positions follow execution, without it
            registration.
        correction: What a plan says of its structure.
    """
    correction = correction or Correction()
    if tree.members:
        parts = {
            index: place(
                tree.subtree(index)[0],
                trace and trace.within(tree.paths[index]),
                correction.within(tree, index),
            )
            for index in tree.children(0)
        }
        return join_placements(tree, parts)
    placement = Placement(kinds_of(tree), words_of(tree))
    runs = correction.block_runs(tree)
    placement.runs = runs or find_runs(tree, placement.kinds, placement.words)
    _Placer(tree, placement, trace, correction).run()
    return placement


class _Placer:
    """Fills in one placement: first the unit of every owner, then the numbers within units."""

    def __init__(
        self, tree: Tree, placement: Placement, trace: Trace | None, correction: Correction
    ) -> None:
        self.tree, self.at, self.trace = tree, placement, trace
        self._correction, self._stated = correction, dict(correction.zones(tree))
        self._order = Order(tree, trace, placement.runs)
        self._rank = self._order.of_module
        self._unit_numbers: dict[Unit, int] = {}
        self._in_block = [-1] * len(tree.paths)
        """For each module, the number of its unit if it is in a block, else -1."""
        named = np.flatnonzero(np.asarray(placement.words, np.int64) & EXPERTS).tolist()
        self._experts = {index for index in named if placement.kinds[index] == CONTAINER}
        """The lists of experts."""

    def run(self) -> None:
        owners = self._owners()
        ranked = {*owners, *(state.owner for state in self.tree.states if state.moves)}
        self.at.ranks = self._order.of_owners(sorted(ranked))
        if self.trace:
            starts, ends = self.tree.name_starts, self.tree.name_ends
            alone = {owner for owner in ranked if starts[owner] == ends[owner]}
            self.at.unreached = self._order.unreached(alone.union(owners))
            self._order_runs()
        self.at.towers = find_towers(self.tree, self.at.runs)
        self.at.labels = label_towers([self.tree.paths[tower] for tower in self.at.towers])
        self._enter_blocks()
        outside = [owner for owner in owners if self._in_block[owner] < 0]
        self._ends = Ends(self.tree, self.at, self._order, outside)
        self._assign(sorted(owners, key=self.at.ranks.__getitem__))
        layers = {kind: kind if kind in LAYERS else "param" for kind in set(self.at.kinds)}
        self.at.kind_of = {owner: layers[self.at.kinds[owner]] for owner in owners}
        self.at.number = self._number_layers

    def _owners(self) -> list[int]:
        """Return the modules that own a parameter or running statistics."""
        states = self.tree.states
        return sorted({*self.tree.owners, *(s.owner for s in states if s.role in STATISTICS)})

    def _order_runs(self) -> None:
        runs = []
        for run in self.at.runs:
            run = run.ordered(self._rank)
            runs.append(replace(run, stages=self._stages(run)))
        self.at.runs = sorted(runs, key=lambda run: self._rank(run.blocks[0]))

    def _stages(self, run: BlockRun) -> tuple[int, ...]:
        """Number the stages of a run: by container, or by resolution if all share a container.

        If several parts of a tower hold the run, resolution decides as well.
        """
        assert self.trace is not None
        seen = [self.trace.shapes.get(self.tree.paths[block]) for block in run.blocks]
        shapes = [shape for shape in seen if shape is not None]
        if len(shapes) < len(seen) or (len(set(run.stages)) > 1 and not run.joined):
            return run.stages
        return tuple(number_runs([_resolution(shape) for shape in shapes]))

    def _enter_blocks(self) -> None:
        for number, (run, label) in enumerate(zip(self.at.runs, self.at.labels, strict=True)):
            for position, parts in enumerate(run.parts()):
                top = len(self.at.units)  # no other unit is equal: it need not be looked for
                self.at.units.append(Unit(f"{label}.{position}", Zone.BLOCK, number, position, -1))
                for part in parts:
                    self._enter_block(part, top)

    def _enter_block(self, block: int, top: int) -> None:
        tree, unit_of, end = self.tree, self._in_block, self.tree.ends[block]
        experts = bool(self._experts) and not self._experts.isdisjoint(range(block, end))
        if not experts and max(unit_of[block:end]) < 0:
            unit_of[block:end] = [top] * (end - block)
            return
        unit_of[block] = top
        for index in range(block, end):
            if unit_of[index] < 0:
                # Modules come in pre-order, so the parent has its unit already.
                unit_of[index] = unit_of[tree.parents[index]]
            if index in self._experts:
                around = self.at.units[unit_of[index]]
                for number, child in enumerate(tree.children(index)):
                    label = f"{around.label}/expert.{number}"
                    unit_of[child] = self._number(around._replace(label=label, expert=number))

    def _number(self, unit: Unit) -> int:
        number = self._unit_numbers.setdefault(unit, len(self.at.units))
        if number == len(self.at.units):
            self.at.units.append(unit)
        return number

    def _assign(self, owners: list[int]) -> None:
        tails: dict[int, list[int]] = defaultdict(list)
        self.at.unit_of = {n: unit for n in owners if (unit := self._in_block[n]) >= 0}
        for owner in owners:
            if self._in_block[owner] >= 0:
                continue
            if owner in self._stated:
                self._put(owner, self._stated[owner], self._tower_of(owner), STATED)
            elif not self.at.runs:
                tails[-1].append(owner)
            else:
                self._assign_outside(owner, tails)
        for tower, tail in tails.items():
            self._split_tail(tower, tail)
        self._join_shared_heads()

    def _join_shared_heads(self) -> None:
        """Put a layer of the head that is registered beside the blocks, too, there as well.

        Detectors that refine boxes layer by layer lend their heads to the decoder.
        """
        tree, at = self.tree, self.at
        if len(tree.names) == len(tree.tensors):
            return
        zones = {owner: at.units[unit].zone for owner, unit in at.unit_of.items()}
        head = {
            (tree.tensor_of[name], at.kinds[owner]): at.unit_of[owner]
            for owner, zone in zones.items()
            if zone == Zone.HEAD
            for name in tree.own_names(owner)
        }
        for owner, zone in zones.items():
            if owner in self._stated:
                continue
            if zone in (Zone.TRANSITION, Zone.NECK, Zone.UNPLACED):
                keys = [(tree.tensor_of[n], at.kinds[owner]) for n in tree.own_names(owner)]
                if keys and all(key in head for key in keys):
                    at.unit_of[owner] = head[keys[0]]
                    at.reasons[owner] = "its tensors are those of a layer of the head"

    def _assign_outside(self, owner: int, tails: dict[int, list[int]]) -> None:
        """Place an owner outside all blocks: by the blocks of its tower, or by all blocks."""
        tower = self._tower_of(owner)
        runs = self.at.runs if tower < 0 else [self.at.runs[tower]]
        rank = self.at.ranks[owner]
        if self._named_for_input(owner):
            self._put(owner, Zone.STEM, tower, "its name says that it works on the input")
        elif self._ends.named_for_neck(owner):
            self._put(owner, Zone.NECK, tower, "its name says that it is a neck")
        elif self.at.words[owner] & AUXILIARY and not self._ends.beside_blocks(owner):
            self._put(owner, Zone.HEAD, tower, "its name says that it is an auxiliary head")
        elif self._ends.named_for_head(owner):
            tails[tower].append(owner)
        elif self._order.spans(owner) and self._order.first_use(owner) is None:
            # The owner holds blocks, so its own place in the order says nothing about its tensors.
            self._put(owner, Zone.UNPLACED, -1)
        elif rank < self._rank(runs[0].blocks[0]):
            if self._leads_out(owner, tower):
                self._put(owner, Zone.NECK, tower, "its name says that it leads out of a tower")
            else:
                self._put(owner, Zone.STEM, tower)
        elif rank > self._rank(runs[-1].blocks[-1]):
            if self._ends.beside_blocks(owner):
                why = "after the last block, inside a module that holds blocks or is like one"
                self._put(owner, Zone.NECK, tower, why)
            else:
                tails[tower].append(owner)
        elif tower < 0 and len(runs) > 1:
            # Between two towers, such as a projector: it leads into no block of either.
            self._put(owner, Zone.NECK, -1, "between two runs of blocks, and inside neither")
        else:
            self._put_transition(owner, max(tower, 0))

    def _leads_out(self, owner: int, tower: int) -> bool:
        """Return whether an owner leads from its tower to another one by its name.

        Position alone would mislead: a tower may be registered with its merger before its blocks.
        """
        if tower < 0 or len(self.at.runs) < 2 or self._order.first_use(owner) is not None:
            return False
        path = self.tree.paths[owner][len(self.tree.paths[self.at.towers[tower]]) :]
        return any(is_clear(s) and word_in(s) == "projector" for s in path.split("."))

    def _named_for_input(self, owner: int) -> bool:
        """Return whether an owner works on the input by its name; a trace, if any, knows better.

        Position alone would mislead: tables and norms for embeddings are often registered after
        the blocks, and token and position tables on the module that holds the blocks.
        """
        if self._order.first_use(owner) is not None:
            return False
        if self._order.spans(owner):
            leaves = [self.tree.leaves[n] for n in self.tree.own_names(owner)]
            return bool(leaves) and all(words_in(leaf) & INPUT for leaf in leaves)
        named = self.at.words[owner] & (INPUT | WORD)
        if self._kind(owner) == "norm":
            return bool(named) or self._in_late_embeddings(owner)
        return bool(named) and self._kind(owner) == "embedding"

    def _in_late_embeddings(self, norm: int) -> bool:
        """Return whether a norm stands in a module of embeddings that follows all blocks.

        Between blocks such a module leads from stage to stage.
        """
        tree, module = self.tree, self.tree.parents[norm]
        while module > 0 and self.at.kinds[module] == CONTAINER:
            module = tree.parents[module]
        named = words_in(tree.last_name(module)) & INPUT and not self._order.spans(module)
        last = self.at.runs[-1].blocks[-1]
        kinds = self.at.kinds[module : tree.ends[module]]
        return bool(named) and "embedding" in kinds and self._rank(norm) > self._rank(last)

    def _put_transition(self, owner: int, tower: int) -> None:
        run, rank = self.at.runs[tower], self.at.ranks[owner]
        following = next(n for n, block in enumerate(run.blocks) if self._rank(block) > rank)
        label = self.at.labels[tower].removesuffix("blocks")
        if label in ("encoder", "decoder"):
            label += "_"
        unit = Unit(f"{label}transition.{following}", Zone.TRANSITION, tower, following, -1)
        self.at.unit_of[owner] = self._number(unit)

    def _put(self, owner: int, zone: Zone, tower: int, why: str = "") -> None:
        """Put an owner into a zone that is not a block; its tower's path comes before its name."""
        if owner not in self._stated and self._correction.excludes(zone):
            why = f"outside the {zone.name.lower()} that the plan's structure gives"
            if zone is Zone.STEM:
                zone, tower = Zone.UNPLACED, -1
            else:
                zone = Zone.NECK if self.at.runs else Zone.NET
        if why:
            self.at.reasons[owner] = why
        prefix = ""
        if tower >= 0 and self.at.labels[tower].endswith(".blocks"):
            prefix = self.at.labels[tower].removesuffix("blocks")
        run = tower if prefix else -1
        unit = Unit(f"{prefix}{zone.name.lower()}", zone, run, -1, -1)
        self.at.unit_of[owner] = self._number(unit)

    def _split_tail(self, tower: int, tail: list[int]) -> None:
        """Split what follows the last block into neck and head; without blocks, net and head."""
        tail = self._ends.in_order(tail)
        kinds = [self._kind(owner) for owner in tail]
        if not self.at.runs:
            cut, zone = trailing_linears(kinds), Zone.NET
        elif self.at.labels[tower] == "encoder" and tower >= 0:
            # What follows an encoder feeds the decoder, so it is not a head.
            cut, zone = len(tail), Zone.NECK
        else:
            cut, zone = min(neck_length(kinds), self._ends.before_heads(tail)), Zone.NECK
        cut -= self._ends.norms_of_head(tail, kinds, cut)
        for owner in tail[:cut]:
            self._put(owner, zone, tower)
        for owner in tail[cut:]:
            self._put(owner, Zone.HEAD, tower)

    def _kind(self, owner: int) -> str:
        kind = self.at.kinds[owner]
        return kind if kind in LAYERS else "param"

    def _number_layers(self) -> Numbering:
        groups: dict[tuple[int, str], list[int]] = defaultdict(list)
        for owner, kind in self.at.kind_of.items():
            groups[self.at.unit_of[owner], kind].append(owner)
        counter = LayerCounter(self.tree, self.at.words, self.at.kind_of, self.at.unreached)
        for (unit, _), group in groups.items():
            # Which experts run depends on the batch, so experts are counted by registration.
            traced = self.trace and self.at.units[unit].expert < 0
            counter.add(group, self.at.ranks.__getitem__ if traced else None)
        return counter.numbering

    def _tower_of(self, owner: int) -> int:
        """Return the innermost tower that holds an owner, -1 for none."""
        towers = [n for n, tower in enumerate(self.at.towers) if self._under(owner, tower)]
        return max(towers, key=self.at.towers.__getitem__, default=-1)

    def _under(self, index: int, tower: int) -> bool:
        return tower <= index < self.tree.ends[tower]


def _resolution(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the spatial axes of an output: BxCxHxW, BxHxWxC or BxLxC.

    Channels-last maps are recognised by H = W; the shape alone says no more.
    """
    if len(shape) == 4:
        channels_last = shape[2] != shape[3] and shape[1] == shape[2]
        return shape[1:3] if channels_last else shape[2:]
    return shape[1:-1]
