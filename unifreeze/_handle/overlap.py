"""Several plans over the same parameters: the latest plan that covers a parameter decides it.

Plans may be in force on a model, on a part of it, and on a group it is in. A plan
does not cover the parameters that none of its rules decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unifreeze._resolution import Resolution, TrainedRows
from unifreeze._structure import Mask, ModelSpec, Tree

Numbers = NDArray[np.intp]


@dataclass(frozen=True)
class Flags:
    """Which parameters of a model train under several plans.

    Attributes:
        trainable: For each parameter, whether it trains.
        decider: For each parameter, the number of the plan that decides it, -1 where none does.
        rows: Tables of which only some rows train, by the plan that decides them.
    """

    trainable: Mask
    decider: Numbers
    rows: tuple[TrainedRows, ...] = ()


@dataclass(frozen=True)
class Claim:
    """The claim of one plan on the modules of a model: its own, a part of that, or a larger one.

    Attributes:
        covers: For each module, whether it is in what the plan was applied to.
        held: For each module, whether its state holds still under the plan.
        quiet: For each module, whether it runs in inference mode because `dropout` is off.
    """

    covers: Mask
    held: Mask
    quiet: Mask


@dataclass(frozen=True)
class Blend:
    """The decisions of several plans together for one model.

    Attributes:
        resolution: The decisions, to be written.
        decider: As in `Flags`.
        keeper: For each module, the number of the plan that says what its state does, or -1.
    """

    resolution: Resolution
    decider: Numbers
    keeper: Numbers


def shared(first: Mapping[int, int], second: Mapping[int, int]) -> tuple[Numbers, Numbers]:
    """Return the numbers that shared objects have in each of two models."""
    keys = first.keys() & second.keys()
    here = np.asarray([first[key] for key in keys], np.intp)
    return here, np.asarray([second[key] for key in keys], np.intp)


def blend_flags(spec: ModelSpec, plans: Sequence[Resolution]) -> Flags:
    """Let each plan decide, the oldest first; parameters that no plan decides stay as found."""
    trainable, decider = spec.found.copy(), np.full(len(spec), -1, np.intp)
    for number, plan in enumerate(plans):
        here, there = shared(spec.tree.numbers, plan.spec.tree.numbers)
        decided = plan.decided[there]
        trainable[here[decided]] = plan.trainable[there[decided]]
        decider[here[decided]] = number
    rows = tuple(
        row._replace(number=number)
        for decides, plan in enumerate(plans)
        for row in plan.rows
        if (number := _number_in(spec, plan, row)) >= 0 and decider[number] == decides
    )
    return Flags(trainable, decider, rows)


def _number_in(spec: ModelSpec, plan: Resolution, row: TrainedRows) -> int:
    """Return the number that a table of a plan's model has in another model; -1 without it."""
    here, there = shared(spec.tree.numbers, plan.spec.tree.numbers)
    found = here[there == row.number]
    return int(found[0]) if len(found) else -1


def claim_on(tree: Tree, settled: Resolution, alive: frozenset[int] | None) -> Claim:
    """Return the claim of a plan on the modules of another model.

    Args:
        tree: That model.
        settled: The plan's decisions for its model, under the flags that all plans together give.
        alive: Identities of the modules that are still where the plan found them; None for all.
    """
    keys = settled.spec.tree.keys

    def modules(numbers: Iterable[int]) -> Mask:
        known = {keys[number] for number in numbers}
        known = known if alive is None else known & alive
        return np.asarray([key in known for key in tree.keys], np.bool_)

    return Claim(modules(range(len(keys))), modules(settled.held), modules(settled.quiet))


def blend(spec: ModelSpec, flags: Flags, claims: Sequence[Claim]) -> Blend:
    """Put several plans' decisions together.

    Args:
        spec: The model, with its flags as found.
        flags: The flags that it gets.
        claims: The claim of each plan, the oldest plan first.
    """
    keeper = _keepers(spec, flags.decider, claims)
    held = _asked(keeper, [claim.held for claim in claims])
    quiet = _asked(keeper, [claim.quiet for claim in claims])
    resolution = replace(
        Resolution.without_plan(spec),
        trainable=flags.trainable,
        held=tuple(np.flatnonzero(held).tolist()),
        quiet=tuple(np.flatnonzero(quiet).tolist()),
        covered=keeper >= 0,
        rows=flags.rows,
    )
    return Blend(resolution, flags.decider, keeper)


def _keepers(spec: ModelSpec, decider: Numbers, claims: Sequence[Claim]) -> Numbers:
    """Return for each module the latest plan that decides its own parameters, else covers it."""
    keeper = np.full(len(spec.tree.paths), -1, np.intp)
    for number, claim in enumerate(claims):
        keeper[claim.covers] = number
    deciding = np.full(len(keeper), -1, np.intp)
    np.maximum.at(deciding, spec.owner_of, decider[spec.tensor_of])
    for number, claim in enumerate(claims):
        keeper[(deciding == number) & claim.covers] = number
    return keeper


def _asked(keeper: Numbers, answers: Sequence[Mask]) -> Mask:
    """Return each module's answer from the plan that is its keeper."""
    answered = np.zeros(len(keeper), np.bool_)
    for number, answer in enumerate(answers):
        kept = keeper == number
        answered[kept] = answer[kept]
    return answered


def present(then: Tree, now: Tree) -> frozenset[int] | None:
    """Return the modules that are where they were in an earlier walk; None if nothing changed."""
    if then is now:
        return None
    there = dict(zip(now.paths, now.keys, strict=True))
    pairs = zip(then.paths, then.keys, strict=True)
    return frozenset(key for path, key in pairs if there.get(path) == key)
