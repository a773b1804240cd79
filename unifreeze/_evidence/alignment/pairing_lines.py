"""The lines of pairing: what is which, the certificate, and what has no partner."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from unifreeze._evidence.alignment.lines import MOST_DETAILS, Line, Verdict, measured_line
from unifreeze._numerics.projections import LIMIT
from unifreeze._ports.pairing import Pairing
from unifreeze._ports.pairing.certificate import GRADIENT_LIMIT
from unifreeze._ports.pairing.pairing import zeros_line

IDLE = (
    "its module never ran on this batch",
    "no gradient on this batch tells it from others",
)
"""Reasons of tensors that take no part in the outputs."""


def pairing_lines(pairing: Pairing, filled_rows: Collection[tuple[str, int]]) -> list[Line]:
    """Return the lines of two models that were paired by what they compute.

    Args:
        pairing: The pairing.
        filled_rows: Rows of the first model, by path and number, that are not zero.
    """
    states = sum(row.state for row in pairing.pairs)
    facts: dict[str, str | int | float] = {
        "parameters": len(pairing.pairs) - states,
        "statistics": states,
    }
    return [
        Line(section="pairing", key="paired", verdict="holds", facts=facts),
        *_certificate(pairing),
        *_exceptions(pairing),
        *_zeros(pairing, filled_rows),
    ]


def refused_line(refusal: str) -> Line:
    """Return the line of two models that are not one function."""
    details = tuple(refusal.splitlines())
    return Line(section="pairing", key="not one function", verdict="BROKEN", details=details)


def _certificate(pairing: Pairing) -> Iterator[Line]:
    known = pairing.certificate
    if known is None:
        return
    yield measured_line("pairing", "certificate outputs", known.outputs, LIMIT, "certificate")
    yield measured_line(
        "pairing",
        "certificate gradients",
        known.gradients,
        GRADIENT_LIMIT,
        "certificate",
        count=known.compared,
        worst=known.worst,
    )


def _exceptions(pairing: Pairing) -> Iterator[Line]:
    """Yield what the certificate does not cover, or what is not the same after all."""
    sides = pairing.one.framework, pairing.other.framework
    left = [(row.reason, f"{sides[row.side]}: {row.path}: {row.reason}") for row in pairing.left]
    idle = [text for reason, text in left if reason in IDLE]
    alone = [text for reason, text in left if reason not in IDLE]
    cut = [
        f"{sides[side]}: {path}"
        for path, side in (pairing.certificate.cut if pairing.certificate else ())
    ]
    rows: tuple[tuple[str, Verdict, list[str]], ...] = (
        ("no partner", "BROKEN", alone),
        ("gradient cut off", "BROKEN", cut),
        ("never ran", "open", idle),
    )
    for key, verdict, details in rows:
        if details:
            yield Line(
                section="pairing",
                key=key,
                verdict=verdict,
                facts={"count": len(details)},
                details=tuple(details[:MOST_DETAILS]),
            )


def _zeros(pairing: Pairing, filled_rows: Collection[tuple[str, int]]) -> Iterator[Line]:
    """Yield the rows that one model reads as zeros; they do no harm where they are zeros."""
    sides = pairing.one.framework, pairing.other.framework
    for row in pairing.zeros:
        filled = (row.one, row.row) in filled_rows
        yield Line(
            section="pairing",
            key="read as zeros" if filled else "zeros in both",
            verdict="BROKEN" if filled else "note",
            facts={"row": row.row, "one": row.one},
            details=(zeros_line(row, sides),),
        )
