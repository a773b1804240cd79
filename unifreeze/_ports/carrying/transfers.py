"""Which tensor fills which: a pairing read in one direction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from math import prod
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from unifreeze._numerics.projections import Array
from unifreeze._pictures import html_of
from unifreeze._ports.pairing import Pairing, PairRow
from unifreeze._ports.pairing.layout import Part, reshaped
from unifreeze._ports.pairing.pairing import ZerosRow
from unifreeze._tables import one_line
from unifreeze.errors import PortError, counted, listing


class Piece(NamedTuple):
    """A tensor of the source, or a part of it, that fills a tensor of the target, or a part of it.

    Attributes:
        names: The source tensor's names, the first path first.
        shape: Its shape as stored.
        taken: The part of it that is taken; None for the whole.
        placed: The part of the target tensor that it fills; None for the whole.
        shape_placed: Shape of the part that it fills.
        transposed: The target stores it transposed.
        cropped: The two are tables of unequal length.
        trains: The certificate compared its gradient.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    taken: Part | None
    placed: Part | None
    shape_placed: tuple[int, ...]
    transposed: bool
    cropped: bool
    trains: bool


class Transfer(NamedTuple):
    """One tensor of the target, and the pieces that fill it.

    Attributes:
        targets: Its names, the first path first.
        shape: As the target stores it.
        pieces: One piece, or the pieces of a fused tensor.
    """

    targets: tuple[str, ...]
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def is_partly_filled(self) -> bool:
        """True for a fused tensor of which not every part has a partner."""
        part = self.pieces[0].placed
        return part is not None and len(self.pieces) < len(part.sizes)

    def filled(self, read: Callable[[Piece], Array], own: Callable[[], Array]) -> Array:
        """Return the values of the target tensor.

        Args:
            read: Reads a piece's source tensor, whole.
            own: Returns the target's current values, which parts without a partner keep.
        """
        values: Array | None = own().copy() if self.is_partly_filled else None
        for piece in self.pieces:
            array = read(piece)
            array = array if piece.taken is None else piece.taken.take(array)
            array = reshaped(array, piece.shape_placed, transposed=piece.transposed)
            if piece.placed is None:
                return array
            values = np.empty(self.shape, array.dtype) if values is None else values
            piece.placed.put(values, array)
        assert values is not None
        return values


class Route(NamedTuple):
    """A pairing read in one direction.

    Attributes:
        steps: The transfers, one for each tensor of the target that is filled.
        source_left: Tensors of the source that have no partner, with the reason.
        target_left: Tensors of the target that have no partner, with the reason.
        source_own: State that the source's port keeps for itself.
        target_own: State that the target's port keeps for itself.
        zeros: Rows of tables that one port reads as zeros, seen from the source.
        frameworks: Of the source and the target.
    """

    steps: tuple[Transfer, ...]
    source_left: dict[str, str]
    target_left: dict[str, str]
    source_own: frozenset[str]
    target_own: frozenset[str]
    zeros: tuple[ZerosRow, ...]
    frameworks: tuple[str, str]

    def report(
        self,
        passed_over: Iterable[str],
        read: Callable[[Piece], Array],
        repeated: Iterable[str] = (),
    ) -> Ported:
        """Report that all transfers were made; `read` reads a piece's source tensor."""
        return Ported(
            tensors=len(self.steps),
            values=sum(prod(step.shape) for step in self.steps),
            passed_over=tuple(passed_over),
            untouched=tuple(self.target_left),
            notes=_rows_read_as_zeros(self, read),
            repeated=tuple(repeated),
        )

    @property
    def names(self) -> set[str]:
        """Every name that the source's paired tensors go by."""
        return {name for piece in self.pieces for name in piece.names}

    @property
    def pieces(self) -> Iterator[Piece]:
        """Every piece of every step."""
        return (piece for step in self.steps for piece in step.pieces)


class Ported(NamedTuple):
    """Report of what was carried over.

    Attributes:
        tensors: Number of tensors.
        values: Number of values.
        passed_over: Names in the source that have no place in the target.
        untouched: Tensors of the target that nothing was carried to.
        notes: Sentences on what still differs between the ports.
        repeated: Further names in the source for tensors that were carried over.
    """

    tensors: int
    values: int
    passed_over: tuple[str, ...]
    untouched: tuple[str, ...]
    notes: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        return html_of(self)

    def __repr__(self) -> str:
        return one_line(self, str(self).partition("\n")[0])

    def __str__(self) -> str:
        text = f"{counted(self.tensors, 'tensor')} with {self.values:,} values carried over"
        for what, names in (
            ("passed over", self.passed_over),
            ("not touched", self.untouched),
            ("held twice in the source", self.repeated),
        ):
            text += f"\n{what}: {listing(names)}" if names else ""
        return "\n".join([text, *self.notes])


def route(pairing: Pairing, *, reverse: bool) -> Route:
    """Read a pairing from its first model to its second, or in reverse.

    Raises:
        PortError: The pairing was never certified.
    """
    if pairing.certificate is None:
        raise PortError(
            "the pairing has no certificate: the second model was not run on the first's values",
            hint="sketch it with --like the first one's sketch, and pair again",
        )
    pairing = pairing.turned() if reverse else pairing
    unproven = set(pairing.certificate.unproven if pairing.certificate else ())
    steps: dict[str, Transfer] = {}
    for row in pairing.pairs:
        targets, shape = _whole(row.other, row.other_aliases, row.other_shape, row.other_part)
        before = steps.get(targets[0], Transfer(targets, shape, ()))
        piece = _piece(row, trains=not row.state and row.one not in unproven)
        steps[targets[0]] = before._replace(pieces=(*before.pieces, piece))
    left = [{r.path: r.reason for r in pairing.left if r.side == side} for side in (0, 1)]
    return Route(
        steps=tuple(steps.values()),
        source_left=left[0],
        target_left=left[1],
        source_own=frozenset(pairing.one.own_state),
        target_own=frozenset(pairing.other.own_state),
        zeros=pairing.zeros,
        frameworks=(pairing.one.framework, pairing.other.framework),
    )


def _piece(row: PairRow, *, trains: bool) -> Piece:
    names, shape = _whole(row.one, row.one_aliases, row.one_shape, row.one_part)
    return Piece(
        names=names,
        shape=shape,
        taken=row.one_part,
        placed=row.other_part,
        shape_placed=row.other_shape,
        transposed=row.transposed,
        cropped=row.cropped,
        trains=trains,
    )


def _whole(
    path: str, aliases: tuple[str, ...], shape: tuple[int, ...], part: Part | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return names and shape of the whole tensor that a paired tensor is, or is a part of."""
    if part is None:
        return (path, *aliases), shape
    end = f"[{part.number}]"
    whole = (*shape[: part.axis], sum(part.sizes), *shape[part.axis + 1 :])
    return (part.of, *(alias.removesuffix(end) for alias in aliases)), whole


def check_route(
    way: Route,
    present: Collection[str],
    *,
    partial: bool,
    crop: bool,
    wrong: Mapping[str, str] = MappingProxyType({}),
    into_file: bool = False,
    source: str = "the source",
    hint: str = "",
) -> list[str]:
    """Check that a source has all that the route needs, and nothing that has no place.

    Args:
        way: The route.
        present: Every name in the source.
        partial: Allow tensors without a partner.
        crop: Carry over the common rows of tables of unequal length.
        wrong: For tensors of another shape or dtype than the route needs, a description.
        into_file: The target is a file, which has no values of its own.
        source: Name of the source in messages.
        hint: The hint if names are missing.

    Returns:
        Names in the source that are not carried over.

    Raises:
        PortError: Listing everything that is missing, extra or unequal.
    """
    missing = [p.names[0] for p in way.pieces if not any(name in present for name in p.names)]
    known = way.names
    extra = [name for name in present if name not in known and name not in way.source_own]
    extra += [path for path in way.source_left if path.rpartition("[")[0] in known]
    unequal = [p.names[0] for p in way.pieces if p.cropped] if not crop else []
    partly = [step.targets[0] for step in way.steps if step.is_partly_filled]
    partly = [] if partial and not into_file else partly
    unfilled = [] if partial else [f"{path} ({why})" for path, why in way.target_left.items()]
    odd = "".join(f"\n  {name}: {what}" for name, what in wrong.items())
    of_source = counted(len(wrong), f"tensor of {source} is", f"tensors of {source} are")
    problems = [
        *_problem("missing in the source", list(dict.fromkeys(missing))),
        *_problem("in the source, with no place in the target", [] if partial else extra),
        *[(f"{of_source} of another shape or dtype than the model's", odd)] * bool(wrong),
        *_problem("in the target, with nothing to fill it", unfilled),
        *_problem("tables of unequal length", unequal),
        *_problem("in the target, with only parts to fill it", partly),
    ]
    if problems:
        raise PortError(
            "the weights do not fit: " + "; ".join(text for text, _ in problems),
            context="\n".join(f"{text}: {names}" for text, names in problems),
            hint=(hint if missing else "")
            or _hint(
                partial=bool(extra or way.target_left) and not partial,
                crop=bool(unequal),
                wrong=bool(wrong),
                live=into_file and bool(partly),
            ),
        )
    return [*extra, *(name for name in present if name in way.source_own)]


def _rows_read_as_zeros(way: Route, read: Callable[[Piece], Array]) -> tuple[str, ...]:
    """Return a note for each row of a table that is not zero, and that one port reads as zeros.

    Args:
        way: The route.
        read: Reads a piece's source tensor, whole.
    """
    pieces = {piece.names[0]: piece for piece in way.pieces}
    notes = []
    for zeros in way.zeros:
        piece = pieces.get(zeros.one)
        if piece is not None and np.any(read(piece)[zeros.row]):
            here, there = way.frameworks[zeros.side], way.frameworks[1 - zeros.side]
            notes.append(
                f"row {zeros.row} of {zeros.one} is not zero: {here} reads it as zeros and "
                f"{there} as it is, so outputs differ on inputs that hold {zeros.row}"
            )
    return tuple(notes)


def _problem(what: str, names: list[str]) -> list[tuple[str, str]]:
    return [(f"{len(names)} {what}", listing(names, limit=len(names)))] if names else []


def _hint(*, partial: bool, crop: bool, wrong: bool, live: bool) -> str:
    words = ["partial leaves alone what has no partner"] if partial else []
    words += ["uf.port_weights fills a live model, which has values for the rest"] if live else []
    words += ["is it a file of this very configuration?"] if wrong else []
    words += ["crop carries over the rows that both tables have"] if crop else []
    return "; ".join(words)
