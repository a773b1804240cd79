"""What a handle tells loggers and readers: scalars, and the paragraph for a model card."""

import re

import pytest

import unifreeze as uf
from tests.support.sides import SIDES, named

PHASES = (
    uf.FreezePlan()
    .phase("head", rules={"only": "head"}, lr=1e-3)
    .phase("all", at={"epoch": 1}, add={"train": "all"}, lr=1e-4)
)


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


@pytest.fixture
def adamw(side):
    return side.optimizers.AdamW


@pytest.fixture
def model(side, kits):
    return kits[side.__name__.lower()].plain.make()


def test_scalars_follow_the_phases(model, adamw):
    handle = PHASES.apply(model)
    before = handle.scalars()
    assert before == {"unifreeze/phase": 0.0, "unifreeze/trained_share": pytest.approx(21 / 213)}
    handle.optimizer(adamw)
    handle.step(epoch=0)
    rates = {name: rate for name, rate in handle.scalars().items() if "/lr/" in name}
    assert list(rates.values()) == [pytest.approx(1e-3)]
    assert handle.rates() == {name.removeprefix("unifreeze/lr/"): r for name, r in rates.items()}
    handle.step(epoch=1)
    after = handle.scalars()
    assert after["unifreeze/phase"] == 1.0
    assert after["unifreeze/trained_share"] == 1.0
    assert [r for name, r in after.items() if "/lr/" in name] == [pytest.approx(1e-4)]
    assert all(isinstance(value, float) for value in after.values())


def test_a_plan_without_phases_has_none_to_log(model):
    handle = uf.FreezePlan().only("head").apply(model)
    assert set(handle.scalars()) == {"unifreeze/trained_share"}


def test_a_card_holds_the_plan_the_shares_and_what_was_measured(side, model, adamw):
    plan = PHASES.phase("head again", at={"epoch": 2}, rules={"only": "head"})
    handle = plan.apply(model)
    handle.optimizer(adamw)
    for epoch in range(3):
        handle.step(epoch=epoch, metrics={"val_loss": 0.5} if epoch else None)
    card = handle.model_card()
    assert (
        f"213 of 213 values (100.0 %) were trained, with {side.__name__.lower()} and unifreeze"
        in card
    )
    assert "up to the phase 'head again'" in card
    assert "0.5" in card
    assert uf.FreezePlan.from_yaml(re.search(r"```yaml\n(.*?)```", card, re.S)[1]) == plan


def test_a_card_says_if_something_frozen_moved(side, model):
    handle = uf.FreezePlan().only("head").apply(model)
    verified = handle.verify()
    kept = f"{verified.parameters} frozen parameters and {verified.states} held state tensors are"
    assert kept in handle.model_card()
    rows = zip(handle.resolution.spec.parameters, handle.resolution.trainable, strict=True)
    frozen = {row.path for row, trainable in rows if not trainable}
    side.write(next(tensor for name, tensor in named(model) if name in frozen))
    card = handle.model_card()
    assert "What was frozen did not all keep its values" in card
    assert "bit for bit" not in card
