"""What was probably meant by the number of a block or stage: layer4, stage[4], layer.11."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import takewhile
from typing import NamedTuple

from unifreeze._plan.selectors.expression import Bound, Expression, Index, Path, Segment, Word
from unifreeze._plan.selectors.hints.synonyms import meant_by
from unifreeze._plan.selectors.positions import positions
from unifreeze._plan.selectors.repeated_units import unit_total
from unifreeze._plan.selectors.vocabulary import SYNONYMS
from unifreeze._structure import ModelSpec
from unifreeze.errors import ResolveError, quoted

Count = Callable[[str], int]
"""Returns how many parameters a selector selects; 0 if it does not fit the model."""
_NAMED = re.compile(r"([^\W\d]+?)_?(\d+)")
_PLURALS = {"children": "direct children", "params": "parameters"}


class Numbered(NamedTuple):
    """A block or stage with its number, as somebody wrote it.

    Attributes:
        units: `blocks` or `stages`.
        number: Its number.
        named: The number is a part of the name, as in `stage4`; such numbers may begin at 1.
    """

    units: str
    number: int
    named: bool


def units_of(name: str) -> str:
    """Return the word for what a name counts: `blocks`, `stages` or ""."""
    words = {SYNONYMS.get(word, word) for word in (name, *meant_by(name))}
    return next((word for word in ("stages", "blocks") if word in words), "")


def numbered(path: Path) -> Numbered | None:
    """Read the last number of a block or stage in a path; None if there is none."""
    joined = list(joined_numbers(path))
    for segment in reversed(joined):
        index, units = segment.index, units_of(segment.name)
        if units and index is not None and index.single and index.start and not index.start.percent:
            return Numbered(units, int(index.start.value), named=False)
    named = _NAMED.fullmatch(joined[0].name) if len(joined) == 1 else None
    if named and joined[0].index is None and (units := units_of(named[1])):
        return Numbered(units, int(named[2]), named=True)
    return None


def joined_numbers(path: Path) -> Iterator[Segment]:
    """Yield a path's segments; `layer.4` becomes `layer[4]` where layers are counted."""
    pieces = list(path.segments)
    while pieces:
        segment = pieces.pop(0)
        after = pieces[0] if pieces else None
        number = after is not None and after.index is None and after.name.isdecimal()
        if number and segment.index is None and units_of(segment.name):
            segment = Segment(segment.name, _position(pieces.pop(0).name))
        yield segment


def _position(digits: str) -> Index:
    return Index(Bound(Fraction(digits), percent=False), None, single=True)


def number_guesses(path: Path, spec: ModelSpec, count: Count) -> Iterator[str]:
    """Yield selectors for the block or stage that a path may mean, the most likely first."""
    unit = numbered(path)
    if unit is None or len(list(joined_numbers(path))) > 1:
        return
    in_brackets = f"{unit.units}[{unit.number}]"
    native = _native(unit.number, spec)
    if native:
        yield native
        if native.lower() == str(path).lower():
            return
        if unit.named or not count(f"stages[{unit.number}]"):
            yield from _stage_of(native, spec, count)
    if not unit.named:
        yield in_brackets
    elif not native and not _numbered_siblings(path, spec):
        # A number in a name may begin at 0 or at 1.
        yield from (in_brackets, f"{unit.units}[{unit.number - 1}]")


def _native(number: int, spec: ModelSpec) -> str:
    """Return the path of the only module with this number in its name, such as layer4, or ""."""
    paths = [
        path
        for path in spec.tree.paths[1:]
        if (match := _NAMED.fullmatch(path.rpartition(".")[2]))
        and int(match[2]) == number
        and (units_of(match[1]) or match[1].endswith(("block", "layer", "stage")))
    ]
    depth = min((path.count(".") for path in paths), default=0)
    top = [path for path in paths if path.count(".") == depth]
    return top[0] if len(top) == 1 else ""


def _numbered_siblings(path: Path, spec: ModelSpec) -> bool:
    """Return whether the model's own children have the same name with other numbers."""
    shape = re.sub(r"\d+", "#", path.segments[0].name)
    return any(re.sub(r"\d+", "#", spec.tree.paths[n]) == shape for n in spec.tree.children(0))


def _stage_of(native: str, spec: ModelSpec, count: Count) -> Iterator[str]:
    for at in range(unit_total("stages", spec) or 0):
        stage = f"stages[{at}]"
        if count(stage) and not count(f"{stage} - {native}"):
            yield stage


def past_the_end(path: Path, spec: ModelSpec) -> str:
    """Say how many blocks or stages there are where a path's number is past the last; else ""."""
    unit = numbered(path)
    total = unit_total(unit.units, spec) if unit else None
    if unit is None or not total or -total <= unit.number < total:
        return ""
    if total == 1:
        return f"the model has 1 {unit.units[:-1]}: its position is 0"
    many = f"the model has {total} {unit.units}"
    return f"{many}: positions run from 0 to {total - 1}, or from -{total} to -1"


def module_of(segment: Segment, spec: ModelSpec, count: Count) -> str:
    """Return the path of the module that `blocks[0]` or another position selects, or ""."""
    units, index = units_of(segment.name), segment.index
    if len(spec.runs) != 1 or index is None or not index.single or not units:
        return ""
    run, total = spec.runs[0], unit_total(units, spec) or 0
    try:
        at = positions(index, total, units)[0]
    except ResolveError:
        return ""
    if units == "blocks":
        return spec.tree.paths[run.blocks[at]]
    chosen = [block for block, stage in zip(run.blocks, run.stages, strict=True) if stage == at]
    levels = zip(*(spec.tree.paths[block].split(".") for block in chosen), strict=False)
    place = ".".join(level[0] for level in takewhile(lambda level: len({*level}) == 1, levels))
    return place if place and not count(f"{place} - stages[{at}]") else ""


def instead_of_stack(name: str, index: str, spec: ModelSpec) -> str:
    """Say what to write for `encoder` or `decoder` in a model that does not have two stacks."""
    called = [path for path in spec.tree.paths[1:] if path.rpartition(".")[2] == name]
    module = min(called, key=len, default="")
    selector = f'path:"{name}"' if module == name else module
    return f"blocks{index} for its blocks" + (
        f", {selector} for a module called so" if module else ""
    )


def _instead_of_embeddings(spec: ModelSpec) -> str:
    if spec.runs:
        return "did you mean 'stem'? That is what comes before the first block of any network."
    return "without repeated units there is no stem either: select by position, params[:2]"


def nothing_in(expression: Expression, spec: ModelSpec) -> tuple[str, str]:
    """Say what an empty slice counts, and what was probably meant: context and hint."""
    if expression == Word("embeddings"):
        return "", _instead_of_embeddings(spec)
    index, units = _slice_of(expression, spec)
    if index is None or index.single:
        return "", ""
    start, stop = index.start, index.stop
    hint = "a slice begins at its first number and ends before its second"
    if start is not None and start.value < 0 and stop is not None and not stop.value:
        meant = str(expression).replace(str(index), str(Index(start, None, single=False)))
        hint = f"did you mean {quoted(meant)}? A slice ends before its second number."
    return f"nothing lies in {index} of {units}", hint


def _slice_of(expression: Expression, spec: ModelSpec) -> tuple[Index | None, str]:
    """Return the index in a word or path, and what it counts."""
    if isinstance(expression, Path):
        for length, segment in enumerate(expression.segments, 1):
            if segment.index is not None:
                holder = str(Path(expression.segments[:length])).removesuffix(str(segment.index))
                return segment.index, f"the children of {holder}"
    if not isinstance(expression, Word):
        return None, ""
    name = SYNONYMS.get(expression.name, expression.name)
    name = "blocks" if name in ("encoder", "decoder") else name
    total = unit_total(expression.name, spec)
    units = _PLURALS.get(name, name)
    return expression.index, f"the model's {total} {units}" if total is not None else units
