"""The acceptance report of a port: every check of two models in one document.

`every_check.py` runs the checks, `lines.py` and those beside it turn what they find into lines;
`alignment_report.py` is the report, `words.py` its sentences in English and Chinese.
"""

from unifreeze._evidence.alignment.alignment_report import AlignmentReport
from unifreeze._evidence.alignment.every_check import align

__all__ = ["AlignmentReport", "align"]
