"""One decision for each tensor: names of one tensor, and parts of a fused one, must agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._plan import FreezePlan
from unifreeze._structure import Mask, ModelSpec
from unifreeze._structure.words_in_names import FUSED_GATE
from unifreeze.errors import FusedTensorError, TieConflictError


class AtomDecisions(NamedTuple):
    """What a plan decides for each atom.

    Attributes:
        trainable: Whether the atom trains.
        rule: The number of the rule that decided, -1 where none did.
    """

    trainable: Mask
    rule: NDArray[np.intp]


def decide_tensors(
    plan: FreezePlan, spec: ModelSpec, atoms: AtomDecisions, undecided: Mask
) -> tuple[Mask, NDArray[np.intp]]:
    """Return for each parameter whether it trains, and which rule decided.

    Args:
        plan: The plan.
        spec: The model.
        atoms: What was decided for each atom.
        undecided: For each parameter, the flag that holds where no rule decides.

    Raises:
        FusedTensorError: Parts of one tensor get different decisions.
        TieConflictError: Names of one tensor get different decisions.
    """
    count, tensor_of = len(spec), spec.atoms.tensor
    if len(spec.atoms) == count:
        # The common case: every tensor has one name and one part, so there is nothing to compare.
        trainable, rule = np.empty(count, np.bool_), np.empty(count, np.intp)
        trainable[tensor_of], rule[tensor_of] = atoms
        return trainable, rule
    _check_fused(plan, spec, atoms)
    trainable = undecided.copy()
    rule = np.full(count, -1, np.intp)
    decided = atoms.rule >= 0
    # Of a repeated index NumPy keeps the last value, so sorted by rule the last rule wins.
    order = np.argsort(atoms.rule[decided], kind="stable")
    tensors = tensor_of[decided][order]
    trainable[tensors] = atoms.trainable[decided][order]
    rule[tensors] = atoms.rule[decided][order]
    clash = decided & (atoms.trainable != trainable[tensor_of])
    if clash.any():
        raise _tie_conflict(plan, spec, atoms, int(tensor_of[np.argmax(clash)]))
    return trainable, rule


def _check_fused(plan: FreezePlan, spec: ModelSpec, decided: AtomDecisions) -> None:
    """Refuse to split a tensor: all parts under one name must get one decision."""
    atoms = spec.atoms
    same_name = atoms.name[1:] == atoms.name[:-1]
    split = same_name & (decided.trainable[1:] != decided.trainable[:-1])
    if not split.any():
        return
    at = int(np.argmax(split))
    name = int(atoms.name[at])
    rule = max(int(decided.rule[at]), int(decided.rule[at + 1]))
    names = " | ".join(f'at:"{part}"' for part in spec.part_names(name))
    gate = atoms.words[at] & FUSED_GATE
    parts = "gate and up" if gate else "query, key and value"
    raise FusedTensorError(
        f"rule {rule + 1} ({plan.rules[rule]}) would split {spec.tree.names[name]}",
        context=f"{parts} are one tensor here and are frozen or trained whole",
        hint=f"name all of them ({names if gate else 'query | key | value'}), or the layer",
    )


def _tie_conflict(
    plan: FreezePlan, spec: ModelSpec, decided: AtomDecisions, tensor: int
) -> TieConflictError:
    decisions: dict[str, str] = {}
    example: dict[bool, str] = {}
    for atom in np.flatnonzero((spec.atoms.tensor == tensor) & (decided.rule >= 0)):
        rule, trains = int(decided.rule[atom]), bool(decided.trainable[atom])
        name = spec.tree.names[spec.atoms.name[atom]]
        example.setdefault(trains, name)
        decision = "trainable" if trains else "frozen"
        decisions[name] = f"{name} is {decision} by rule {rule + 1} ({plan.rules[rule]})"
    return TieConflictError(
        f"{' and '.join(example.values())} are one tensor with two decisions",
        context="\n".join(decisions.values()),
        hint='end the plan with a rule on "tied": freeze: tied, or train: tied',
    )


def check_shared_memory(spec: ModelSpec, trainable: Mask) -> None:
    """Refuse different decisions for tensors that share memory.

    Raises:
        TieConflictError: Naming the tensors.
    """
    for group in spec.tree.shared:
        flags = trainable[list(group)]
        if flags.any() and not flags.all():
            names = spec.paths_of(group)
            raise TieConflictError(
                f"{' and '.join(names)} share memory and get different decisions",
                context=", ".join(
                    f"{name} {'trainable' if flag else 'frozen'}"
                    for name, flag in zip(names, flags, strict=True)
                ),
                hint="freeze or train them together, or give each its own memory",
            )
