"""Test a backend by its contract, and a plan by assertions: what is frozen, and parity."""

from unifreeze.testing.assertions import (
    assert_frozen,
    assert_parity,
    assert_same_trainability,
)
from unifreeze.testing.contract import CONTRACT
from unifreeze.testing.kit import Example, Kit

__all__ = [
    "CONTRACT",
    "Example",
    "Kit",
    "assert_frozen",
    "assert_parity",
    "assert_same_trainability",
]
