"""Add fixtures to pytest: `assert_parity`, `assert_frozen` and `assert_same_trainability`."""

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


@pytest.fixture
def assert_frozen() -> Callable[..., None]:
    """Return a function that fails the test unless a model's flags are those of a plan.

    def test_my_loop(assert_frozen):
        assert_frozen(model, plan)
    """
    from unifreeze.testing.assertions import assert_frozen as check

    return check


@pytest.fixture
def assert_same_trainability() -> Callable[..., None]:
    """Return a function that fails the test unless the same parameters train in two models.

    def test_my_port(assert_same_trainability):
        assert_same_trainability(torch_model, paddle_model)
    """
    from unifreeze.testing.assertions import assert_same_trainability as check

    return check
