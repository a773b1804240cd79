"""The selector language: how a plan names sets of parameters."""

from unifreeze.select.evaluate import count_selected, evaluate, unit_count
from unifreeze.select.expression import Expression, Path, Word
from unifreeze.select.parse import parse
from unifreeze.select.paths import find_module
from unifreeze.select.selector import Selector
from unifreeze.select.stand_ins import StandIns, stand_ins_of
from unifreeze.select.vocabulary import WORDS

__all__ = [
    "WORDS",
    "Expression",
    "Path",
    "Selector",
    "StandIns",
    "Word",
    "count_selected",
    "evaluate",
    "find_module",
    "parse",
    "stand_ins_of",
    "unit_count",
]
