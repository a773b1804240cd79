"""Choosing what to freeze: by the field's rules of thumb, and by measuring a few batches."""

from unifreeze._authoring.suggest.facts import Inputs
from unifreeze._authoring.suggest.from_measurements import Measure
from unifreeze._authoring.suggest.suggest_plan import MADE_UP, suggest
from unifreeze._authoring.suggest.suggestion import Suggestion

__all__ = ["MADE_UP", "Inputs", "Measure", "Suggestion", "suggest"]
