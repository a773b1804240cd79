"""For tests: the contract of a backend, and the assertion that a plan has parity."""

from unifreeze.testing.assertions import assert_parity
from unifreeze.testing.contract import CONTRACT, Example, Kit

__all__ = ["CONTRACT", "Example", "Kit", "assert_parity"]
