"""Parity: the evidence that two backends wrote the same answer, and that training kept it."""

from unifreeze._evidence.parity.check import check_parity
from unifreeze._evidence.parity.compare import compare_records
from unifreeze._evidence.parity.record import Order, Record, common_outputs, make_record
from unifreeze._evidence.parity.report import CLAUSES, Clause, Report, Side

__all__ = [
    "CLAUSES",
    "Clause",
    "Order",
    "Record",
    "Report",
    "Side",
    "check_parity",
    "common_outputs",
    "compare_records",
    "make_record",
]
