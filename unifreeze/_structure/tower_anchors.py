"""The towers of a model: the modules that pictures, sound or words enter, and what each is.

A tower is told by what enters it (a table of tokens, a convolution over pictures or sound) and by
words in names. Without a traced forward pass both must agree; with one, what enters decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from unifreeze._structure.order import Rank
from unifreeze._structure.tower_entrances import (
    COLOURS,
    LINE,
    MAY_BE,
    MIXED,
    READS,
    TOKENS,
    entrance_of,
    kernels,
    token_rows,
)
from unifreeze._structure.tower_words import (
    SIGNALS,
    ends_a_tower,
    is_word_head,
    names_a_token_table,
    word_in,
)
from unifreeze._structure.tree import Trace, Tree
from unifreeze._structure.words_in_names import LAYERS
from unifreeze._structure.zones import Placement, Zone

Value = TypeVar("Value")
_MODALITIES = ("text", *SIGNALS)


@dataclass(eq=False)
class Anchor:
    """The highest module that holds one tower and no other.

    Attributes:
        module: Its number.
        runs: The runs of blocks in it.
        word: The tower that it is, "" where it is none or unknown.
        entrance: What enters it.
    """

    module: int
    runs: list[int]
    word: str = ""
    entrance: str = ""


class Anchors:
    """The towers of one model.

    Attributes:
        all: All of them, in order of registration.
        home: For each owner of tensors, the innermost tower around it.
        unclear: For each module whose tower could not be told, the reason.
    """

    def __init__(self, tree: Tree, at: Placement, trace: Trace | None) -> None:
        self.tree, self.at, self.trace = tree, at, trace
        self.unclear: dict[str, str] = {}
        self._named, self._kept = False, dict[object, Any]()
        self.owners = sorted(at.unit_of)
        self.all = _find(tree, at)
        self._look_around()
        for anchor in self.all:
            self._name(anchor)
        if len(self.all) > 1:
            self._settle_rivals()
            self._feed_from_outside()
            self._name_between()
            self._merge()
        self._named = True

    def _look_around(self) -> None:
        self.home = {owner: self._innermost(owner) for owner in self.owners}

    def _innermost(self, index: int) -> Anchor | None:
        around = [a for a in self.all if a.module <= index < self.tree.ends[a.module]]
        return max(around, key=lambda anchor: anchor.module, default=None)

    # What other parts of the library ask.

    def called(self, *words: str) -> list[Anchor]:
        """Return the towers of some words."""
        return [anchor for anchor in self.all if anchor.word in words]

    def holds_others(self, anchor: Anchor) -> bool:
        """Return whether a tower holds another tower: the words' blocks may stand beside it."""
        end = self.tree.ends[anchor.module]
        return any(anchor.module < other.module < end for other in self.all)

    def in_block(self, owner: int) -> bool:
        """Return whether a layer is in a block of some run."""
        return self.at.units[self.at.unit_of[owner]].zone is Zone.BLOCK

    def outside(self) -> list[int]:
        """Return the layers that stand beside towers, or in one that holds another."""
        return [
            owner
            for owner in self.owners
            if (home := self.home[owner]) is None
            or (self.holds_others(home) and not self.in_block(owner))
        ]

    def group(self, owner: int) -> int:
        """Return the highest module around a layer that holds neither a tower nor a block."""
        tree, module = self.tree, owner
        while tree.parents[module] > 0 and not self._holds_blocks(tree.parents[module]):
            module = tree.parents[module]
        return module

    def _holds_blocks(self, module: int) -> bool:
        end = self.tree.ends[module]
        if any(module <= a.module < end and a.module for a in self.all):
            return True
        return any(module < run.blocks[0] < end for run in self.at.runs)

    def gives_words(self, owner: int) -> bool:
        """Return whether a layer belongs to a head with as many outputs as a table has tokens."""
        module = self.group(owner)
        return self._once(("words", module), lambda: self._gives_words(module))

    def _gives_words(self, module: int) -> bool:
        tree, at = self.tree, self.at
        if is_word_head(tree.paths[module].rpartition(".")[2]):
            return True
        rows = {token_rows(tree, at, table) for table in self.tables()}
        for name in range(tree.name_starts[module], tree.name_ends[module]):
            shape = tree.tensors[tree.tensor_of[name]].shape
            kind = at.kind_of.get(tree.owners[name])
            if len(shape) == 2 and kind in ("linear", "param") and rows & set(shape):
                return True
        return False

    def _once(self, key: object, make: Callable[[], Value]) -> Value:
        """Return a value that is made once after all towers are named, and before always anew."""
        if not self._named:
            return make()
        if key not in self._kept:
            self._kept[key] = make()
        value: Value = self._kept[key]
        return value

    def tables(self) -> list[int]:
        """Return the tables of tokens: those of the towers of words, or beside all towers."""
        return self._once("tables", self._tables)

    def _tables(self) -> list[int]:
        tables = [owner for owner in self.owners if token_rows(self.tree, self.at, owner)]
        inside = [table for table in tables if (h := self.home[table]) and h.word == "text"]
        beside = [t for t in self.outside() if t in tables and self._is_token_table(t)]
        return [*inside, *beside] or (tables if not self.called("text") else [])

    def begins(self, anchor: Anchor) -> Rank:
        """Return the place of a tower's first block, or of its first layer."""
        return self._once(
            ("begins", anchor), lambda: min(self._ranks(anchor), default=(-1, anchor.module))
        )

    def ends(self, anchor: Anchor) -> Rank:
        """Return the place of a tower's last block, or of its last layer."""
        return self._once(
            ("ends", anchor), lambda: max(self._ranks(anchor), default=(-1, anchor.module))
        )

    def _ranks(self, anchor: Anchor) -> list[Rank]:
        own = [owner for owner in self.owners if self.home[owner] is anchor]
        inside = [owner for owner in own if self.in_block(owner)] or own
        return [self.at.ranks[owner] for owner in inside]

    def is_between(self, rank: Rank) -> bool:
        """Return whether a place is after a tower of signals and before one of words."""
        texts = [self.begins(anchor) for anchor in self.called("text") if anchor.runs]
        signals = [self.ends(anchor) for anchor in self.called(*SIGNALS)]
        return bool(texts and signals) and min(signals) < rank < max(texts)

    # Naming towers.

    def _name(self, anchor: Anchor) -> None:
        segment, word = self._said(anchor)
        anchor.entrance = entrance_of(self.tree, self.at, self._stem(anchor), self.trace)
        may_be, path = MAY_BE.get(anchor.entrance), self.tree.paths[anchor.module]
        if may_be is None or word in ("projector", "action", "image_decoder"):
            anchor.word = word if segment else ""
        elif anchor.entrance == MIXED:
            # A tower of pictures may have tables of rows and columns; its name says what it is.
            if segment and word in SIGNALS:
                anchor.word = word
            else:
                self.unclear[path] = "pictures and words go through the same blocks"
        elif word in may_be:
            anchor.word = word
        elif word and self.trace is None and (segment or len(self.all) == 1):
            reads = READS[anchor.entrance]
            self.unclear[path] = f"its name says {word}, but its first layers read {reads}"
        elif anchor.entrance == TOKENS and not self._reads_words(anchor):
            self.unclear[path] = "its first layer looks up a table, and nothing says that of words"
        elif len(may_be) == 1 and (anchor.entrance != LINE or len(self.all) > 1):
            anchor.word = next(iter(may_be))
        else:
            self.unclear[path] = "it reads a signal, and nothing says whether of pictures or sound"

    def _stem(self, anchor: Anchor) -> list[int]:
        """Return the layers of a tower before its first block, those that ran if any did."""
        at, owners = self.at, [owner for owner in self.owners if self.home[owner] is anchor]
        if anchor.runs:
            owners = [o for o in owners if at.units[at.unit_of[o]].zone is Zone.STEM]
        return [owner for owner in owners if owner not in at.unreached] or owners

    def _reads_words(self, anchor: Anchor) -> bool:
        """Return whether a tower's table is one of words: by its name, its use, or what comes out.

        Detectors have tables of queries and classes, agents of time steps.
        """
        tables = [o for o in self._stem(anchor) if token_rows(self.tree, self.at, o)]
        groups = {self.group(owner) for owner in self.owners if not self.in_block(owner)}
        return any(map(self._is_token_table, tables)) or any(map(self._gives_words, groups))

    def _is_token_table(self, owner: int) -> bool:
        path = self.tree.paths[owner]
        if not token_rows(self.tree, self.at, owner):
            return False
        called = self.trace is not None and path in self.trace.calls
        return called or names_a_token_table(path.rpartition(".")[2])

    def _said(self, anchor: Anchor) -> tuple[bool, str]:
        """Return the tower that names speak of, and whether a segment of a path says it.

        Segments are read from the run up; where they say nothing, classes are.
        """
        tree = self.tree
        lowest = {self.at.runs[run].holder for run in anchor.runs} or {anchor.module}
        said = {self._nearest_word(tree.paths[index]) for index in lowest}
        if said != {""}:
            return (True, said.pop()) if len(said) == 1 else (False, "")
        classes: set[str] = set()
        for index in lowest:
            while index >= anchor.module:
                classes.add(word_in(tree.types[index]))
                index = tree.parents[index]
        classes &= set(_MODALITIES)
        return False, classes.pop() if len(classes) == 1 else ""

    def _nearest_word(self, path: str) -> str:
        """Return the word of the last segment that has one; a part of a tower is that tower."""
        words = [(word, s) for s in reversed(path.split(".")) if (word := word_in(s))]
        if words and words[0][0] == "projector" and not ends_a_tower(words[0][1]):
            return next((word for word, _ in words if word in _MODALITIES), "projector")
        return words[0][0] if words else ""

    def _settle_rivals(self) -> None:
        """Of several towers of one word, keep those that stand nearest to towers of other words.

        A model that speaks has more than one tower of tokens, and convolutions that make sound. If
        names call some of them by the word, only those have it.
        """
        for word in _MODALITIES:
            anchors = self.called(word)
            others = [a for a in self.called(*_MODALITIES) if a.word != word]
            if len(anchors) > 1 and others:
                depths = [max(self._depth_of_both(a, b) for b in others) for a in anchors]
                for anchor, depth in zip(anchors, depths, strict=True):
                    anchor.word = word if depth == max(depths) else ""
            named = [a for a in anchors if a.word and self._said(a) == (True, word)]
            if named and self.trace is None:
                for anchor in anchors:
                    anchor.word = word if anchor in named else ""

    def _depth_of_both(self, a: Anchor, b: Anchor) -> int:
        """Return how deep the module is that holds two towers."""
        tree, module = self.tree, a.module
        while module > 0 and not module <= b.module < tree.ends[module]:
            module = tree.parents[module]
        return tree.paths[module].count(".") + bool(tree.paths[module])

    def _feed_from_outside(self) -> None:
        """Tables of tokens beside all towers feed the tower that has no entrance of its own."""
        tables = [owner for owner in self.outside() if self._is_token_table(owner)]
        without = [a for a in self.all if not a.word and not a.entrance and a.runs]
        if tables and not self.called("text"):
            after = [a for a in without if self.begins(a) > self.at.ranks[tables[0]]]
            if len(after) == 1 or (after and self.trace):
                max(after, key=self.begins).word = "text"

    def _name_between(self) -> None:
        """Name towers that read no input: what lies between, what makes actions and pictures."""
        rest = [anchor for anchor in self.all if not anchor.word and anchor.runs]
        for anchor in rest:
            part = self._unnamed_part(anchor)
            decoders = self.called("image_decoder")
            inside = any(d.module < anchor.module < self.tree.ends[d.module] for d in decoders)
            if inside or (self.called("text") and self._makes_pictures(anchor, part)):
                anchor.word = "image_decoder"
                self.unclear.pop(self.tree.paths[anchor.module], None)
            elif self.is_between(self.begins(anchor)) and not self._reads_signal(part):
                anchor.word = "projector"
        rest = [anchor for anchor in rest if not anchor.word and not anchor.entrance]
        acts = any(word_in(path.rpartition(".")[2]) == "action" for path in self.tree.paths)
        if acts and len(rest) == 1:
            rest[0].word = "action"

    def _unnamed_part(self, anchor: Anchor) -> int:
        """Return the highest module around an unnamed tower that holds no named tower."""
        named = [other.module for other in self.all if other.word and other is not anchor]
        return _climb(self.tree, anchor.module, named)

    def _reads_signal(self, part: int) -> bool:
        end = self.tree.ends[part]
        entrances = {a.entrance for a in self.all if part <= a.module < end}
        shapes = kernels(self.tree, self.at, range(part, end))
        return not entrances <= {"", TOKENS} or any(shape[1] == COLOURS for shape in shapes)

    def _makes_pictures(self, anchor: Anchor, part: int) -> bool:
        """Return whether a tower, in a part of the model, ends in colours and does not begin so."""
        tree, module = self.tree, anchor.module
        while module >= part:
            shapes = kernels(tree, self.at, range(module, tree.ends[module]))
            if shapes and shapes[-1][0] == COLOURS and shapes[0][1] != COLOURS:
                anchor.module = module
                return True
            module = tree.parents[module]
        return False

    def _merge(self) -> None:
        """Join towers of one word under the highest module that holds no other tower."""
        tree = self.tree
        for word in (*_MODALITIES, "image_decoder"):
            for anchor in self.called(word):
                module = anchor.module
                while module > 0:
                    above = tree.parents[module]
                    inside = [a for a in self.all if above <= a.module < tree.ends[above]]
                    if any(a.word != word for a in inside):
                        break
                    module = above
                if module == anchor.module or anchor not in self.all:
                    continue
                inside = [a for a in self.all if module <= a.module < tree.ends[module]]
                runs = sorted(run for a in inside for run in a.runs)
                joined = Anchor(module, runs, word, inside[0].entrance)
                self.all = sorted(
                    [*(a for a in self.all if a not in inside), joined], key=lambda a: a.module
                )
        self._look_around()


def _find(tree: Tree, at: Placement) -> list[Anchor]:
    """Find the modules of towers: those of runs of blocks, and those that names call towers."""
    by_module: dict[int, list[int]] = {}
    for run, module in enumerate(at.towers):
        by_module.setdefault(module, []).append(run)
    holders = [run.holder for run in at.runs]
    named = list(_named(tree, at, holders))
    if named and 0 in by_module:
        # A run that is alone has the whole model for its tower: climb again, beside the names.
        for run in by_module.pop(0):
            rivals = [*named, *(h for h in holders if h != holders[run])]
            by_module.setdefault(_climb(tree, holders[run], rivals), []).append(run)
    for module in named:
        rivals = [*holders, *(other for other in named if other != module)]
        by_module.setdefault(_climb(tree, module, rivals), [])
    return [Anchor(module, runs) for module, runs in sorted(by_module.items())] or [Anchor(0, [])]


def _named(tree: Tree, at: Placement, holders: Sequence[int]) -> Iterator[int]:
    """Yield modules that are called towers, hold matrices, and stand beside all blocks."""
    end, blocks = 0, {block for run in at.runs for block in run.blocks}
    for module in range(1, len(tree.paths)):
        if module < end or at.kinds[module] in LAYERS:
            continue
        if module in blocks:
            end = tree.ends[module]
            continue
        beside = not any(module <= h < tree.ends[module] or 0 < h <= module < tree.ends[h] for h in holders)
        word = word_in(tree.paths[module].rpartition(".")[2])
        if beside and word in _MODALITIES and _matrices(tree, at, module) >= 2:
            yield module
            end = tree.ends[module]


def _matrices(tree: Tree, at: Placement, module: int) -> int:
    names = range(tree.name_starts[module], tree.name_ends[module])
    shapes = [tree.tensors[tree.tensor_of[n]].shape for n in names if at.kinds[tree.owners[n]] != "embedding"]
    return sum(len(shape) >= 2 for shape in shapes)


def _climb(tree: Tree, module: int, rivals: Sequence[int]) -> int:
    """Return the highest module around a module that holds none of some others."""
    others = [r for r in rivals if not module <= r < tree.ends[module]]
    while module > 0:
        above = tree.parents[module]
        if any(above <= rival < tree.ends[above] for rival in others):
            break
        module = above
    return module
