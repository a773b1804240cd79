"""Suggesting what to freeze: by the field's rules of thumb, or by measuring a few batches."""

from unifreeze._authoring.suggest.suggest_plan import MADE_UP, suggest
from unifreeze._authoring.suggest.suggestion import Suggestion
from unifreeze._authoring.suggest.task_facts import Task
from unifreeze._authoring.suggest.unit_measures import Measure
