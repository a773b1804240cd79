"""Test a backend by its contract, and a plan by the assertion that it has parity."""

from unifreeze.testing.assertions import assert_parity
from unifreeze.testing.contract import CONTRACT
from unifreeze.testing.kit import Example, Kit

__all__ = ["CONTRACT", "Example", "Kit", "assert_parity"]
