"""The lines of plan parity, read with a pairing that says more than names and places do."""

from __future__ import annotations

from collections.abc import Collection

from unifreeze._evidence.alignment.lines import Line, clause_line
from unifreeze._evidence.alignment.pairing_lines import IDLE
from unifreeze._evidence.report import ClauseResult
from unifreeze._ports.pairing import Pairing


def parity_line(
    clause: ClauseResult, pairing: Pairing | None, coarse: Collection[str] = ()
) -> Line:
    """Return a clause of parity as a line.

    Parity lists parameters by their places. Where the models were paired by what they compute, the
    pairing decides which parameters both have, and the section on pairing judges the rest.

    Args:
        clause: How the clause came out.
        pairing: The pairing; None where there is none.
        coarse: Native paths of parameters in half precision, where a step may be too small to move
            any value.
    """
    line = clause_line("parity", f"parity: {clause.name}", clause)
    proved = pairing is not None and pairing.certificate is not None and pairing.certificate.dtype
    if pairing is None or not proved or line.verdict != "BROKEN":
        return line
    if clause.name == "parameters":
        return Line(section="parity", key="parity: paired", verdict="note")
    idle = {row.path for row in pairing.left if row.reason in IDLE}
    idle |= set(coarse) if clause.name == "trained" else set()
    errors = [finding for finding in clause.findings if finding.severity == "error"]
    if all(finding.subject in idle for finding in errors):
        return line.model_copy(update={"verdict": "open"})
    return line
