"""Freezing carried over: from a model, however it was frozen, back to the plan that says so."""

from unifreeze._authoring.capture.capture_model import Capture, capture, capture_spec
from unifreeze._authoring.capture.plan_search import Aim, shortest_plan
from unifreeze._authoring.capture.translation import translate, translate_spec

__all__ = [
    "Aim",
    "Capture",
    "capture",
    "capture_spec",
    "shortest_plan",
    "translate",
    "translate_spec",
]
