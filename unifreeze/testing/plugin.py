"""Add one fixture to pytest: `assert_parity`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from unifreeze._evidence import Report


pytest.register_assert_rewrite(
    "unifreeze.testing.description_checks",
    "unifreeze.testing.write_checks",
    "unifreeze.testing.experiment_checks",
)


@pytest.fixture
def assert_parity() -> Callable[..., Report]:
    """Return a function that fails the test unless a plan means the same on two models.

    It takes what `unifreeze.check_parity` takes and returns its report:

        def test_my_plan(assert_parity):
            assert_parity(plan, torch_model, paddle_model, batch=batch)
    """
    from unifreeze.testing.assertions import assert_parity as check

    def run(*args: Any, **kwargs: Any) -> Report:
        __tracebackhide__ = True
        return check(*args, **kwargs)

    return run
