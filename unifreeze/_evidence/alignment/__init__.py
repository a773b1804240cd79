"""The acceptance report of a port: every check of two models in one document.

`measuring.py` measures one model, which gives an `AlignmentSide`; `side_lines.py` compares two of
them, and the files beside it turn what differs into lines. `every_check.py` does all of it with two
live models, `side_files.py` with one at a time. `alignment_report.py` is the report, `words.py` its
sentences in English and Chinese, with `setting_words.py` and `finding_words.py` for what it quotes.
"""

from unifreeze._evidence.alignment.alignment_report import AlignmentReport
from unifreeze._evidence.alignment.alignment_side import AlignmentSide
from unifreeze._evidence.alignment.every_check import Checks, align
from unifreeze._evidence.alignment.measuring import Task
from unifreeze._evidence.alignment.placed_pairing import pair_by_place, placed_by_sketch
from unifreeze._evidence.alignment.side_files import (
    save_first_side,
    save_second_side,
    weights_beside,
)
from unifreeze._evidence.alignment.side_lines import compare_alignment_sides

__all__ = [
    "AlignmentReport",
    "AlignmentSide",
    "Checks",
    "Task",
    "align",
    "compare_alignment_sides",
    "pair_by_place",
    "placed_by_sketch",
    "save_first_side",
    "save_second_side",
    "weights_beside",
]
