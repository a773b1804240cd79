"""Freeze plans: the function from parameters to frozen or trainable, as a value and as a file."""

from unifreeze.plan.model import FORMAT, FreezePlan, Group, NormRule, Rule, describe_choice, pick

__all__ = ["FORMAT", "FreezePlan", "Group", "NormRule", "Rule", "describe_choice", "pick"]
