"""Reentrant recompute above a frozen prefix gives no gradient, and is seen before it does."""

import paddle
import pytest
from paddle import nn
from paddle.distributed.fleet.utils import recompute

import tests.support.paddle_trainer_runs as runs
import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.paddle_nets import Block, rows
from unifreeze.errors import UnsupportedPlanError

CURE = "turn it off: recompute=False in a trainer's arguments, else enable_recompute = False on it"
TOP = uf.FreezePlan().only("head | blocks[-1]")


class Plain(nn.Layer):
    """A stem, blocks and a head; recomputes its blocks as libraries do."""

    def __init__(self, switched_on=False):
        super().__init__()
        paddle.seed(0)
        self.enable_recompute = switched_on
        self.stem = nn.Linear(6, 6)
        self.blocks = nn.LayerList([Block(6, nn.LayerNorm, 0.0) for _ in range(2)])
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = self.run(block, x) if self.enable_recompute and self.training else block(x)
        return self.head(x)

    def run(self, block, x):
        return recompute(block, x)


class InHooks(Plain):
    def run(self, block, x):
        return recompute(block, x, use_reentrant=False)


class Asking(Plain):
    def run(self, block, x):
        return block(x) if x.stop_gradient else recompute(block, x)


class OtherSwitch(Plain):
    def __init__(self, switched_on=False):
        super().__init__()
        self.gradient_checkpointing = switched_on

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = recompute(block, x) if self.gradient_checkpointing else block(x)
        return self.head(x)


class Unswitched(Plain):
    """Recomputes always, by code of its own that nothing can see in advance."""

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = recompute(lambda x, block=block: block(x), x)
        return self.head(x)


SORTS = [Plain, InHooks, Asking, OtherSwitch]


def switch(model, *, on):
    model.enable_recompute = on
    if isinstance(model, OtherSwitch):
        model.gradient_checkpointing = on


def gradients(model):
    """Names of the parameters that a backward pass gives a gradient."""
    model.clear_gradients(set_to_zero=False)
    model.train()
    model(rows()).square().mean().backward()
    return {name for name, tensor in model.named_parameters() if tensor.grad is not None}


def refused(apply):
    try:
        apply()
    except UnsupportedPlanError as error:
        return CURE in str(error)
    return False


@pytest.mark.parametrize("make", SORTS)
@pytest.mark.parametrize("selector", ["head", "head | blocks[-1]", "head | blocks", "all - stem"])
def test_a_plan_is_refused_exactly_where_a_gradient_would_be_lost(make, selector):
    model = make()
    plan = uf.FreezePlan().only(selector)
    handle = plan.apply(model)
    wanted = gradients(model)
    switch(model, on=True)
    lost = gradients(model) != wanted
    assert lost == (make in (Plain, OtherSwitch) and selector != "head")
    assert refused(handle.reapply) == lost
    assert refused(lambda: plan.apply(model)) == lost


@pytest.mark.parametrize("make", SORTS)
def test_something_trained_below_lets_gradient_pass(make):
    model = make(switched_on=True)
    handle = uf.FreezePlan().only("head | blocks[-1] | stem").apply(model)
    assert len(gradients(model)) == 10
    assert handle.check_gradients() == ()


def test_a_later_phase_is_refused_when_the_plan_is_applied():
    plan = uf.FreezePlan.from_yaml(
        "unifreeze: 1\nphases:\n"
        "  - {name: head, rules: [{only: head}]}\n"
        '  - {name: top, at: {epoch: 1}, add: [{train: "blocks[-1]"}]}'
    )
    assert refused(lambda: plan.apply(Plain(switched_on=True)))
    model = Plain()
    handle = plan.apply(model)
    handle.optimizer(paddle.optimizer.SGD, lr=0.1)
    model.enable_recompute = True
    assert refused(lambda: handle.step(epoch=1))


def test_what_cannot_be_seen_in_advance_is_told_by_the_gradients():
    model = Unswitched()
    handle = TOP.apply(model)
    gradients(model)
    assert {f.subject for f in handle.check_gradients()} == {
        name for name, _ in model.named_parameters() if name.startswith("blocks.1.")
    }


def test_a_trainer_that_turns_recompute_on_is_refused(tmp_path):
    with pytest.raises(UnsupportedPlanError, match="reentrant recompute"):
        runs.paddlenlp(tmp_path, TOP, model=Plain(), recompute=True)


def test_a_trainer_that_turns_it_on_after_the_plan_was_applied_is_refused(tmp_path):
    import_torchvision()
    from unifreeze_paddle.trainers.paddlenlp import FreezeCallback

    model = Plain()
    callback = FreezeCallback(TOP.apply(model))
    with pytest.raises(UnsupportedPlanError, match="reentrant recompute"):
        runs.paddlenlp(tmp_path, model=model, callback=callback, recompute=True)


@pytest.fixture
def transformers():
    import_torchvision()
    import paddlenlp.transformers

    return paddlenlp.transformers


def test_a_library_s_stack_that_never_asks_is_refused(transformers):
    sizes = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    model = transformers.T5Model(transformers.T5Config(**sizes))
    model.recompute_enable()
    assert refused(lambda: uf.FreezePlan().only("decoder[-1]").apply(model))
    uf.FreezePlan().only("decoder[-1] | tied").apply(model)


def test_a_library_s_stack_that_asks_trains(transformers):
    config = transformers.ErnieConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    model = transformers.ErnieForSequenceClassification(config)
    model.recompute_enable()
    handle = TOP.apply(model)
    model.train()
    model(paddle.to_tensor([[1, 2, 3]])).square().mean().backward()
    assert handle.check_gradients() == ()
