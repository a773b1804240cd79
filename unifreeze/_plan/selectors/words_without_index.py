"""What each word of the selector language selects; words that take an index are in another file.

The list of all words, with a sentence for each, is in `vocabulary.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unifreeze._plan.selectors.vocabulary import SYNONYMS, TOWERS
from unifreeze._plan.selectors.words_for_experts import in_role, of_role
from unifreeze._plan.selectors.words_for_towers import head, neck, tower
from unifreeze._structure import KINDS, Mask, ModelSpec, Zone
from unifreeze._structure.words_in_names import (
    ATTENTION,
    AUXILIARY,
    KEY,
    POOLER,
    POSITION,
    QUERY,
    VALUE,
    WORD,
)

Meaning = Callable[[ModelSpec], Mask]


def _of_kind(kind: str, spec: ModelSpec) -> Mask:
    selected: Mask = spec.atoms.kind == KINDS.index(kind)
    return selected


def _kind(kind: str) -> Meaning:
    return lambda spec: _of_kind(kind, spec)


def _zone(zone: Zone) -> Meaning:
    def in_zone(spec: ModelSpec) -> Mask:
        selected: Mask = spec.atoms.zone == zone
        return selected

    return in_zone


def _all(spec: ModelSpec) -> Mask:
    return np.ones(len(spec.atoms), np.bool_)


def _tied(spec: ModelSpec) -> Mask:
    many = np.bincount(spec.tensor_of, minlength=len(spec)) > 1
    return many[spec.atoms.tensor]


def _backbone(spec: ModelSpec) -> Mask:
    return ~head(spec)


def _scalars(spec: ModelSpec) -> Mask:
    """Select single values that belong to no layer, such as the scale of likenesses."""
    selected: Mask = (spec.counts == 1)[spec.atoms.tensor] & _of_kind("param", spec)
    return selected


def _embeddings(spec: ModelSpec) -> Mask:
    """Select the stem of every tower that reads tokens: its stem has tables and no convolution."""
    atoms, stem = spec.atoms, _zone(Zone.STEM)(spec)
    tables, convs = _of_kind("embedding", spec), _of_kind("conv", spec)
    if not stem.any():
        # A model without blocks has no stem, so the lookup tables are all that can be meant.
        return tables
    text = np.setdiff1d(atoms.run[stem & tables], atoms.run[stem & convs])
    selected: Mask = stem & np.isin(atoms.run, text)
    return selected


def _classifier(spec: ModelSpec) -> Mask:
    """Select the last linear of every head, or its last convolution if it has no linear.

    A layer that a traced forward pass never ran is counted last, but it classifies nothing. An
    auxiliary head is taken only if there is no other head.
    """
    atoms, at = spec.atoms, spec.placement

    def last(owner: int) -> tuple[bool, bool, int]:
        main = not at.words[owner] & AUXILIARY
        return owner not in at.unreached, main, at.count_of[owner]

    chosen: list[int] = []
    heads = head(spec)
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
    """Select what an adapter library trains: adapters, and copies of layers that replace layers."""
    selected: Mask = _adapter(spec) | spec.atoms.copied
    return selected


def _has(word: int) -> Meaning:
    def carries(spec: ModelSpec) -> Mask:
        carrying: Mask = spec.atoms.words & word != 0
        # An adapter is inside the layer that it adapts, but it is not that layer's projection.
        return carrying & ~_adapter(spec)

    return carries


def _projection(word: int) -> Meaning:
    def projects(spec: ModelSpec) -> Mask:
        atoms = spec.atoms
        # Outside blocks the word alone is not enough: a critic's `value` head is not a projection.
        repeated = np.isin(atoms.zone, (Zone.BLOCK, Zone.NET))
        selected: Mask = _has(word)(spec) & (repeated | (atoms.words & ATTENTION != 0))
        return selected

    return projects


def _attention(spec: ModelSpec) -> Mask:
    return _has(ATTENTION)(spec) & ~_of_kind("norm", spec)


def _mlp(spec: ModelSpec) -> Mask:
    """Select the linear layers outside attention and routers, in blocks that have attention."""
    atoms, attention = spec.atoms, _attention(spec)
    in_block = atoms.zone == Zone.BLOCK
    # One number for each block of each run, so that one `isin` finds the blocks with attention.
    place = atoms.run * (int(atoms.block.max(initial=0)) + 1) + atoms.block
    attending = np.isin(place, place[attention & in_block])
    selected: Mask = in_block & attending & ~attention & _of_kind("linear", spec)
    selected = selected & ~in_role("router", spec)
    return selected


def _table(word: int) -> Meaning:
    def is_table(spec: ModelSpec) -> Mask:
        return _has(word)(spec) & (_of_kind("embedding", spec) | _of_kind("param", spec))

    return is_table


def _part(part: int) -> Meaning:
    def is_part(spec: ModelSpec) -> Mask:
        selected: Mask = spec.atoms.part == part
        return selected

    return is_part


SELECTED_BY: dict[str, Meaning] = {
    **{kind: _kind(kind) for kind in KINDS},
    "all": _all,
    "tied": _tied,
    "stem": _zone(Zone.STEM),
    "neck": neck,
    "head": head,
    "backbone": _backbone,
    "embeddings": _embeddings,
    "pooler": _has(POOLER),
    "classifier": _classifier,
    **{word: tower(word) for word in TOWERS if word not in SYNONYMS},
    "shared_experts": of_role("shared_experts"),
    "router": of_role("router"),
    "scalars": _scalars,
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
"""What each word selects. `adapter` is more than the kind of that name."""
