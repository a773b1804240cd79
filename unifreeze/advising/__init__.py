"""Choosing what to freeze: by the field's rules of thumb, and by measuring a few batches."""

from unifreeze.advising.advice import suggest
from unifreeze.advising.inputs import Inputs
from unifreeze.advising.measured import Measure
from unifreeze.advising.suggestion import Suggestion

__all__ = ["Inputs", "Measure", "Suggestion", "suggest"]
