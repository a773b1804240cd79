"""The word `embeddings`: what makes vectors of tokens, patches or sound, in every tower.

It is the whole stem of a tower that reads tokens or whose blocks attend: tables of words and
positions, patch embeddings, class tokens, and the norm after them. The stem of a plain
convolutional network is only called `stem`.
"""

from __future__ import annotations

import re

import numpy as np

from unifreeze._structure import KINDS, Mask, ModelSpec, Zone
from unifreeze._structure.words_in_names import (
    ATTENTION,
    FUSED_KV,
    FUSED_QKV,
    INPUT,
    KEY,
    POSITION,
    QUERY,
    VALUE,
    words_in,
)

_PROJECTED = QUERY | KEY | VALUE | FUSED_QKV | FUSED_KV


_PATCHES = re.compile(r"\w*patch_?embed\w*", re.IGNORECASE)


def select_embeddings(spec: ModelSpec) -> Mask:
    """Return, for each atom, whether it makes a tower's input into vectors."""
    atoms = spec.atoms
    stem: Mask = atoms.zone == Zone.STEM
    tables: Mask = atoms.kind == KINDS.index("embedding")
    if not stem.any():
        # A model without blocks has no stem, so the lookup tables are all that can be meant.
        return tables
    kernels: Mask = atoms.kind == KINDS.index("conv")
    chosen: Mask = (stem & tables) | _tokens_beside_blocks(spec)
    for run in np.unique(atoms.run[stem]).tolist():
        here: Mask = stem & (atoms.run == run)
        reads_tokens = (here & tables).any() and not (here & kernels).any()
        first: Mask = _blocks_after(spec, run) & (atoms.block == 0)
        if (
            reads_tokens
            or _attends(spec, first)
            or _mixes_patches(spec, here, first)
            or _embeds_patches(spec, here, run)
        ):
            chosen |= here
    return chosen


def _tokens_beside_blocks(spec: ModelSpec) -> Mask:
    """Select tokens and tables of positions that the module around the blocks owns with others."""
    atoms = spec.atoms
    leaves = [words_in(leaf) & (INPUT | POSITION) for leaf in spec.tree.leaves]
    named = np.asarray(leaves, np.int64)[atoms.name] != 0
    selected: Mask = named & (atoms.zone == Zone.UNPLACED)
    return selected


def _blocks_after(spec: ModelSpec, run: int) -> Mask:
    """Select the blocks that a stem leads into; of a stem of several towers, those of all."""
    atoms, labels = spec.atoms, spec.placement.labels
    runs = [n for n, label in enumerate(labels) if run < 0 and not label.endswith(".blocks")]
    blocks: Mask = np.isin(atoms.run, runs or [run]) & (atoms.zone == Zone.BLOCK)
    return blocks


def _embeds_patches(spec: ModelSpec, stem: Mask, run: int) -> bool:
    """Return whether a stem is called a patch embedding, and some block after it attends.

    The first blocks of some vision transformers are convolutions.
    """
    atoms = spec.atoms
    blocks = _blocks_after(spec, run)
    linear: Mask = blocks & (atoms.kind == KINDS.index("linear"))
    attends = (linear & (atoms.words & (ATTENTION | _PROJECTED) != 0)).any()
    named = any(map(_PATCHES.fullmatch, _names_in(spec, stem)))
    return named and (bool(attends) or _attends(spec, blocks))


def _attends(spec: ModelSpec, blocks: Mask) -> bool:
    """Return whether blocks attend; convolutions that weigh channels are called so as well."""
    atoms = spec.atoms
    attention = blocks & (atoms.words & ATTENTION != 0)
    if (attention & (atoms.words & _PROJECTED != 0)).any():
        return True
    return bool(attention.any()) and not (blocks & (atoms.kind == KINDS.index("conv"))).any()


def _mixes_patches(spec: ModelSpec, stem: Mask, first: Mask) -> bool:
    """Return whether a stem is called embedding, and the block after it has no spatial kernel."""
    shapes = [spec.tensors[tensor].neutral for tensor in set(spec.atoms.tensor[first].tolist())]
    if not shapes or any(size > 1 for shape in shapes if len(shape) > 2 for size in shape[2:]):
        return False
    return any(words_in(piece) & INPUT for piece in _names_in(spec, stem))


def _names_in(spec: ModelSpec, atoms: Mask) -> set[str]:
    """Return the names of modules and parameters along the paths of some atoms."""
    names = {spec.tree.names[name] for name in spec.atoms.name[atoms].tolist()}
    return {piece for name in names for piece in name.split(".")}
