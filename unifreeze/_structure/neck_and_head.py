"""Where the head of a model begins: by what holds a layer, by words in names, then by kinds.

Nothing inside a module that also holds a block is head: it serves those blocks. The model itself
is such a module, and so is a plain wrapper; they do not count. If a model has several towers and no
head beside them, a tower with a part called head is read as a model of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from unifreeze._structure.head_names import (
    named_for_feeding,
    named_for_head,
    named_for_neck,
    named_for_outputs,
)
from unifreeze._structure.order import Order, Rank
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import CONTAINER, LAYERS, STOCHASTIC
from unifreeze._structure.zones import Placement


def trailing_linears(kinds: Sequence[str]) -> int:
    """Return where the head of a model without blocks begins: its trailing linears.

    In a plain stack of linears the head is the last layer.

    >>> trailing_linears(["conv", "norm", "linear", "linear"]), trailing_linears(["linear"] * 3)
    (2, 2)
    """
    kinds_that_end = [n for n, kind in enumerate(kinds) if kind not in ("linear", "activation")]
    start = kinds_that_end[-1] + 1 if kinds_that_end else len(kinds) - 1
    while start < len(kinds) and kinds[start] != "linear":
        start += 1
    return start


def neck_length(kinds: Sequence[str]) -> int:
    """Return how many of the layers after the last block are neck.

    Norms right after the last block are neck. So is everything up to the last convolution before
    the first linear layer, because the linears are then the head.

    >>> neck_length(["norm", "linear"]), neck_length(["conv", "norm", "linear"])
    (1, 2)
    """
    linear = kinds.index("linear") if "linear" in kinds else 0
    cut = max((n + 1 for n in range(linear) if kinds[n] == "conv"), default=0)
    while cut < len(kinds) and kinds[cut] == "norm":
        cut += 1
    return cut


class Ends:
    """Says which layers outside all blocks can be head, before kinds of layers decide the rest.

    Args:
        tree: The model.
        at: Its kinds, runs, towers and ranks.
        order: In which order its modules come.
        outside: The owners outside all blocks.
    """

    def __init__(self, tree: Tree, at: Placement, order: Order, outside: Sequence[int]) -> None:
        self._tree, self._at, self._order, self._outside = tree, at, order, outside
        self._wholes: set[int] = set()
        self._blocks = sorted(block for run in at.runs for block in run.blocks)
        self._cores = self._find_cores()

    def beside_blocks(self, owner: int) -> bool:
        """Return whether a module that holds blocks, and is not a whole model, holds an owner."""
        return self._is_beside(owner, self._cores | self._wholes)

    def named_for_neck(self, owner: int) -> bool:
        """Return whether an owner is in a part of the model that is called neck."""
        return named_for_neck(self._name_of_part(owner))

    def named_for_head(self, owner: int) -> bool:
        """Return whether an owner is in a part that is called head; a trace, if any, knows better.

        Position alone would mislead: a head is often registered before the network it stands on.
        """
        if self._order.first_use(owner) is not None:
            return False
        if self._order.spans(owner):
            leaves = [self._tree.leaves[n] for n in self._tree.own_names(owner)]
            return bool(leaves) and all(map(named_for_outputs, leaves))
        return named_for_head(self._name_of_part(owner))

    def in_order(self, tail: Iterable[int]) -> list[int]:
        """Return what follows the last block, with what is called head at the end."""
        return sorted(tail, key=self.named_for_head)

    def before_heads(self, tail: Sequence[int]) -> int:
        """Return how many layers come before modules called heads, if there are several of those.

        A detector scores with convolutions in one of them, and with linear layers in another.
        """
        heads = [self._outermost_head(owner) for owner in tail]
        several = len(set(heads) - {-1}) > 1
        return next((n for n, head in enumerate(heads) if head >= 0 and several), len(tail))

    def _outermost_head(self, owner: int) -> int:
        """Return the outermost module called head around a layer, -1 if there is none."""
        tree, module, head = self._tree, owner, -1
        while (module := tree.parents[module]) > 0 and not self._order.spans(module):
            if named_for_head(tree.last_name(module)):
                head = module
        return head

    def norms_of_head(self, tail: Sequence[int], kinds: Sequence[str], cut: int) -> int:
        """Count norms right before the head that belong to it: they stand in one module with it.

        These are norms without parameters, with which linear probes begin, and a norm that makes
        up a module together with the linear layer right after it.
        """
        if cut == len(tail):
            return 0
        tree, head = self._tree, tail[cut]
        parent, count = tree.parents[head], 0
        while (
            parent > 0
            and not self._order.spans(parent)
            and count < cut
            and kinds[cut - count - 1] == "norm"
            and parent < (norm := tail[cut - count - 1]) < tree.ends[parent]
            and (not tree.own_names(norm) or self._is_norm_and_linear(parent, norm, head))
        ):
            count += 1
        return count

    def _is_norm_and_linear(self, module: int, norm: int, linear: int) -> bool:
        """Return whether a module is a norm and a linear layer, with no pooling between them."""
        tree, kinds = self._tree, self._at.kinds
        inside = tree.children(module)
        with_tensors = [child for child in inside if _has_names(tree, child)]
        between = {kinds[child] for child in inside if norm < child < linear}
        return (
            with_tensors == [norm, linear]
            and kinds[linear] == "linear"
            and between <= {"activation", STOCHASTIC}
        )

    def _find_cores(self) -> set[int]:
        """Return the modules that are read as whole models: the model, or its towers."""
        at, tree = self._at, self._tree
        core = _innermost_whole(tree, [run.blocks[0] for run in at.runs], 0)
        above = set(_ancestors(tree, core))
        if len(at.runs) < 2:
            self._wholes = above
            return {core}
        self._cores = {core}
        tail = self._tail_of(core)
        towers = {
            _innermost_whole(tree, [run.blocks[0]], tower)
            for run, tower in zip(at.runs, at.towers, strict=True)
            if tower != core
        }
        if all(named_for_feeding(self._name_of_part(owner)) for owner in tail):
            named = set()
            for tower in towers:
                self._cores = {tower}
                if any(map(self.named_for_head, self._tail_of(tower))):
                    named.add(tower)
            if named:
                return named
        self._wholes = above
        return {core}

    def _tail_of(self, core: int) -> list[int]:
        """Return what may be the head of one model: after its blocks, or called head; no norms."""
        tree, at = self._tree, self._at
        ends = tree.ends[core]
        last: Rank = max(
            self._order.of_module(block)
            for run in at.runs
            for block in run.blocks
            if core <= block < ends
        )
        return [
            owner
            for owner in self._outside
            if core <= owner < ends
            and at.kinds[owner] != "norm"
            and (at.ranks[owner] > last or self.named_for_head(owner))
            and any(tree.tensors[tree.tensor_of[n]].size > 1 for n in tree.own_names(owner))
            and not self._is_beside(owner, {core})
        ]

    def _is_beside(self, owner: int, wholes: set[int]) -> bool:
        module = owner
        while module >= 0 and module not in wholes:
            if self._holds_a_block(module) or self._is_like_a_holder(module):
                return True
            module = self._tree.parents[module]
        return False

    def _holds_a_block(self, module: int) -> bool:
        """Return whether some block is inside a module: the first of a run, or a later one."""
        after = bisect_right(self._blocks, module)
        return after < len(self._blocks) and self._blocks[after] < self._tree.ends[module]

    def _is_like_a_holder(self, index: int) -> bool:
        """Return whether a sibling of the same class holds blocks: one more stage, without any."""
        tree = self._tree
        if self._at.kinds[index] in (CONTAINER, *LAYERS) or not index:
            return False
        return any(
            tree.types[sibling] == tree.types[index] and self._order.spans(sibling)
            for sibling in tree.children(tree.parents[index])
        )

    def _name_of_part(self, owner: int) -> str:
        """Return the name of the part of a whole model that an owner is in; "" if it has none."""
        tree, module = self._tree, owner
        while (parent := tree.parents[module]) >= 0 and parent not in self._cores:
            module = parent
        if parent < 0 or self._order.spans(module):
            return ""
        return tree.paths[module].rpartition(".")[2]


def _innermost_whole(tree: Tree, blocks: Sequence[int], module: int) -> int:
    """Return the module that is the model itself, below wrappers that hold nothing else.

    A wrapper may add scalars (a temperature, a scale): no head is made of those.
    """
    while inside := [child for child in tree.children(module) if _has_names(tree, child)]:
        widest = max(inside, key=lambda c: tree.name_ends[c] - tree.name_starts[c])
        low, high = tree.name_starts[widest], tree.name_ends[widest]
        beside = [*range(tree.name_starts[module], low), *range(high, tree.name_ends[module])]
        if not all(widest < block < tree.ends[widest] for block in blocks) or any(
            tree.tensors[tree.tensor_of[name]].size > 1 for name in beside
        ):
            break
        module = widest
    return module


def _has_names(tree: Tree, module: int) -> bool:
    return tree.name_ends[module] > tree.name_starts[module]


def _ancestors(tree: Tree, module: int) -> list[int]:
    ancestors = []
    while (module := tree.parents[module]) >= 0:
        ancestors.append(module)
    return ancestors
