"""Parity: the evidence that two backends wrote the same answer, and that training kept it."""

from unifreeze.parity.check import check_parity
from unifreeze.parity.compare import compare_records
from unifreeze.parity.record import Order, Record, common_outputs, make_record
from unifreeze.parity.report import CLAUSES, Clause, Report, Side

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
