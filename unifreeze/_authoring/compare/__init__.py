"""Several plans on one model and one task: what each trains, reaches, takes and holds."""

from unifreeze._authoring.compare.comparison import Comparison, PlanRow, PlanRun
from unifreeze._authoring.compare.plan_trials import compare_plans

__all__ = ["Comparison", "PlanRow", "PlanRun", "compare_plans"]
