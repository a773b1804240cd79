"""What goes where: a pairing read in one direction."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from unifreeze.errors import PortError, listing
from unifreeze.pairing import Pairing


class Step(NamedTuple):
    """One tensor on its way.

    Attributes:
        names: Its names in the source, the first path first.
        targets: Its names in the target, the first path first.
        shape: As the source stores it.
        target_shape: As the target stores it.
        transposed: The target stores it the other way round.
        cropped: The two are tables of unequal length.
    """

    names: tuple[str, ...]
    targets: tuple[str, ...]
    shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    transposed: bool
    cropped: bool


class Route(NamedTuple):
    """A pairing read in one direction.

    Attributes:
        steps: Every paired tensor.
        source_left: Tensors of the source that have no partner, with the reason.
        target_left: Tensors of the target that have no partner, with the reason.
        source_own: State that the source's port keeps for itself.
        target_own: State that the target's port keeps for itself.
        towards: Framework of the target.
    """

    steps: tuple[Step, ...]
    source_left: dict[str, str]
    target_left: dict[str, str]
    source_own: frozenset[str]
    target_own: frozenset[str]
    towards: str

    @property
    def names(self) -> set[str]:
        """Every name that the source's paired tensors go by."""
        return {name for step in self.steps for name in step.names}


class Ported(NamedTuple):
    """What was carried over.

    Attributes:
        tensors: Number of tensors.
        values: Number of values.
        passed_over: Names in the source that have no place in the target.
        untouched: Tensors of the target that nothing was carried to.
    """

    tensors: int
    values: int
    passed_over: tuple[str, ...]
    untouched: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.tensors} tensors with {self.values:,} values carried over"
        for what, names in (("passed over", self.passed_over), ("not touched", self.untouched)):
            text += f"\n{what}: {listing(names)}" if names else ""
        return text


def route(pairing: Pairing, *, reverse: bool) -> Route:
    """Read a pairing from its first model to its second, or the other way.

    Raises:
        PortError: The pairing was never certified.
    """
    if pairing.certificate is None:
        raise PortError(
            "the pairing has no certificate: the second model was not run on the first's values",
            hint="sketch it with --like the first one's sketch, and pair again",
        )
    steps = []
    for pair in pairing.pairs:
        ends = [
            ((pair.one, *pair.one_aliases), pair.one_shape),
            ((pair.other, *pair.other_aliases), pair.other_shape),
        ]
        (names, shape), (targets, target_shape) = reversed(ends) if reverse else ends
        row = Step(names, targets, shape, target_shape, pair.transposed, pair.cropped)
        steps.append(row)
    left = [{r.path: r.reason for r in pairing.left if r.side == side} for side in (0, 1)]
    source, target = (1, 0) if reverse else (0, 1)
    sides = pairing.one, pairing.other
    return Route(
        steps=tuple(steps),
        source_left=left[source],
        target_left=left[target],
        source_own=frozenset(sides[source].own_state),
        target_own=frozenset(sides[target].own_state),
        towards=sides[target].framework,
    )


def check_route(way: Route, present: Collection[str], *, partial: bool, crop: bool) -> list[str]:
    """Check that a source has what the route needs, and nothing that it has no place for.

    Args:
        way: The route.
        present: Every name in the source.
        partial: Leave alone what has no partner on the other side.
        crop: Carry over the common rows of tables of unequal length.

    Returns:
        Names in the source that are passed over.

    Raises:
        PortError: Listing everything that is missing, extra or unequal.
    """
    missing = [step.names[0] for step in way.steps if not any(n in present for n in step.names)]
    known = way.names
    others = [name for name in present if name not in known and name not in way.source_own]
    unequal = [s.names[0] for s in way.steps if s.cropped] if not crop else []
    problems = [
        *_problem("missing in the source", missing),
        *_problem("in the source, with no place in the target", [] if partial else others),
        *_problem("in the target, with nothing to fill it", _unfilled(way, partial=partial)),
        *_problem("tables of unequal length", unequal),
    ]
    if problems:
        raise PortError(
            "the weights do not fit: " + "; ".join(text for text, _ in problems),
            context="\n".join(f"{text}: {names}" for text, names in problems),
            hint=_hint(partial=bool(others or way.target_left), crop=bool(unequal)),
        )
    return [*others, *(name for name in present if name in way.source_own)]


def _unfilled(way: Route, *, partial: bool) -> list[str]:
    return [] if partial else [f"{path} ({why})" for path, why in way.target_left.items()]


def _problem(what: str, names: list[str]) -> list[tuple[str, str]]:
    return [(f"{len(names)} {what}", listing(names, limit=len(names)))] if names else []


def _hint(*, partial: bool, crop: bool) -> str:
    words = ["partial leaves alone what has no partner"] if partial else []
    words += ["crop carries over the rows that both tables have"] if crop else []
    return "; ".join(words)
