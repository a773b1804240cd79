"""Several plans on one model and one task: what each trains, reaches, takes and holds."""

from unifreeze._authoring.compare.compare_plans import compare_plans
from unifreeze._authoring.compare.comparison import Comparison, PlanRow, PlanRun

__all__ = ["Comparison", "PlanRow", "PlanRun", "compare_plans"]
