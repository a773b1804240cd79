"""What each word of the selector language selects; words that take an index are in another file.

The list of all words, with a sentence for each, is in `vocabulary.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unifreeze._plan.selectors.embeddings import select_embeddings
from unifreeze._plan.selectors.vocabulary import SYNONYMS, TOWERS
from unifreeze._plan.selectors.words_for_experts import in_role, of_role
from unifreeze._plan.selectors.words_for_towers import head, neck, tower
from unifreeze._structure import KINDS, Mask, ModelSpec, Zone
from unifreeze._structure.head_names import named_for_classes, named_for_head
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


def _classifier(spec: ModelSpec) -> Mask:
    """Select the layers of every head that give its outputs: one number for each class.

    The last linear says how many classes there are, or the last convolution if there is no linear.
    A layer that a traced forward pass never ran is counted last, but it classifies nothing. An
    auxiliary head is taken only if there is no other head.
    """
    atoms, at = spec.atoms, spec.placement
    selected = np.zeros(len(atoms), np.bool_)
    heads = head(spec) & ~_adapter(spec)
    owners = spec.owner_of[atoms.name]
    for unit in np.unique(atoms.unit[heads]):
        here = heads & (atoms.unit == unit)
        inside = np.unique(owners[here]).tolist()
        if layers := _scoring([owner for owner in inside if at.kind_of[owner] in _SCORES], spec):
            last = max(layers, key=at.count_of.__getitem__)
            beside = [owner for owner in inside if at.kind_of[owner] in ("norm", "param")]
            selected |= here & np.isin(owners, _giving_outputs(last, layers, beside, spec))
    return selected


_SCORES = ("linear", "conv")
"""Kinds of layers that can score classes; if a head has both, the first."""


def _scoring(layers: list[int], spec: ModelSpec) -> list[int]:
    """Return the layers of a head among which the last is: by words, by use, then by kind."""
    at, paths = spec.placement, spec.tree.paths
    preferred: tuple[Callable[[int], bool], ...] = (
        lambda layer: not at.words[layer] & AUXILIARY,
        lambda layer: named_for_head(paths[layer]),
        lambda layer: named_for_classes(paths[layer]),
        lambda layer: layer not in at.unreached,
        lambda layer: at.kind_of[layer] == _SCORES[0],
    )
    for fits in preferred:
        layers = [layer for layer in layers if fits(layer)] or layers
    return layers


def _giving_outputs(last: int, layers: list[int], beside: list[int], spec: ModelSpec) -> list[int]:
    """Return the layers as wide as the last; only the last if a layer reads values as wide.

    Args:
        last: The last layer of the head.
        layers: All layers of its kind.
        beside: What else can be as wide: norms, and owners of bare parameters.
        spec: The model.
    """
    widths = {layer: _widths(layer, spec) for layer in layers}
    classes = widths[last][0]
    if not classes or any(inputs == classes for _, inputs in widths.values()):
        return [last]
    widths |= {owner: (_widths(owner, spec)[0], 0) for owner in beside}
    return [layer for layer, (outputs, _) in widths.items() if outputs == classes]


def _widths(owner: int, spec: ModelSpec) -> tuple[int, int]:
    """Return how many outputs and inputs a layer has; 0 of each if it has no parameters."""
    tree = spec.tree
    shapes = [tree.tensors[tree.tensor_of[name]].neutral for name in tree.own_names(owner)]
    outputs, inputs, *_ = (*max(shapes, key=len, default=()), 0, 0)
    return outputs, inputs


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
    **{kind: _kind(kind) for kind in KINDS if kind != "embedding"},
    "tables": _kind("embedding"),
    "all": _all,
    "tied": _tied,
    "stem": _zone(Zone.STEM),
    "neck": neck,
    "head": head,
    "backbone": _backbone,
    "embeddings": select_embeddings,
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
