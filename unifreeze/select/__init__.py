"""The selector language: how a plan names sets of parameters."""

from unifreeze.select.evaluate import evaluate
from unifreeze.select.expression import Expression, Path, Word
from unifreeze.select.parse import parse
from unifreeze.select.selector import Selector
from unifreeze.select.vocabulary import WORDS

__all__ = ["WORDS", "Expression", "Path", "Selector", "Word", "evaluate", "parse"]
