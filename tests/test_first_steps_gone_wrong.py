"""Calls that a first user gets wrong, in both frameworks: every answer says what to do next."""

import pytest

import unifreeze as uf
from tests.support.sides import ROWS, SIDES
from unifreeze.errors import UnifreezeError

PHASED = (
    uf.FreezePlan()
    .phase("head", rules={"only": "head"})
    .phase("all", at={"epoch": 1}, add={"train": "all"})
)
CALLS = {
    "a batch of another size": (
        lambda side, handle: handle.estimate(ROWS[:, :2], examples=100),
        "the model does not run on this batch",
        "inputs that its forward takes",
    ),
    "step without a time": (
        lambda side, handle: handle.step(),
        "needs the epoch",
        "handle.step(epoch=epoch)",
    ),
    "an optimizer's state": (
        lambda side, handle: handle.load_state_dict(side.sgd(handle).state_dict()),
        "not a state of a plan",
        "what handle.state_dict() returned",
    ),
    "a misspelt rate": (
        lambda side, handle: side.sgd(handle, learningrate=0.1),
        "cannot be built",
        "did you mean lr=",
    ),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("call", CALLS)
def test_the_answer_says_what_to_do_next(side, call):
    handle = PHASED.apply(side.build())
    make, fact, hint = CALLS[call]
    with pytest.raises(UnifreezeError) as caught:
        make(side, handle)
    assert fact in caught.value.fact
    assert hint in caught.value.hint
    assert "trainable params" in str(handle)
