"""The history of a run, and the report of it: what trained when, and what was measured."""

from unifreeze.history.history import BEFORE, LIMIT, History, Row
from unifreeze.history.report import RunReport, run_report

__all__ = ["BEFORE", "LIMIT", "History", "Row", "RunReport", "run_report"]
