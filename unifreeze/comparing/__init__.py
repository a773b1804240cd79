"""Several plans on one model and one task: what each trains, reaches, takes and holds."""

from unifreeze.comparing.compare import compare_plans
from unifreeze.comparing.comparison import Comparison, PlanRow, Run

__all__ = ["Comparison", "PlanRow", "Run", "compare_plans"]
