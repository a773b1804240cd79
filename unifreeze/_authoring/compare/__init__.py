"""Training one model under several plans, and comparing metrics, time and memory."""

from unifreeze._authoring.compare.comparison import Comparison, PlanRow, PlanRun
from unifreeze._authoring.compare.plan_trials import compare_plans
