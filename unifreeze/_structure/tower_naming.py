"""Naming the towers of a model: what each reads, by its first layers and by words in names.

Without a traced forward pass both must agree; with one, what enters a tower decides.
"""

from __future__ import annotations

from unifreeze._structure.tower_anchors import Anchors
from unifreeze._structure.tower_entrances import (
    COLOURS,
    LINE,
    MAY_BE,
    MIXED,
    READS,
    TOKENS,
    entrance_of,
    kernels,
    shows,
    token_rows,
)
from unifreeze._structure.tower_modules import Anchor, climb
from unifreeze._structure.tower_words import MODALITIES, SIGNALS, ends_a_tower, word_in
from unifreeze._structure.zones import Zone

_EITHER = "it reads pictures or sound, and nothing says which"


def name_towers(anchors: Anchors) -> None:
    """Give every tower of a model its word, and join those that are one."""
    namer = _Namer(anchors)
    for anchor in anchors.all:
        namer.name(anchor)
    namer.check_doubtful()
    if len(anchors.all) > 1:
        namer.settle_rivals()
        namer.feed_from_outside()
        namer.name_between()
        namer.merge()
    anchors.settled = True


class _Namer:
    """The steps in which towers get their words."""

    def __init__(self, anchors: Anchors) -> None:
        self.found = anchors
        self.tree, self.at, self.trace = anchors.tree, anchors.at, anchors.trace
        self._by_class_alone: list[Anchor] = []
        self._by_line_alone: list[Anchor] = []

    def name(self, anchor: Anchor) -> None:
        """Name a tower by what enters it and by what names say; without a trace both must agree."""
        segment, word = self._said(anchor)
        anchor.entrance = entrance_of(self.tree, self.at, self._stem(anchor), self.trace)
        may_be, path = MAY_BE.get(anchor.entrance), self.tree.paths[anchor.module]
        if may_be is None or word in ("projector", "action", "image_decoder"):
            anchor.word = word
            if not segment:
                self._by_class_alone.append(anchor)
        elif anchor.entrance == MIXED:
            # A tower of pictures may have tables of rows and columns; its name says what it is.
            if segment and word in SIGNALS:
                anchor.word = word
            else:
                self.found.unclear[path] = "pictures and words go through the same blocks"
        elif word in may_be:
            anchor.word = word
        elif word and self.trace is None and (segment or len(self.found.all) == 1):
            reads = READS[anchor.entrance]
            self.found.unclear[path] = f"its name says {word}, but its first layers read {reads}"
        elif anchor.entrance == TOKENS and not self._reads_words(anchor):
            self.found.unclear[path] = "it begins with a table, and nothing says that of words"
        elif len(may_be) == 1 and (anchor.entrance != LINE or len(self.found.all) > 1):
            anchor.word = next(iter(may_be))
            if anchor.entrance == LINE:
                self._by_line_alone.append(anchor)
        else:
            self.found.unclear[path] = _EITHER

    def check_doubtful(self) -> None:
        """Take words back that rest on little.

        What classes say of all towers is what a family of models is called. A signal over time is
        sound beside a tower of words; elsewhere it may be a series of any numbers.
        """
        if len(self._by_class_alone) == len(self.found.all):
            for anchor in self._by_class_alone:
                anchor.word = ""
        texts = [self.found.ends(anchor) for anchor in self.found.called("text")]
        for anchor in self._by_line_alone:
            # What comes after the words makes sound.
            if not texts or self.found.begins(anchor) > max(texts):
                anchor.word = ""
                self.found.unclear[self.tree.paths[anchor.module]] = _EITHER

    def _stem(self, anchor: Anchor) -> list[int]:
        """Return the layers of a tower before its first block, those that ran if any did.

        Without a trace, a tower may be registered with its first layers behind its blocks.
        """
        at, owners = self.at, self.found.inside(anchor)
        if anchor.runs:
            beside = [owner for owner in owners if not self.found.in_block(owner)]
            owners = [o for o in beside if at.units[at.unit_of[o]].zone is Zone.STEM]
            if self.trace is None and not any(shows(self.tree, at, owner) for owner in owners):
                owners = beside
        return [owner for owner in owners if owner not in at.unreached] or owners

    def _reads_words(self, anchor: Anchor) -> bool:
        """Return whether a tower's table is one of words: by its name, its use, or what comes out.

        Detectors have tables of queries and classes, agents of time steps.
        """
        tables = [o for o in self._stem(anchor) if token_rows(self.tree, self.at, o)]
        groups = {
            self.found.group(owner) for owner in self.found.owners if not self.found.in_block(owner)
        }
        return any(map(self.found.is_token_table, tables)) or any(
            map(self.found.group_gives_words, groups)
        )

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
        classes &= set(MODALITIES)
        return False, classes.pop() if len(classes) == 1 else ""

    def _nearest_word(self, path: str) -> str:
        """Return the word of the last segment that has one; a part of a tower is that tower."""
        words = [(word, s) for s in reversed(path.split(".")) if (word := word_in(s))]
        if words and words[0][0] == "projector" and not ends_a_tower(words[0][1]):
            return next((word for word, _ in words if word in MODALITIES), "projector")
        return words[0][0] if words else ""

    def settle_rivals(self) -> None:
        """Of several towers of one word, keep those that stand nearest to towers of other words.

        A model that speaks has more than one tower of tokens, and convolutions that make sound. If
        names call some of them by the word, only those have it.
        """
        for word in MODALITIES:
            anchors = self.found.called(word)
            others = [a for a in self.found.called(*MODALITIES) if a.word != word]
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

    def feed_from_outside(self) -> None:
        """Tables of tokens beside all towers feed the tower that has no entrance of its own."""
        tables = [owner for owner in self.found.outside() if self.found.is_token_table(owner)]
        without = [a for a in self.found.all if not a.word and not a.entrance and a.runs]
        if tables and not self.found.called("text"):
            after = [a for a in without if self.found.begins(a) > self.at.ranks[tables[0]]]
            if len(after) == 1 or (after and self.trace):
                max(after, key=self.found.begins).word = "text"

    def name_between(self) -> None:
        """Name towers that read no input: what lies between, what makes actions and pictures."""
        rest = [anchor for anchor in self.found.all if not anchor.word and anchor.runs]
        for anchor in rest:
            part = self._unnamed_part(anchor)
            decoders = self.found.called("image_decoder")
            inside = any(d.module < anchor.module < self.tree.ends[d.module] for d in decoders)
            if inside or (self.found.called("text") and self._makes_pictures(anchor, part)):
                anchor.word = "image_decoder"
                self.found.unclear.pop(self.tree.paths[anchor.module], None)
            elif self.found.is_between(self.found.begins(anchor)) and not self._reads_signal(part):
                anchor.word = "projector"
        rest = [anchor for anchor in rest if not anchor.word and not anchor.entrance]
        acts = any(word_in(path.rpartition(".")[2]) == "action" for path in self.tree.paths)
        if acts and len(rest) == 1:
            rest[0].word = "action"

    def _unnamed_part(self, anchor: Anchor) -> int:
        """Return the highest module around an unnamed tower that holds no named tower."""
        named = [other.module for other in self.found.all if other.word and other is not anchor]
        return climb(self.tree, anchor.module, named)

    def _reads_signal(self, part: int) -> bool:
        end = self.tree.ends[part]
        entrances = {a.entrance for a in self.found.all if part <= a.module < end}
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

    def merge(self) -> None:
        """Join towers of one word under the highest module that holds no other tower."""
        tree = self.tree
        for word in (*MODALITIES, "image_decoder"):
            for anchor in self.found.called(word):
                module = anchor.module
                while module > 0:
                    above = tree.parents[module]
                    inside = [a for a in self.found.all if above <= a.module < tree.ends[above]]
                    if any(a.word != word for a in inside):
                        break
                    module = above
                if module == anchor.module or anchor not in self.found.all:
                    continue
                inside = [a for a in self.found.all if module <= a.module < tree.ends[module]]
                runs = sorted(run for a in inside for run in a.runs)
                joined = Anchor(module, runs, word, inside[0].entrance)
                self.found.all = sorted(
                    [*(a for a in self.found.all if a not in inside), joined],
                    key=lambda a: a.module,
                )
        self.found.look_around()
