"""PaddlePaddle: what `verify` says of drift, and what `reapply` and `rebase` do about it.

Rules L and O are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import paddle
import pytest
from paddle import nn

from tests.support.kits.paddle_layers import bits
from tests.support.kits.paddle_nets import Block, Stack, moved, train
from tests.support.paddle_descriptions import flags
from unifreeze import FreezePlan
from unifreeze.errors import FrozenDriftError


def move(model):
    model.stem.weight.set_value(model.stem.weight + 0.5)


def reload(model):
    model.set_state_dict(Stack(blocks=2).state_dict() | {"stem.weight": paddle.ones([6, 6])})


def cast(model):
    model.to(dtype="float64")


def replace(model):
    model.stem.weight = model.create_parameter([6, 6])


def thaw(model):
    model.stem.weight.stop_gradient = False


def lose(model):
    del model.blocks[1]


def normalise(model):
    nn.utils.weight_norm(model.stem)


def grow(model):
    model.blocks.append(Block(6, nn.BatchNorm1D, 0.0))


DRIFTS = {
    "moved": (move, r"stem\.weight: moved \(by at most 0\.5\)"),
    "reloaded": (reload, r"stem\.weight: reloaded"),
    "cast": (cast, r"stem\.weight: cast \(float32 to float64\)"),
    "replaced": (replace, r"stem\.weight: replaced"),
    "thawed": (thaw, r"stem\.weight: thawed"),
    "missing": (lose, r"blocks\.1\.first\.weight: missing"),
    "weight norm": (normalise, r"stem\.weight: replaced(.|\n)*stem\.weight_v: new"),
    "new": (grow, r"blocks\.2\.first\.weight: new"),
}


@pytest.mark.parametrize("kind", DRIFTS)
def test_verify_says_what_became_of_a_frozen_parameter(kind):
    """L, O"""
    change, message = DRIFTS[kind]
    model = Stack()
    handle = FreezePlan().only("head").apply(model, keep_values=True)
    handle.verify()
    change(model)
    with pytest.raises(FrozenDriftError, match=message):
        handle.verify()


@pytest.mark.parametrize("kind", ["replaced", "thawed", "missing", "weight norm", "new"])
def test_reapplying_takes_a_changed_structure_in(kind):
    """O: what came in is frozen, and a new head trains."""
    model = Stack()
    handle = FreezePlan().only("head").apply(model)
    DRIFTS[kind][0](model)
    model.head = nn.Linear(6, 5)
    handle.reapply()
    handle.verify()
    trained = {name for name, frozen in flags(model).items() if not frozen}
    assert trained == {"head.weight", "head.bias"}
    before = bits(model)
    train(model, handle.optimizer(paddle.optimizer.AdamW, lr=0.1, weight_decay=0.1))
    assert moved(model, before) <= {"head.weight", "head.bias", "stem.weight"}
    handle.verify()


def test_taking_weight_norm_off_a_frozen_layer_is_told_and_taken_in():
    """O: Paddle puts a trainable weight in place of the two."""
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 6)), nn.Linear(6, 3))
    handle = FreezePlan().freeze("path:'0'").apply(model)
    nn.utils.remove_weight_norm(model[0])
    assert not model[0].weight.stop_gradient
    with pytest.raises(FrozenDriftError) as caught:
        handle.verify()
    kinds = {drift.path: drift.kind for drift in caught.value.drifts}
    assert kinds == {"0.weight_g": "missing", "0.weight_v": "missing", "0.weight": "new"}
    handle.reapply()
    before = bits(model)
    train(model, paddle.optimizer.AdamW(0.1, parameters=model.parameters(), weight_decay=0.1))
    assert moved(model, before) == {"1.weight", "1.bias"}
    handle.verify()


def test_reapplying_still_finds_what_had_moved():
    model = Stack()
    handle = FreezePlan().only("head").apply(model)
    move(model)
    model.head = nn.Linear(6, 5)
    handle.reapply()
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: moved"):
        handle.verify()


@pytest.mark.parametrize("kind", ["reloaded", "cast"])
def test_rebasing_accepts_the_values_there_are(kind):
    model = Stack()
    handle = FreezePlan().only("head").apply(model)
    DRIFTS[kind][0](model)
    handle.rebase()
    handle.verify()
    move(model)
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: moved"):
        handle.verify()


@pytest.mark.parametrize("method", ["set_state_dict", "set_dict", "load_dict"])
def test_a_state_dict_loaded_into_a_wrapper_is_told_from_a_move(method):
    wrapped = paddle.DataParallel(Stack())
    handle = FreezePlan().only("head").apply(wrapped)
    state = {name: value + 1.0 for name, value in wrapped.state_dict().items()}
    getattr(wrapped, method)(state)
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: reloaded") as caught:
        handle.verify()
    assert {drift.kind for drift in caught.value.drifts} == {"reloaded"}
