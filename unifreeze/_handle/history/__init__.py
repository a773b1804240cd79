"""The history of a run, and the report of it: what trained when, and what was measured."""

from unifreeze._handle.history.history import BEFORE, LIMIT, History, HistoryRow
from unifreeze._handle.history.history_report import RunReport, run_report
