"""Show that two runs of one plan have parity, and that two ports take the same training step.

`clauses.py` lists every clause; `parity_clauses.py` and `step_clauses.py` check them. `record.py`
and `step_side.py` say what a file holds, `parity.py` and `step.py` compare two such files or two
live models, and `report.py` writes the result as text and as data. `alignment` runs every check of
a port for one acceptance report.
"""

from unifreeze._evidence.clauses import PARITY_CLAUSES, STEP_CLAUSES
from unifreeze._evidence.parity import check_parity, compare_records
from unifreeze._evidence.record import Order, Record, common_outputs, make_record
from unifreeze._evidence.report import Report, StepReport
from unifreeze._evidence.step import check_step, compare_sides
from unifreeze._evidence.step_side import StepSide, make_side
from unifreeze._evidence.step_values import on_sketched_values
