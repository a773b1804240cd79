"""From a frozen model, or a plan for another port, to the shortest plan that says the same."""

from unifreeze._authoring.capture.capture_model import Capture, capture, capture_spec
from unifreeze._authoring.capture.plan_search import Aim, shortest_plan
from unifreeze._authoring.capture.translation import translate, translate_spec
