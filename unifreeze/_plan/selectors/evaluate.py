"""The value of an expression over a model: which of its atoms it selects."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifreeze._plan.selectors.expression import (
    Both,
    Either,
    Expression,
    Index,
    OtherThan,
    Path,
    Quoted,
    Size,
    Within,
    Without,
    Word,
)
from unifreeze._plan.selectors.hints.nearest import unmatched_path
from unifreeze._plan.selectors.hints.numbers import instead_of_stack
from unifreeze._plan.selectors.hints.patterns import unmatched_pattern
from unifreeze._plan.selectors.parse import parse
from unifreeze._plan.selectors.paths import find_module, match_path, unmatched
from unifreeze._plan.selectors.positions import positions
from unifreeze._plan.selectors.vocabulary import SYNONYMS
from unifreeze._structure import KINDS, Mask, ModelSpec, Run, Zone
from unifreeze._structure.words import (
    ATTENTION,
    AUXILIARY,
    KEY,
    POOLER,
    POSITION,
    QUERY,
    VALUE,
    WORD,
)
from unifreeze.errors import (
    ResolveError,
    SelectorScopeError,
    SelectorSyntaxError,
    UnmatchedSelectorError,
    listing,
)


def evaluate(expression: Expression, spec: ModelSpec) -> Mask:
    """Return, for each atom of a spec, whether an expression selects it.

    Raises:
        UnmatchedSelectorError: A path or pattern in it matches nothing at all.
        SelectorRangeError: An index goes past the end.
        SelectorScopeError: A word has no single meaning in this model.
    """
    try:
        return _value(expression, spec)
    except UnmatchedSelectorError as error:
        count = partial(count_selected, spec)
        if isinstance(error.part, Path):
            raise unmatched_path(error.part, spec, count) from None
        if isinstance(error.part, Quoted):
            raise unmatched_pattern(error.part, spec, count) from None
        raise


def count_selected(spec: ModelSpec, text: str) -> int:
    """Return how many parameters a selector selects; 0 if it is none that the model knows."""
    try:
        return len(np.unique(spec.atoms.tensor[_value(parse(text), spec)]))
    except (ResolveError, SelectorSyntaxError):
        return 0


def _value(expression: Expression, spec: ModelSpec) -> Mask:
    match expression:
        case Either(left, right):
            return _value(left, spec) | _value(right, spec)
        case Both(left, right):
            return _value(left, spec) & _value(right, spec)
        case Without(left, right):
            return _value(left, spec) & ~_value(right, spec)
        case OtherThan(inner):
            return ~_value(inner, spec)
        case Within(inner, place):
            return _within(inner, place, spec)
        case Word(name, index):
            return _word(SYNONYMS.get(name, name), index, spec)
        case Path():
            return match_path(expression, spec)[spec.atoms.name]
        case Quoted():
            return _quoted(expression, spec)
        case Size(comparison, count):
            sized: Mask = _COMPARE[comparison](spec.counts, count)
            return sized[spec.atoms.tensor]


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}


def _within(inner: Expression, place: str, spec: ModelSpec) -> Mask:
    """Evaluate as if one submodule were the whole, and carry the answer back."""
    sub, names = spec.within(find_module(place, spec))
    chosen = evaluate(inner, sub)
    selected = np.zeros(len(spec.atoms), np.bool_)
    selected[np.isin(spec.atoms.name, names)] = _carried(chosen, sub, spec, names)
    return selected


def _carried(
    chosen: Mask, sub: ModelSpec, spec: ModelSpec, names: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Carry a choice of a submodule's atoms over to those of the whole.

    Only a fused layer that is itself the submodule has more atoms in the whole, where its name
    says what it fuses.
    """
    there = np.bincount(sub.atoms.name, minlength=len(names))
    here = np.bincount(spec.atoms.name, minlength=len(spec.tree.names))[names]
    by_name = np.zeros(len(names), np.bool_)
    by_name[sub.atoms.name[chosen]] = True
    carried = np.repeat(by_name, here)
    alike = there == here
    carried[np.repeat(alike, here)] = chosen[alike[sub.atoms.name]]
    return carried


def _quoted(quoted: Quoted, spec: ModelSpec) -> Mask:
    pattern = quoted.pattern
    if quoted.by == "type":
        found = _of_type(pattern, spec)[spec.atoms.name]
    elif quoted.by == "re":
        matches = re.compile(pattern).fullmatch
        named = np.asarray([bool(matches(name)) for name in spec.tree.names], np.bool_)
        found = named[spec.atoms.name]
    else:
        found = _at(pattern, spec)
    if not found.any():
        raise unmatched(quoted, spec)
    return found


def _at(pattern: str, spec: ModelSpec) -> Mask:
    """Select by canonical name; of a fused tensor the parts that are named."""
    names = spec.atom_names
    globs = (pattern, f"{pattern}/*")
    taken = {n for n in dict.fromkeys(names) if any(fnmatchcase(n, glob) for glob in globs)}
    return np.asarray([name in taken for name in names], np.bool_)


def _of_type(pattern: str, spec: ModelSpec) -> Mask:
    tree = spec.tree
    found = np.zeros(len(tree.names), np.bool_)
    for module, type_name in enumerate(tree.types):
        if fnmatchcase(type_name, pattern):
            found[tree.name_starts[module] : tree.name_ends[module]] = True
    return found


def _word(name: str, index: Index | None, spec: ModelSpec) -> Mask:
    if name in _SIMPLE:
        return _SIMPLE[name](spec)
    if name in KINDS:
        return _of_kind(name, spec)
    if name == "children":
        assert index is not None
        return _children(index, spec)
    if name == "params":
        assert index is not None
        return _params(index, spec)
    return _units(name, index, spec)


def _of_kind(kind: str, spec: ModelSpec) -> Mask:
    found: Mask = spec.atoms.kind == KINDS.index(kind)
    return found


def _zone(zone: Zone) -> Callable[[ModelSpec], Mask]:
    def in_zone(spec: ModelSpec) -> Mask:
        found: Mask = spec.atoms.zone == zone
        return found

    return in_zone


def _all(spec: ModelSpec) -> Mask:
    return np.ones(len(spec.atoms), np.bool_)


def _tied(spec: ModelSpec) -> Mask:
    many = np.bincount(spec.tensor_of, minlength=len(spec)) > 1
    return many[spec.atoms.tensor]


def _backbone(spec: ModelSpec) -> Mask:
    return ~_zone(Zone.HEAD)(spec)


def _embeddings(spec: ModelSpec) -> Mask:
    """The stem of every tower that reads tokens: tables, and no convolution."""
    atoms = spec.atoms
    tables, convs, stem = (
        _of_kind("embedding", spec),
        _of_kind("conv", spec),
        _zone(Zone.STEM)(spec),
    )
    if not stem.any():
        return tables
    text = np.setdiff1d(atoms.run[stem & tables], atoms.run[stem & convs])
    found: Mask = stem & np.isin(atoms.run, text)
    return found


def _classifier(spec: ModelSpec) -> Mask:
    """The last linear, or failing that the last convolution, of every head.

    Layers that a traced forward pass never ran are counted last, but classify nothing; nor do
    auxiliary heads beside another.
    """
    atoms, at = spec.atoms, spec.placement

    def last(owner: int) -> tuple[bool, bool, int]:
        main = not at.words[owner] & AUXILIARY
        return owner not in at.unreached, main, at.count_of[owner]

    chosen: list[int] = []
    heads = atoms.zone == Zone.HEAD
    owners = spec.owner_of[atoms.name]
    for unit in np.unique(atoms.unit[heads]):
        here = heads & (atoms.unit == unit)
        for kind in ("linear", "conv"):
            layers = np.unique(owners[here & (atoms.kind == KINDS.index(kind))])
            if len(layers):
                chosen.append(max(layers.tolist(), key=last))
                break
    selected: Mask = heads & np.isin(owners, chosen) & ~_adapter(spec)
    return selected


def _adapter(spec: ModelSpec) -> Mask:
    return _of_kind("adapter", spec)


def _adapted(spec: ModelSpec) -> Mask:
    """What an adapter library trains: adapters, and copies of layers in the place of layers."""
    found: Mask = _adapter(spec) | spec.atoms.copied
    return found


def _has(word: int) -> Callable[[ModelSpec], Mask]:
    def carries(spec: ModelSpec) -> Mask:
        found: Mask = spec.atoms.words & word != 0
        return found & ~_adapter(spec)

    return carries


def _projection(word: int) -> Callable[[ModelSpec], Mask]:
    """Layers a word names in blocks, and elsewhere those in attention: critics have values, too."""

    def projects(spec: ModelSpec) -> Mask:
        atoms = spec.atoms
        repeated = np.isin(atoms.zone, (Zone.BLOCK, Zone.NET))
        found: Mask = _has(word)(spec) & (repeated | (atoms.words & ATTENTION != 0))
        return found

    return projects


def _attention(spec: ModelSpec) -> Mask:
    return _has(ATTENTION)(spec) & ~_of_kind("norm", spec)


def _mlp(spec: ModelSpec) -> Mask:
    """Linear layers beside attention, in blocks that have any."""
    atoms, attention = spec.atoms, _attention(spec)
    in_block = atoms.zone == Zone.BLOCK
    place = atoms.run * (int(atoms.block.max(initial=0)) + 1) + atoms.block
    attending = np.isin(place, place[attention & in_block])
    selected: Mask = in_block & attending & ~attention & _of_kind("linear", spec)
    return selected


def _table(word: int) -> Callable[[ModelSpec], Mask]:
    def is_table(spec: ModelSpec) -> Mask:
        return _has(word)(spec) & (_of_kind("embedding", spec) | _of_kind("param", spec))

    return is_table


def _part(part: int) -> Callable[[ModelSpec], Mask]:
    def is_part(spec: ModelSpec) -> Mask:
        found: Mask = spec.atoms.part == part
        return found

    return is_part


_SIMPLE: dict[str, Callable[[ModelSpec], Mask]] = {
    "all": _all,
    "tied": _tied,
    "stem": _zone(Zone.STEM),
    "neck": _zone(Zone.NECK),
    "head": _zone(Zone.HEAD),
    "backbone": _backbone,
    "embeddings": _embeddings,
    "pooler": _has(POOLER),
    "classifier": _classifier,
    "adapter": _adapted,
    "attention": _attention,
    "mlp": _mlp,
    "query": _projection(QUERY),
    "key": _projection(KEY),
    "value": _projection(VALUE),
    "word_embeddings": _table(WORD),
    "position_embeddings": _table(POSITION),
    "weight": _part(1),
    "bias": _part(2),
}


def _children(index: Index, spec: ModelSpec) -> Mask:
    tree = spec.tree
    children = tree.children(0)
    chosen = positions(index, len(children), f"the model has {len(children)} direct children")
    found = np.zeros(len(tree.names), np.bool_)
    for at in chosen:
        child = children[at]
        found[tree.name_starts[child] : tree.name_ends[child]] = True
    return found[spec.atoms.name]


def _params(index: Index, spec: ModelSpec) -> Mask:
    chosen = positions(index, len(spec), f"the model has {len(spec)} parameters")
    found = np.zeros(len(spec), np.bool_)
    found[spec.canonical_order[chosen.start : chosen.stop]] = True
    return found[spec.atoms.tensor]


def _units(name: str, index: Index | None, spec: ModelSpec) -> Mask:
    """Blocks, stages, or one of two stacks; a transition goes with the block it leads into."""
    atoms = spec.atoms
    unit: Mask = _zone(Zone.BLOCK)(spec) | _zone(Zone.TRANSITION)(spec)
    runs = _runs(name, spec, "" if index is None else str(index))
    if index is None:
        found: Mask = unit & np.isin(atoms.run, runs)
        return found
    if len(runs) != 1:
        raise _several_runs(f"{name}{index}", spec)
    run = spec.runs[runs[0]]
    if name == "stages":
        count = _stage_count(run, f"{name}{index}", spec)
        stages = positions(index, count, f"the model has {count} stages")
        chosen = [n for n, stage in enumerate(run.stages) if stage in stages]
    else:
        count = len(run.blocks)
        chosen = list(positions(index, count, f"the model has {count} blocks"))
    selected: Mask = unit & (atoms.run == runs[0]) & np.isin(atoms.block, chosen)
    return selected


def unit_count(name: str, spec: ModelSpec) -> int:
    """Return how many blocks, stages, … an index counts among.

    Raises:
        SelectorScopeError: The word has no single meaning in this model.
    """
    runs = _runs(name, spec)
    if len(runs) != 1:
        raise _several_runs(f"{name}[-1]", spec)
    run = spec.runs[runs[0]]
    return _stage_count(run, f"{name}[-1]", spec) if name == "stages" else len(run.blocks)


def _stage_count(run: Run, text: str, spec: ModelSpec) -> int:
    """Count a run's stages; blocks in one list show them only when traced."""
    count = max(run.stages) + 1
    if count == 1 and len(run.blocks) > 1 and spec.order == "registration":
        raise SelectorScopeError(
            f"{text} is unknown: all {len(run.blocks)} blocks stand in one list",
            context="stages are then runs of equal resolution, which a forward pass shows",
            hint="give a batch, or count blocks: blocks[-2:]",
        )
    return count


def _runs(name: str, spec: ModelSpec, index: str = "") -> list[int]:
    if not spec.runs:
        raise SelectorScopeError(
            f"{name!r} selects nothing: the model has no repeated units",
            hint="select by path, by kind, or by position: params[:50%]",
        )
    if name in ("blocks", "stages"):
        return list(range(len(spec.runs)))
    found = [n for n, label in enumerate(spec.placement.labels) if label == name]
    if not found:
        raise SelectorScopeError(
            f"{name!r} selects nothing: the model has no two stacks",
            context=f"runs of blocks: {_run_listing(spec)}",
            hint=instead_of_stack(name, index, spec)
            if len(spec.runs) == 1 or not index
            else _several_runs(f"blocks{index}", spec).hint,
        )
    return found


def _several_runs(text: str, spec: ModelSpec) -> SelectorScopeError:
    labels = spec.placement.labels
    if set(labels) == {"encoder", "decoder"}:
        hint = f"encoder{text[text.index('[') :]} or decoder{text[text.index('[') :]}"
    else:
        paths = [spec.tree.paths[tower] for tower in spec.placement.towers]
        hint = " or ".join(f"{text} in {path}" for path in paths[:3] if path)
        if "" in paths:
            hint += f', or at:"{labels[paths.index("")]}.…" for those of the model itself'
    return SelectorScopeError(
        f"{text} could be of any of {len(labels)} runs of blocks",
        context=f"runs: {_run_listing(spec)}",
        hint=hint,
    )


def _run_listing(spec: ModelSpec) -> str:
    pairs = zip(spec.runs, spec.placement.labels, strict=True)
    return listing(
        f"{len(run.blocks)} blocks under {spec.tree.paths[run.holder] or 'the model'} ({label})"
        for run, label in pairs
    )
