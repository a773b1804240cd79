"""Where a plan says that parts of a model are, in place of what is derived from its structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from unifreeze._structure.blocks import BlockRun, number_runs
from unifreeze._structure.tree import Tree
from unifreeze._structure.zones import STATED, Zone


@dataclass(frozen=True)
class Correction:
    """Modules, by their numbers, that a plan places; all that is empty is derived.

    Attributes:
        runs: The blocks of each run; no other module is a block then.
        stem: The modules that make up the whole stem.
        head: The modules that make up the whole head.
        towers: For each tower that is stated, its word and the modules that make it up.
    """

    runs: tuple[tuple[int, ...], ...] = ()
    stem: tuple[int, ...] = ()
    head: tuple[int, ...] = ()
    towers: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.runs or self.stem or self.head or self.towers)

    def within(self, tree: Tree, module: int) -> Correction:
        """Return what is said of one module's inside, where that module is the whole."""
        return self.renumbered({n: n - module for n in range(module + 1, tree.ends[module])})

    def renumbered(self, number_of: Mapping[int, int]) -> Correction:
        """Return what is said of the modules that another tree has, by their numbers there."""

        def there(numbers: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(number_of[n] for n in numbers if n in number_of)

        runs = tuple(filter(None, map(there, self.runs)))
        towers = tuple((word, kept) for word, numbers in self.towers if (kept := there(numbers)))
        return Correction(runs, there(self.stem), there(self.head), towers)

    def block_runs(self, tree: Tree) -> list[BlockRun]:
        """Return the runs of blocks; the blocks of one list are a stage."""
        return [
            BlockRun(
                _common_parent(tree, run),
                run,
                tuple(number_runs([tree.parents[block] for block in run])),
                why=STATED,
            )
            for run in self.runs
        ]

    def zones(self, tree: Tree) -> Iterator[tuple[int, Zone]]:
        """Yield each module inside those that were placed, with its zone."""
        for zone, modules in ((Zone.STEM, self.stem), (Zone.HEAD, self.head)):
            for module in modules:
                yield from ((index, zone) for index in range(module, tree.ends[module]))

    def tower_of_names(self, tree: Tree) -> dict[int, str]:
        """Return the tower of each name that is inside the modules of a stated tower.

        Of nested modules, such as a projector at the end of a tower, the innermost counts.
        """
        modules = sorted((n, word) for word, numbers in self.towers for n in numbers)
        return {
            name: word
            for module, word in modules
            for name in range(tree.name_starts[module], tree.name_ends[module])
        }

    def excludes(self, zone: Zone) -> bool:
        """Return whether a zone holds no other modules than those that are stated."""
        return bool({Zone.STEM: self.stem, Zone.HEAD: self.head}.get(zone))


def _common_parent(tree: Tree, modules: tuple[int, ...]) -> int:
    """Return the innermost module that holds some others."""
    parent = tree.parents[modules[0]]
    while parent > 0 and not all(parent < module < tree.ends[parent] for module in modules):
        parent = tree.parents[parent]
    return max(parent, 0)
