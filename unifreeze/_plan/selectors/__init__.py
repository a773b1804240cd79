"""The selector language: how a plan names sets of parameters."""

from unifreeze._plan.selectors.bare_norms import StandIns, stand_ins_of
from unifreeze._plan.selectors.evaluate import count_selected, evaluate
from unifreeze._plan.selectors.expression import Expression, Path, Rows, Word
from unifreeze._plan.selectors.parse import parse
from unifreeze._plan.selectors.rows import check_verb
from unifreeze._plan.selectors.selector import Selector
from unifreeze._plan.selectors.vocabulary import WORDS
from unifreeze._plan.selectors.words_with_index import unit_count

__all__ = [
    "WORDS",
    "Expression",
    "Path",
    "Rows",
    "Selector",
    "StandIns",
    "Word",
    "check_verb",
    "count_selected",
    "evaluate",
    "parse",
    "stand_ins_of",
    "unit_count",
]
