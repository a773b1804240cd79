"""What the words for towers select: vision, audio, text, projector, action, image_decoder.

Here are the words head and neck, too, because they are about a single tower.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unifreeze._plan.selectors.paths import find_module
from unifreeze._plan.selectors.vocabulary import SYNONYMS, TOWERS
from unifreeze._structure import Mask, ModelSpec, Zone
from unifreeze._structure.tower_words import SIGNALS
from unifreeze.errors import (
    ResolveError,
    SelectorScopeError,
    UnmatchedSelectorError,
    counted,
    listing,
)

_WHAT = {
    "vision": "pictures enter",
    "audio": "sound enters",
    "text": "tokens enter",
    "projector": "lies between a tower of pictures or sound and one of words",
    "action": "makes actions",
    "image_decoder": "makes pictures",
}


def tower(word: str) -> Callable[[ModelSpec], Mask]:
    """Return the meaning of a word for a tower."""
    return lambda spec: _in_tower(word, spec)


def _in_tower(word: str, spec: ModelSpec) -> Mask:
    selected: Mask = _parts(spec) == word
    if not selected.any():
        raise _no_tower(word, spec)
    return selected


def _parts(spec: ModelSpec) -> NDArray[np.str_]:
    """Return the word of each atom's tower."""
    return np.asarray(spec.towers.of_name, np.str_)[spec.atoms.name]


def head(spec: ModelSpec) -> Mask:
    """Select what comes after the last block; where one tower feeds another, the head of that."""
    selected: Mask = spec.atoms.zone == Zone.HEAD
    if len(spec.runs) > 1 and spec.towers.fed:
        # What ends a tower that feeds the words is not an end of the model.
        selected = selected & ~np.isin(_parts(spec), (*SIGNALS, "projector"))
    return selected


def neck(spec: ModelSpec) -> Mask:
    """Select the neck: of several towers, that of the one that holds the head.

    Raises:
        SelectorScopeError: Several towers have a neck, and none holds the head.
    """
    necks: Mask = spec.atoms.zone == Zone.NECK
    if len(spec.runs) < 2 or spec.tree.members:
        return necks
    parts = _parts(spec)
    necks = necks & (parts != "projector")
    words = sorted(set(parts[necks].tolist()) - {""})
    if len(words) < 2:
        return necks
    heads = set(parts[head(spec)].tolist()).intersection(words)
    if len(heads) != 1:
        raise SelectorScopeError(
            f"'neck' could be of any of {len(words)} towers",
            context=f"towers with a neck: {', '.join(words)}",
            hint=" or ".join(f"neck in {word}" for word in words),
        )
    selected: Mask = necks & (parts == heads.pop())
    return selected


def is_tower(place: str, *, quoted: bool, spec: ModelSpec) -> bool:
    """Return whether a place after `in` is the word of a tower, and not a path or one of models."""
    return not quoted and place in TOWERS and place not in spec.tree.members


def read_place(place: str, *, quoted: bool, spec: ModelSpec) -> tuple[ModelSpec, NDArray[np.intp]]:
    """Read what stands after `in` as if it were the whole model: a module, or a tower.

    If the model has no such tower, a module of that name is meant.

    Returns:
        Its description, and for each of its names the number of that name in the model.

    Raises:
        UnmatchedSelectorError: There is no such module or tower.
        SelectorScopeError: It cannot be told whether the model has such a tower.
    """
    if not is_tower(place, quoted=quoted, spec=spec):
        return spec.within(find_module(place, spec))
    word = SYNONYMS.get(place, place)
    try:
        _in_tower(word, spec)
    except ResolveError:
        if spec.module(place) is None:
            raise
        return spec.within(find_module(place, spec))
    return spec.within_tower(word)


def _no_tower(word: str, spec: ModelSpec) -> ResolveError:
    """Say why a model has no such tower, which it has, and what can be written.

    An optional rule may name a tower that a model lacks, but not one that cannot be told.
    """
    towers = spec.towers
    lines = [f"{path or 'the model'}: {why}" for path, why in towers.unclear.items()]
    if towers.words:
        names = np.asarray(towers.of_name, np.str_)
        rows = (
            f"{known} ({counted(len(np.unique(spec.tensor_of[names == known])), 'parameter')})"
            for known in towers.words
        )
        lines.append(f"towers of the model: {listing(rows)}")
    modules = [path for path in spec.tree.paths if path.rpartition(".")[2] == word]
    hint = "select by path; `unifreeze show MODEL` lists the modules"
    if modules:
        hint = f'for the module of that name: path:"{modules[0]}"'
    elif towers.unclear and spec.order == "registration":
        hint = f"give a batch, so that a forward pass shows it; or {hint}"
    elif towers.alone and word != "projector":
        hint = "for all but the head: backbone"
    error = SelectorScopeError if towers.unclear else UnmatchedSelectorError
    return error(
        f"{word!r} selects nothing: the model has no part that {_WHAT[word]}, as far as its layers "
        "and their names show",
        context="\n".join(lines),
        hint=hint,
    )
