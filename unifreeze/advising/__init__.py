"""Choosing what to freeze: by the field's rules of thumb, and by measuring a few batches."""

from unifreeze.advising.advice import MADE_UP, suggest
from unifreeze.advising.inputs import Inputs
from unifreeze.advising.measured import Measure
from unifreeze.advising.suggestion import Suggestion

__all__ = ["MADE_UP", "Inputs", "Measure", "Suggestion", "suggest"]
