"""Evaluating a selector expression on a model: which of the model's atoms it selects.

Here are the operators and the quoted patterns; the words have files of their own.
"""

from __future__ import annotations

import operator
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
    Rows,
    Size,
    Within,
    Without,
    Word,
)
from unifreeze._plan.selectors.hints.nearest import unmatched_path
from unifreeze._plan.selectors.hints.patterns import unmatched_pattern
from unifreeze._plan.selectors.parse import parse
from unifreeze._plan.selectors.paths import match_path, unmatched
from unifreeze._plan.selectors.regular_expressions import matching
from unifreeze._plan.selectors.vocabulary import SYNONYMS
from unifreeze._plan.selectors.words_for_towers import read_place
from unifreeze._plan.selectors.words_with_index import select_counted
from unifreeze._plan.selectors.words_without_index import SELECTED_BY
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import ResolveError, SelectorSyntaxError, UnmatchedSelectorError


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
        # Hints are looked for only here: the search evaluates many selectors, and most of them
        # match nothing, too.
        count = partial(count_selected, spec)
        if isinstance(error.part, Path):
            raise unmatched_path(error.part, spec, count) from None
        if isinstance(error.part, Quoted):
            raise unmatched_pattern(error.part, spec, count) from None
        raise


def count_selected(spec: ModelSpec, text: str) -> int:
    """Return how many parameters a selector selects; 0 if it does not parse or does not fit."""
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
        case Within():
            return _within(expression, spec)
        case Rows(inner):
            return _value(inner, spec)
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


def _within(within: Within, spec: ModelSpec) -> Mask:
    """Evaluate as if one submodule or tower were the whole model, and carry the answer back."""
    sub, names = read_place(within.place, quoted=within.quoted, spec=spec)
    try:
        chosen = evaluate(within.inner, sub)
    except UnmatchedSelectorError:
        # Paths in a tower are those of the model. If a module has the tower's name, they may be
        # those in the module, as before there was a word for it.
        if within.quoted or spec.module(within.place) is None:
            raise
        sub, names = read_place(within.place, quoted=True, spec=spec)
        chosen = evaluate(within.inner, sub)
    selected = np.zeros(len(spec.atoms), np.bool_)
    selected[np.isin(spec.atoms.name, names)] = _carry_over(chosen, sub, spec, names)
    return selected


def _carry_over(
    chosen: Mask, sub: ModelSpec, spec: ModelSpec, names: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return the choice of a submodule's atoms as a choice of the same atoms of the whole.

    A name can have more atoms in the whole only if the submodule is itself a fused layer: it is
    the layer's name that says what it fuses, and a root has no name.
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
        selected = _of_type(pattern, spec)[spec.atoms.name]
    elif quoted.by == "re":
        named = np.asarray(matching(pattern, spec.tree.names), np.bool_)
        selected = named[spec.atoms.name]
    else:
        selected = _at(pattern, spec)
    if not selected.any():
        raise unmatched(quoted, spec)
    return selected


def _at(pattern: str, spec: ModelSpec) -> Mask:
    """Select by canonical name; for a fused tensor, the parts that are named."""
    names = spec.atom_names
    # The name of a layer stands for all its tensors.
    globs = (pattern, f"{pattern}/*")
    taken = {n for n in dict.fromkeys(names) if any(fnmatchcase(n, glob) for glob in globs)}
    return np.asarray([name in taken for name in names], np.bool_)


def _of_type(pattern: str, spec: ModelSpec) -> Mask:
    tree = spec.tree
    named = np.zeros(len(tree.names), np.bool_)
    for module, type_name in enumerate(tree.types):
        if fnmatchcase(type_name, pattern):
            named[tree.name_starts[module] : tree.name_ends[module]] = True
    return named


def _word(name: str, index: Index | None, spec: ModelSpec) -> Mask:
    if name in SELECTED_BY:
        return SELECTED_BY[name](spec)
    return select_counted(name, index, spec)
