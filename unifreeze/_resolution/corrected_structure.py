"""A model's description with stem, blocks, head and towers where a plan says that they are."""

from __future__ import annotations

from collections.abc import Sequence

from unifreeze._plan import FreezePlan
from unifreeze._plan.selectors import Path
from unifreeze._plan.selectors.hints.aligned_paths import alignments
from unifreeze._plan.selectors.hints.nearest import top_level
from unifreeze._plan.selectors.paths import match_modules
from unifreeze._plan.structure import TOWER_PARTS, Part, read_paths
from unifreeze._resolution.select_parameters import at_place
from unifreeze._structure import CONTAINER, LAYERS, Correction, ModelSpec
from unifreeze.errors import (
    ResolveError,
    SelectorSyntaxError,
    StructureError,
    UnmatchedSelectorError,
    counted,
    listing,
)


def corrected(plan: FreezePlan, spec: ModelSpec) -> ModelSpec:
    """Return a description corrected by a plan's structure; unchanged if the plan says nothing.

    Raises:
        UnmatchedSelectorError: A path matches no module.
        StructureError: A module cannot be what the plan says it is.
        PlanError: The structure is given for other frameworks only.
    """
    if not plan.structure:
        return spec
    return spec.once(("structure", plan.structure), lambda: _corrected(plan, spec))


def _corrected(plan: FreezePlan, spec: ModelSpec) -> ModelSpec:
    parts: dict[str, _StatedPart] = {part.name: _StatedPart(part, spec) for part in plan.structure}
    blocks, stem, head = (parts.get(name) for name in ("blocks", "stem", "head"))
    if blocks:
        _check_blocks(blocks)
    correction = Correction(
        tuple(map(tuple, blocks.runs)) if blocks else (),
        stem.modules if stem else (),
        head.modules if head else (),
        tuple((name, parts[name].modules) for name in TOWER_PARTS if name in parts),
    )
    there = spec.corrected(correction)
    for zone in filter(None, (stem, head)):
        _check_outside_blocks(zone, there)
    if stem and head:
        _check_apart(stem, head)
    _check_towers([parts[name] for name in TOWER_PARTS if name in parts])
    return there


class _StatedPart:
    """One part of a model as a plan states it.

    Attributes:
        where: Its place in the plan.
        runs: For each text, the modules it names, in order of registration.
    """

    def __init__(self, part: Part, spec: ModelSpec) -> None:
        self.spec, self.where = spec, f"structure.{part.name}"
        self.runs = [self._modules(text) for text in part.texts(spec.framework)]

    @property
    def modules(self) -> tuple[int, ...]:
        """All its modules."""
        return tuple(sorted({module for run in self.runs for module in run}))

    def _modules(self, text: str) -> list[int]:
        """Return the modules that a text names; one under several names counts once."""
        tree = self.spec.tree
        numbers = sorted({n for path in read_paths(text) for n in self._named(path)})
        first = {tree.keys[n] or -n: n for n in reversed(numbers)}
        return sorted(first.values())

    def _named(self, path: Path) -> list[int]:
        try:
            modules = match_modules(path, self.spec)
        except UnmatchedSelectorError:
            raise self._unmatched(path) from None
        except ResolveError as error:
            raise at_place(error, self.where) from None
        # What a pattern takes in beside blocks, such as pooling and activations, is left out.
        return [n for n in modules if path.literal or not self.holds_nothing(n)] or modules

    def _unmatched(self, path: Path) -> ResolveError:
        if path.literal in self.spec.tree.names:
            holder = path.literal.rpartition(".")[0]
            return self.error(
                f"{path} is a parameter, and not a module",
                hint=f"name the module that holds it: {holder}"
                if holder
                else "the model itself holds it, and cannot be placed as a whole",
            )
        spec, shown = self.spec, str(path).replace("[:]", "[*]")
        texts = [aligned.text for aligned in alignments(path, spec, modules=True)]
        near = [text.replace("[:]", "[*]") for text in texts if _matches(text, spec)]
        modules = counted(len(spec.tree.paths) - 1, "module")
        return UnmatchedSelectorError(
            f"{self.where}: {shown!r} matches none of {modules}",
            context=top_level(spec),
            hint=f'did you mean "{near[0]}"?'
            if near
            else "native paths begin at a top-level name; `unifreeze show` lists the modules",
        )

    def error(self, fact: str, *, context: str = "", hint: str) -> StructureError:
        """Build the error for something that cannot be what the plan says it is."""
        return StructureError(f"{self.where}: {fact}", context=context, hint=hint)

    def path(self, module: int) -> str:
        """Return a module's native path."""
        return self.spec.tree.paths[module]

    def holds_nothing(self, module: int) -> bool:
        """Return whether there is no parameter under a module."""
        return self.spec.tree.name_starts[module] == self.spec.tree.name_ends[module]


def _matches(text: str, spec: ModelSpec) -> bool:
    """Return whether a text is a path of modules."""
    try:
        return bool([match_modules(path, spec) for path in read_paths(text)])
    except (ResolveError, SelectorSyntaxError):
        return False


def _check_blocks(blocks: _StatedPart) -> None:
    """Refuse modules that cannot be blocks, or of which one is inside another."""
    for run in blocks.runs:
        for block in run:
            _check_block(blocks, block, alone=len(run) == 1)
    ends, last = blocks.spec.tree.ends, -1
    for block in sorted(block for run in blocks.runs for block in run):
        if last >= 0 and block < ends[last]:
            twice = f"{blocks.path(block)} is in two runs"
            inside = f"{blocks.path(block)} is inside {blocks.path(last)}"
            raise blocks.error(
                f"{twice if block == last else inside}, and blocks are apart from each other",
                hint="name each block once, and only the outermost",
            )
        last = block


def _check_block(blocks: _StatedPart, block: int, *, alone: bool) -> None:
    spec, path = blocks.spec, blocks.path(block)
    tree, kind = spec.tree, spec.placement.kinds[block]
    inside = [child for child in tree.children(block) if not blocks.holds_nothing(child)]
    if kind == CONTAINER and alone and len(inside) > 1:
        raise blocks.error(
            f"{path} is a list of {counted(len(inside), 'module')}, and not a block",
            hint=f'its members are: "{path}[*]"',
        )
    if kind in LAYERS:
        raise blocks.error(
            f"{path} is a single layer ({kind}), and not a block",
            hint="a block is a module that holds layers; a rule can name a layer by its path",
        )
    tensors = {tree.tensor_of[n] for n in range(tree.name_starts[block], tree.name_ends[block])}
    if not any(len(tree.tensors[tensor].shape) > 1 for tensor in tensors):
        raise blocks.error(
            f"{path} holds no matrix or kernel, and so it is not a block",
            context=f"it is a {tree.types[block]} of {counted(len(tensors), 'parameter')}",
            hint="name the modules that repeat: `unifreeze show` lists the model",
        )


def _check_outside_blocks(zone: _StatedPart, there: ModelSpec) -> None:
    """Refuse a stem or head that is inside a block, holds one, or holds nothing."""
    tree = there.tree
    _check_holds_something(zone)
    for run, label in zip(there.runs, there.placement.labels, strict=True):
        for module in zone.modules:
            inside = [b for b in run.blocks if module < b < tree.ends[module]]
            around = next((n for n, b in enumerate(run.blocks) if b <= module < tree.ends[b]), None)
            what = zone.where.removeprefix("structure.")
            if around is not None:
                raise zone.error(
                    f"{zone.path(module)} is inside {label}[{around}]",
                    context=f"which is {zone.path(run.blocks[around])}: {run.why}",
                    hint=f"name a {what} outside all blocks, or say what the blocks are: "
                    'structure: {blocks: "…"}',
                )
            if inside:
                raise zone.error(
                    f"{zone.path(module)} holds {counted(len(inside), 'block')}",
                    context=f"the first is {zone.path(inside[0])}: {run.why}",
                    hint=f"name the modules of the {what} alone, or say what the blocks are: "
                    'structure: {blocks: "…"}',
                )


def _check_holds_something(part: _StatedPart) -> None:
    if all(map(part.holds_nothing, part.modules)):
        raise part.error(
            f"{listing(map(part.path, part.modules))}: there are no parameters in it",
            hint="name a module that holds some: `unifreeze show` lists the model",
        )


def _check_apart(stem: _StatedPart, head: _StatedPart) -> None:
    """Refuse modules that would be in the stem and in the head."""
    ends = stem.spec.tree.ends
    for one in stem.modules:
        for other in head.modules:
            if one <= other < ends[one] or other <= one < ends[other]:
                raise stem.error(
                    f"{stem.path(max(one, other))} would be in the stem and in the head",
                    hint="name it in one of the two",
                )


def _check_towers(towers: Sequence[_StatedPart]) -> None:
    """Refuse a tower without parameters, and a module that would be in two towers.

    A projector may stand at the end of a tower: the inner of two nested modules counts.
    """
    word_of: dict[int, _StatedPart] = {}
    for tower in towers:
        _check_holds_something(tower)
        for module in tower.modules:
            if module in word_of:
                first = word_of[module].where.removeprefix("structure.")
                raise tower.error(
                    f"{tower.path(module)} would be in two towers, the other of which is {first}",
                    hint="name it in one of the two; a module inside another may be named as well",
                )
            word_of[module] = tower
