"""The comparison that other tests rest on lets rounding pass, and nothing else."""

import numpy as np
import pytest

from tests.support.rounding import LIMIT, check_same, nudged

DRAWN = np.random.default_rng(0).standard_normal(100)


def added_up(array, order):
    """A sum in an order of its own, as another processor would have it."""
    total = array.dtype.type(0)
    for number in order:
        total += array[number]
    return np.asarray(total)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_another_order_of_a_sum_is_the_same(dtype):
    values = (1e3 * DRAWN).astype(dtype)
    sums = [added_up(values, np.random.default_rng(n).permutation(100)) for n in range(20)]
    assert len({float(total) for total in sums}) > 1
    near = added_up(nudged(values), range(100))
    for total in sums:
        check_same(total, sums[0], near=near)
        if dtype == "float64":
            check_same(total, sums[0])


@pytest.mark.parametrize("change", [10 * LIMIT, -1e-3, np.nan, np.inf])
def test_one_value_that_is_wrong_is_not_the_same(change):
    wrong = DRAWN.copy()
    wrong[np.abs(DRAWN).argmin()] += change * np.abs(DRAWN).max()
    with pytest.raises(AssertionError, match="w"):
        check_same({"w": wrong}, {"w": DRAWN})


def test_in_single_precision_what_is_wrong_by_more_than_noise_is_not_the_same():
    right = DRAWN.astype("float32")
    check_same(nudged(right), right, near=nudged(right))
    with pytest.raises(AssertionError):
        check_same(right * np.float32(1.001), right, near=nudged(right))
    with pytest.raises(AssertionError, match="double precision"):
        check_same(right, right)


def test_a_small_tensor_is_held_to_its_own_size():
    expected = {"large": DRAWN, "small": 1e-3 * DRAWN}
    check_same(expected, expected)
    with pytest.raises(AssertionError, match="small"):
        check_same({**expected, "small": expected["small"] * (1 + 100 * LIMIT)}, expected)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": None}, {"a": DRAWN}),
        ({"a": DRAWN}, {"a": None}),
        ({"a": DRAWN}, {"a": DRAWN, "b": DRAWN}),
        ({"a": DRAWN.astype("float32")}, {"a": DRAWN}),
        ({"a": DRAWN[:50]}, {"a": DRAWN}),
        ({"a": np.zeros(3)}, {"a": np.ones(3)}),
        ({"a": np.full(3, 1e-12)}, {"a": np.zeros(3)}),
    ],
    ids=["missing", "extra", "other names", "other dtype", "other shape", "zeros", "no zeros"],
)
def test_what_is_not_alike_is_not_the_same(found, expected):
    with pytest.raises(AssertionError):
        check_same(found, expected)


def test_a_nudge_moves_every_value_by_about_a_unit_and_whole_numbers_not_at_all():
    right = DRAWN.astype("float32")
    gap = np.abs(nudged(right).astype("float64") - right) / np.abs(right)
    assert 0 < gap.min() <= gap.max() < 3 * np.finfo("float32").eps
    assert np.array_equal(nudged(np.arange(5)), np.arange(5))
