"""Freezing carried over: from a model, however it was frozen, back to the plan that says so."""

from unifreeze.capturing.captured import Capture, capture, capture_spec
from unifreeze.capturing.shortest import Aim, shortest_plan
from unifreeze.capturing.translation import translate, translate_spec

__all__ = [
    "Aim",
    "Capture",
    "capture",
    "capture_spec",
    "shortest_plan",
    "translate",
    "translate_spec",
]
