"""Which tower every parameter belongs to: vision, audio, text, or the projector between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unifreeze._structure.corrections import Correction
from unifreeze._structure.tower_anchors import Anchors
from unifreeze._structure.tower_entrances import shows
from unifreeze._structure.tower_modules import Anchor
from unifreeze._structure.tower_naming import name_towers
from unifreeze._structure.tower_words import (
    SIGNALS,
    ends_a_tower,
    is_clear,
    is_output,
    makes_output,
    speaks_of_text,
    word_in,
)
from unifreeze._structure.tree import Trace, Tree
from unifreeze._structure.words_in_names import INPUT, LAYERS, POOLER, words_in
from unifreeze._structure.zones import Placement, Zone


@dataclass(frozen=True)
class TowerParts:
    """The towers of a model.

    Attributes:
        of_name: For each name of a parameter, the word of its tower, "" for none.
        alone: The model has no two towers of different words.
        fed: What leaves a tower of pictures or sound enters the one of words.
        unclear: For each module whose tower could not be told, the reason.
        stated: The towers that a plan states, in place of what is derived.
    """

    of_name: list[str]
    alone: bool
    fed: bool = False
    unclear: dict[str, str] = field(default_factory=dict)
    stated: frozenset[str] = frozenset()

    @property
    def words(self) -> list[str]:
        """The towers that the model has."""
        return sorted(set(self.of_name) - {""})

    def corrected(self, correction: Correction, tree: Tree) -> TowerParts:
        """Return the towers with those that a plan states: they hold no other modules then."""
        stated = frozenset(word for word, _ in correction.towers)
        inside = correction.tower_of_names(tree)
        of_name = [
            inside.get(name, "" if word in stated else word)
            for name, word in enumerate(self.of_name)
        ]
        modules = {tree.paths[module] for _, numbers in correction.towers for module in numbers}
        unclear = {
            path: why
            for path, why in self.unclear.items()
            if not any(f"{path}.".startswith(f"{module}.") for module in modules)
        }
        met = {"text", "action", *SIGNALS}.intersection(of_name)
        fed = self.fed or ("projector" in stated and "text" in met and len(met) > 1)
        return TowerParts(of_name, len(met) < 2, fed, unclear, stated)


def find_tower_parts(tree: Tree, at: Placement, trace: Trace | None = None) -> TowerParts:
    """Return the tower of every parameter of a model, or of each of several models.

    Args:
        tree: The model.
        at: Where its layers are.
        trace: What a forward pass showed, if one ran.
    """
    anchors = Anchors(tree, at, trace)
    name_towers(anchors)
    return _Placer(anchors).parts()


def joined_parts(tree: Tree, members: Mapping[int, TowerParts]) -> TowerParts:
    """Return the towers of several models, each read as if it were alone.

    Args:
        tree: The tree that holds all of them.
        members: For each model, by its index in the tree, its towers.
    """
    of_name, unclear = [""] * len(tree.names), dict[str, str]()
    for index, parts in members.items():
        of_name[tree.name_starts[index] : tree.name_ends[index]] = parts.of_name
        unclear |= {f"{tree.paths[index]}.{at}".rstrip("."): w for at, w in parts.unclear.items()}
    stated = frozenset[str]().union(*(parts.stated for parts in members.values()))
    return TowerParts(of_name, alone=False, unclear=unclear, stated=stated)


class _Placer:
    """Gives every parameter the tower around it, and places what stands beside towers."""

    def __init__(self, anchors: Anchors) -> None:
        self.anchors, self.tree, self.at = anchors, anchors.tree, anchors.at
        self.outside = set(anchors.outside())
        self._tails = {anchor: self._tail(anchor) for anchor in anchors.called(*SIGNALS)}
        self.fed = self._is_fed()
        """What leaves a tower of signals enters the one of words."""

    def parts(self) -> TowerParts:
        """Return the tower of every name."""
        anchors = self.anchors
        if len(anchors.all) == 1:
            return TowerParts(self._parts_of_one(), True, unclear=anchors.unclear)
        of_owner = {owner: self._part(owner) for owner in anchors.owners}
        if self.fed and "projector" not in of_owner.values():
            for anchor in anchors.called(*SIGNALS):
                of_owner |= dict.fromkeys(self._tail_with_matrices(anchor), "projector")
        of_name = [
            self._part_of_loose(name, owner, of_owner[owner])
            for name, owner in enumerate(self.tree.owners)
        ]
        met = {anchor.word for anchor in anchors.all} & {"text", "action", *SIGNALS}
        if len(met) < 2:
            # Without two towers, nothing lies between.
            of_name = ["" if word in ("projector", "action") else word for word in of_name]
        return TowerParts(of_name, len(met) < 2, self.fed, anchors.unclear)

    def _parts_of_one(self) -> list[str]:
        """Return the parts of a model with one tower: all but a head that gives no words."""
        word, tree, at = self.anchors.all[0].word, self.tree, self.at
        if word not in ("text", *SIGNALS):
            return [""] * len(tree.names)
        heads = [o for o in self.anchors.owners if at.units[at.unit_of[o]].zone is Zone.HEAD]
        beside = {
            owner
            for owner in heads
            if word not in map(word_in, tree.paths[owner].split("."))
            and not (word == "text" and self.anchors.gives_words(owner))
        }
        return ["" if owner in beside else word for owner in tree.owners]

    def _is_fed(self) -> bool:
        return (
            bool(self.anchors.called("text"))
            and bool(self.anchors.called(*SIGNALS))
            and not self._is_dual()
        )

    def _is_dual(self) -> bool:
        """Return whether towers meet at their ends: a scale for likenesses, or text projected.

        Beside a head that gives words, a single value is a gate of some other sort.
        """
        tree, writes = self.tree, any(map(self.anchors.gives_words, self.outside))
        for owner in self.outside:
            sizes = [tree.tensors[tree.tensor_of[name]].size for name in tree.own_names(owner)]
            if 1 in sizes and self.at.kinds[owner] not in LAYERS and not writes:
                return True
            path = tree.paths[owner].split(".")
            if any(word_in(s) == "projector" and speaks_of_text(s) for s in path):
                return True
        return False

    def _part(self, owner: int) -> str:
        """Return the tower of a layer in a model of several towers."""
        home, path = self.anchors.home[owner], self.tree.paths[owner].split(".")
        said = [word for word in map(word_in, path) if word in ("action", "image_decoder")]
        if said:
            return said[-1]
        if home is not None and owner not in self.outside:
            return self._named_tail(owner, home) or home.word
        if (home is not None and not home.word) or self._beside_unnamed(owner):
            return ""
        if any(map(makes_output, path)):
            return ""
        if self.anchors.gives_words(owner):
            return "text" if self.anchors.called("text") else ""
        below = path if home is None else path[self._depth(home.module) :]
        if any(word_in(segment) == "projector" for segment in below):
            return "projector" if self._may_project(owner, below) else ""
        words = [word for word in map(word_in, below) if word]
        return (words[-1] if words else self._by_place(owner)) or (home.word if home else "")

    def _depth(self, module: int) -> int:
        path = self.tree.paths[module]
        return path.count(".") + 1 if path else 0

    def _may_project(self, owner: int, segments: list[str]) -> bool:
        """Return whether a layer called a projection is one: what follows the words is a head."""
        anchors = self.anchors
        if not self.fed:
            return True
        last = max(anchors.ends(anchor) for anchor in anchors.called("text"))
        follows = self.at.ranks[owner] > last
        if anchors.trace is not None:
            return not follows or owner in self.at.unreached
        return not follows or not any(word_in(s) == "projector" and is_output(s) for s in segments)

    def _beside_unnamed(self, owner: int) -> bool:
        """Return whether a layer stands in a part of the model that holds only unnamed towers."""
        tree, module = self.tree, owner
        while module > 0:
            inside = [a for a in self.anchors.all if module <= a.module < tree.ends[module]]
            if inside:
                return not any(anchor.word in ("text", *SIGNALS) for anchor in inside)
            module = tree.parents[module]
        return False

    def _named_tail(self, owner: int, home: Anchor) -> str:
        """A layer of a tower that is called a projector is one, after the last block at least.

        Without a trace, one with a clear name may be registered before the blocks.
        """
        if self.anchors.in_block(owner) or not home.runs:
            return ""
        last = self.tree.paths[self.anchors.group(owner)].rpartition(".")[2]
        if home.word == "text" and is_clear(last) and word_in(last) == "projector":
            # Some towers of words hold what brings signals to them.
            return "projector" if self.fed else ""
        if home.word not in SIGNALS:
            return ""
        if owner in self._tails[home]:
            return "projector" if ends_a_tower(last) else ""
        anywhere = self.anchors.trace is None and is_clear(last)
        return "projector" if anywhere else ""

    def _tail(self, anchor: Anchor) -> set[int]:
        """Return the layers of a tower after its last block."""
        at = self.at
        if not anchor.runs:
            return set()
        last = self.anchors.ends(anchor)
        return {
            owner
            for owner in self.anchors.owners
            if self.anchors.home[owner] is anchor
            and at.units[at.unit_of[owner]].zone in (Zone.NECK, Zone.HEAD)
            and at.ranks[owner] > last
        }

    def _tail_with_matrices(self, anchor: Anchor) -> list[int]:
        """Return what follows a tower's blocks and is more than norms: it leads to the words."""
        groups: dict[int, list[int]] = {}
        for owner in sorted(self._tails[anchor]):
            begins = shows(self.tree, self.at, owner) and self.anchors.trace is None
            if not begins and not self.at.words[owner] & POOLER:
                groups.setdefault(self.anchors.group(owner), []).append(owner)
        kinds = self.at.kind_of
        return [
            owner
            for members in groups.values()
            if any(kinds[member] in ("linear", "conv") for member in members)
            for owner in members
        ]

    def _by_place(self, owner: int) -> str:
        """Return the tower of a layer beside all towers, by what it does and when it runs."""
        anchors, at = self.anchors, self.at
        texts = anchors.called("text")
        group = anchors.group(owner)
        tables = anchors.tables() if texts else []
        if any(group <= table < self.tree.ends[group] for table in tables):
            return "text"
        if self.fed and self.tree.own_names(owner) and anchors.is_between(at.ranks[owner]):
            return "projector"
        if anchors.trace and at.kind_of[owner] in ("linear", "param") and self._leads_out(group):
            return "projector"
        ends = [anchors.ends(anchor) for anchor in texts if anchor.runs]
        follows = bool(ends) and at.ranks[owner] > ends[-1]
        return "text" if follows and at.kind_of[owner] == "norm" and group == owner else ""

    def _leads_out(self, group: int) -> bool:
        """Return whether layers follow a tower in a model of towers that meet at their ends."""
        anchors = self.anchors
        named = anchors.called("text", *SIGNALS)
        if self.fed or len(named) < 2 or not self._is_dual():
            return False
        first = min(anchors.ends(anchor) for anchor in named)
        after = {anchors.group(o) for o in self.outside if self.at.ranks[o] > first}
        after = {g for g in after if self.tree.name_starts[g] < self.tree.name_ends[g]}
        return group > 0 and group in after and len(after - {0}) <= len(named)

    def _part_of_loose(self, name: int, owner: int, part: str) -> str:
        """Return the tower of a tensor that a module around several towers owns by itself."""
        tree = self.tree
        holds = tree.ends[owner] > owner + 1
        if not holds or owner not in self.outside or self.at.kinds[owner] in LAYERS:
            return part
        if tree.tensors[tree.tensor_of[name]].size == 1 or self._beside_unnamed(owner):
            return ""
        said, leaf = word_in(tree.leaves[name]), tree.leaves[name]
        if said == "projector":
            return said
        if words_in(leaf) & INPUT and not self.outside.isdisjoint(self.anchors.tables()):
            return "text"
        return "projector" if self.fed else said or part
