"""Notices: what a user should know about a plan on a model, though it is not a mistake."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._plan import FreezePlan
from unifreeze._plan.selectors import Expression, Path, Word, count_selected, evaluate
from unifreeze._plan.selectors.expression import Segment, Within, nodes, parts
from unifreeze._plan.selectors.vocabulary import OLD_WORDS
from unifreeze._plan.selectors.words_for_towers import is_tower, read_place
from unifreeze._resolution.check_captured import fused_places
from unifreeze._resolution.check_order import unseen_notices
from unifreeze._resolution.held_layers import Stillness
from unifreeze._resolution.plan_selectors import all_expressions
from unifreeze._structure import Mask, ModelSpec, running_owners
from unifreeze.errors import ResolveError, counted, listing

CONSTANT = "a constant of the network: found frozen beside what trains"


class Outcome(NamedTuple):
    """What a plan decides on a model.

    Attributes:
        trainable: The decision for each parameter.
        rule: For each parameter, the number of the rule that decided, -1 where none did.
        rule_of_atom: The same for each atom.
        still: Modules that should hold still.
    """

    trainable: Mask
    rule: NDArray[np.intp]
    rule_of_atom: NDArray[np.intp]
    still: Stillness


def outcome_notices(plan: FreezePlan, spec: ModelSpec, outcome: Outcome) -> Iterator[str]:
    """Say what the plan does beyond what its rules select."""
    yield from _left_alone(spec, outcome.still.modules)
    yield from _held_as_found(spec, outcome.still.unasked - spec.tree.modeless.keys())
    yield from _thawed(plan, spec, outcome)
    changed = np.flatnonzero(outcome.trainable != spec.found)
    yield from tied_beside(plan, spec, outcome.rule, outcome.rule_of_atom, changed)


def left_notices(spec: ModelSpec, tensors: NDArray[np.intp], where: str) -> Iterator[str]:
    """Say which parameters a rule leaves as found, and why; of constants, how to train them."""
    reasons = [spec.tensors[tensor].fixed for tensor in tensors]
    for reason in dict.fromkeys(reasons):
        paths = spec.paths_of([t for t, why in zip(tensors, reasons, strict=True) if why == reason])
        cure = "" if reason else f'; to train it: train: path:"{paths[0]}"'
        yield f"{where} leaves {listing(paths)} as found ({reason or CONSTANT}){cure}"


def _left_alone(spec: ModelSpec, still: set[int]) -> Iterator[str]:
    """Say which layers should hold still but cannot, because they have no inference mode."""
    tree, left = spec.tree, sorted(still & spec.tree.modeless.keys())
    for why in dict.fromkeys(tree.modeless[owner] for owner in left):
        named = [tree.paths[owner] or "the model" for owner in left if tree.modeless[owner] == why]
        yield f"left alone, {why}; its statistics move, and are not verified: {listing(named)}"


def _held_as_found(spec: ModelSpec, unasked: set[int]) -> Iterator[str]:
    """Say which layers hold still only because they were found frozen, and how to free them."""
    norms = unasked.intersection(running_owners(spec.states))
    for owners, state in ((norms, "statistics"), (unasked - norms, "other state")):
        if not owners:
            continue
        paths = [spec.tree.paths[owner] for owner in sorted(owners)]
        count = counted(len(paths), "layer holds its", "layers hold their")
        cure = f"""to let it update: norm_stats: [{{update: 'path:"{paths[0]}"'}}]"""
        cure = cure if owners is norms else f'to let it move: train: path:"{paths[0]}"'
        yield (
            f"{count} {state} though no rule names them, for they were found frozen: "
            f"{listing(path or 'the model' for path in paths)}; {cure}"
        )


def _thawed(plan: FreezePlan, spec: ModelSpec, outcome: Outcome) -> Iterator[str]:
    """Say how many parameters were found frozen and train by a word of the vocabulary."""
    expressions = [rule.selector(spec.framework).expression for rule in plan.rules]
    by_word = [any(isinstance(n, Word) for n in nodes(expression)) for expression in expressions]
    # The last entry is for rule -1: parameters that no rule decides.
    decided_by_word = np.asarray([*by_word, False], np.bool_)[outcome.rule]
    thawed = np.flatnonzero(outcome.trainable & ~spec.found & decided_by_word)
    if len(thawed):
        paths = listing(spec.paths_of(thawed))
        were = counted(len(thawed), "parameter was", "parameters were")
        trains = "trains" if len(thawed) == 1 else "train"
        yield f"{were} found frozen, and {trains} under this plan: {paths}"


def tied_beside(
    plan: FreezePlan,
    spec: ModelSpec,
    rule: NDArray[np.intp],
    rule_of_atom: NDArray[np.intp],
    tensors: Iterable[int] | None = None,
) -> Iterator[str]:
    """Say which names follow a rule that selects only another name of the same tensor.

    Args:
        plan: The plan.
        spec: The model's description.
        rule: For each parameter, the rule that decided it.
        rule_of_atom: For each atom, the rule that selects it.
        tensors: The parameters to look at; None for all.
    """
    atoms, names = spec.atoms, spec.tree.names
    beside = np.flatnonzero((rule_of_atom < 0) & (rule[atoms.tensor] >= 0))
    if not len(beside):
        return
    wanted = None if tensors is None else set(map(int, tensors))
    names_beside: dict[tuple[int, str], list[str]] = {}
    for atom in beside.tolist():
        tensor = int(atoms.tensor[atom])
        if wanted is None or tensor in wanted:
            taken = np.flatnonzero((atoms.tensor == tensor) & (rule_of_atom == rule[tensor]))
            key = int(rule[tensor]), names[atoms.name[taken[0]]]
            names_beside.setdefault(key, []).append(names[atoms.name[atom]])
    for (number, name), aliases in names_beside.items():
        verb = "freezes" if plan.rules[number].verb == "freeze" else "trains"
        aliases = [alias for alias in dict.fromkeys(aliases) if alias != name]
        if not aliases:
            continue  # parts of one tensor
        yield (
            f"rule {number + 1} ({plan.rules[number]}) also {verb} {listing(aliases)}: "
            f"the same tensor as {name}"
        )


def reading_notices(plan: FreezePlan, spec: ModelSpec) -> tuple[str, ...]:
    """Say where a word hides a path, which order is uncertain, and what was not read."""
    notices = [
        notice
        for expression in all_expressions(plan, spec.framework)
        for notice in _reading(expression, spec)
    ]
    notices += fused_places(plan, spec)
    if spec.trace and spec.placement.ambiguous:
        notices.append(_ambiguity(spec))
    if unused := spec.tree.unused:
        notices.append(
            f"{counted(len(unused), 'parameter belongs', 'parameters belong')} to copies of layers "
            "that do not run; no count has them, and nothing changes them: "
            f"{listing(row.path for row in unused)}"
        )
    notices += unseen_notices(plan, spec)
    if plan.phases:
        notices.append("this is of the plan's own rules; its phases add theirs")
    return tuple(dict.fromkeys(notices))


def _ambiguity(spec: ModelSpec) -> str:
    """Say which layers could get each other's canonical names elsewhere."""
    names = [spec.owner_name(owner) for owner in sorted(spec.placement.ambiguous)]
    return (
        "registered in another order than executed, and alike, so that the numbers in their "
        f"canonical names may differ elsewhere: {listing(names)}"
    )


def _reading(expression: Expression, spec: ModelSpec) -> Iterator[str]:
    if isinstance(expression, Within):
        try:
            inside, names = read_place(expression.place, quoted=expression.quoted, spec=spec)
        except ResolveError:
            return  # if the rule is optional, the place may be missing
        module = spec.module(expression.place)
        if is_tower(expression.place, quoted=expression.quoted, spec=spec) and module is not None:
            path = range(spec.tree.name_starts[module], spec.tree.name_ends[module])
            if [*path] != names.tolist():
                yield _as_word(expression.place)
        yield from _reading(expression.inner, inside)
        return
    if isinstance(expression, Word) and _hides_path(expression, spec):
        yield _as_word(expression.name)
    if isinstance(expression, Word) and (new := OLD_WORDS.get(expression.name)):
        yield f"{expression.name!r} is the old word for {new!r}, and selects the same"
    if expression == Word("embeddings") and not evaluate(expression, spec).any():
        yield "'embeddings' selects nothing here: 'stem' is what comes before the first block"
    if isinstance(expression, Path) and (wide := _at_any_depth(expression)):
        few, more = (count_selected(spec, str(path)) for path in (expression, wide))
        if 0 < few < more:
            yield (
                f"{str(expression)!r} selects {counted(few, 'parameter')}, as * stands for one "
                f"level of a path; at any depth: {wide} ({more} parameters)"
            )
    for part in parts(expression):
        yield from _reading(part, spec)


def _as_word(name: str) -> str:
    return (
        f"{name!r} is read as the word, not as the path "
        f'{name!r}, which holds other parameters: path:"{name}"'
    )


def _at_any_depth(path: Path) -> Path | None:
    """Return what a path that begins with * means where * may also stand for dots."""
    first, *rest = path.segments
    if path.quoted or first.name == "**" or not first.name.startswith("*") or first.index:
        return None
    after = [] if first.name == "*" else [first]
    return Path((Segment("**"), *after, *rest)) if after or rest else None


def _hides_path(word: Word, spec: ModelSpec) -> bool:
    module = spec.module(word.name)
    if module is None or word.index is not None:
        return False
    tree, name = spec.tree, spec.atoms.name
    path = (name >= tree.name_starts[module]) & (name < tree.name_ends[module])
    try:
        return not np.array_equal(path, evaluate(word, spec))
    except ResolveError:
        # An optional rule may use a word that means nothing here.
        return True
