"""Parameters that a network's own code keeps fixed, and tensors with several names."""

from __future__ import annotations

import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.zoo import runnable
from unifreeze.errors import FixedParameterError, TrivialPlanError


class TorchBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)


class PaddleBlock(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.up, self.down = paddle.nn.Linear(4, 8), paddle.nn.Linear(8, 4)


class TorchMAE(torch.nn.Module):
    """A masked autoencoder as it is usually written: two fixed tables on the root itself."""

    def __init__(self):
        super().__init__()
        linear, table = torch.nn.Linear, torch.nn.Parameter
        self.patch_embed, self.cls_token = linear(4, 4), table(torch.zeros(1, 1, 4))
        self.pos_embed = table(torch.zeros(1, 5, 4), requires_grad=False)
        self.blocks = torch.nn.ModuleList([TorchBlock() for _ in range(2)])
        self.decoder_embed, self.mask_token = linear(4, 4), table(torch.zeros(1, 1, 4))
        self.decoder_pos_embed = table(torch.zeros(1, 5, 4), requires_grad=False)
        self.decoder_pred = linear(4, 4)


class PaddleMAE(paddle.nn.Layer):
    """The same in Paddle."""

    def __init__(self):
        super().__init__()
        linear = paddle.nn.Linear
        fixed = paddle.ParamAttr(trainable=False)
        self.patch_embed, self.cls_token = linear(4, 4), self.create_parameter([1, 1, 4])
        self.pos_embed = self.create_parameter([1, 5, 4], attr=fixed)
        self.blocks = paddle.nn.LayerList([PaddleBlock() for _ in range(2)])
        self.decoder_embed, self.mask_token = linear(4, 4), self.create_parameter([1, 1, 4])
        self.decoder_pos_embed = self.create_parameter([1, 5, 4], attr=fixed)
        self.decoder_pred = linear(4, 4)


class Fourier(torch.nn.Module):
    """Random frequencies, kept as a parameter that is never trained, alone in its module."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4), requires_grad=False)


def fourier():
    embed = torch.nn.Sequential(Fourier(), torch.nn.Linear(8, 4))
    return torch.nn.ModuleDict({"time_embed": embed, "out": torch.nn.Linear(4, 4)})


def fixed_kernels():
    """Bilinear upsampling by transposed convolutions, as in fully convolutional networks."""
    names = ("score2", "score4", "score8")
    net = torch.nn.ModuleDict({f"conv{n}": torch.nn.Conv2d(4, 4, 3) for n in range(4)})
    for name in names:
        net[name] = torch.nn.ConvTranspose2d(4, 4, 4, bias=False)
        net[name].weight.requires_grad = False
    return net


def dino_head(wrap):
    def make():
        net = torch.nn.ModuleDict({"mlp": torch.nn.Linear(4, 4)})
        net["last_layer"] = wrap(torch.nn.Linear(4, 8, bias=False))
        gain = next(p for n, p in net.named_parameters() if n.endswith(("weight_g", "original0")))
        gain.requires_grad = False
        return net

    return make


def whisper_encoder():
    net = torch.nn.ModuleDict({"conv1": torch.nn.Conv1d(4, 4, 3)})
    net["embed_positions"] = torch.nn.Embedding(9, 4)
    net["embed_positions"].requires_grad_(False)
    net["layers"] = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(3)])
    return net


def paddle_table():
    net = paddle.nn.LayerDict({"words": paddle.nn.Embedding(9, 4), "out": paddle.nn.Linear(4, 4)})
    net["positions"] = paddle.nn.Embedding(9, 4)
    net["positions"].weight.stop_gradient = True
    return net


MADE = {
    "tables on the root": TorchMAE,
    "tables on the root (paddle)": PaddleMAE,
    "random frequencies": fourier,
    "fixed kernels": fixed_kernels,
    "gain of weight norm": dino_head(torch.nn.utils.weight_norm),
    "gain of a parametrization": dino_head(torch.nn.utils.parametrizations.weight_norm),
    "table of positions": whisper_encoder,
    "table of positions (paddle)": paddle_table,
}


def frozen(model):
    """Names of what does not train, read from the framework."""
    named = model.named_parameters()
    if isinstance(model, paddle.nn.Layer):
        return {name for name, p in named if p.stop_gradient}
    return {name for name, p in named if not p.requires_grad}


CATCH_ALLS = {
    "train: all": uf.FreezePlan().train("all"),
    "freeze, then train": uf.FreezePlan().freeze("all").train("all"),
    "train but biases": uf.FreezePlan().train("all").freeze("bias"),
}


@pytest.mark.parametrize("catch_all", CATCH_ALLS)
@pytest.mark.parametrize("make", MADE.values(), ids=list(MADE))
def test_a_constant_stays_frozen_under_a_catch_all(make, catch_all):
    model = make()
    constants = frozen(model)
    handle = CATCH_ALLS[catch_all].apply(model)
    assert constants <= frozen(model)
    assert bool(frozen(model) - constants) == (catch_all == "train but biases")
    told = "\n".join(handle.resolution.notices)
    assert "a constant of the network" in told
    assert "train: path:" in told
    handle.remove()
    assert frozen(model) == constants


@pytest.mark.parametrize("make", MADE.values(), ids=list(MADE))
def test_the_rule_that_the_notice_gives_trains_a_constant(make):
    model = make()
    constants = sorted(frozen(model))
    plan = uf.FreezePlan().train("all")
    for name in constants:
        plan = plan.train(f'path:"{name}"')
    handle = plan.apply(model)
    assert not frozen(model)
    handle.verify()


def test_a_rule_about_constants_alone_trains_them():
    model = whisper_encoder()
    uf.FreezePlan().train("all").train("position_embeddings").apply(model)
    assert not frozen(model)


def test_a_tensor_that_cannot_train_is_refused_though_a_rule_is_about_it_alone():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    codes = torch.nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    model["a"].register_parameter("codes", codes)
    with pytest.raises(FixedParameterError, match="int8 tensor has no gradient"):
        uf.FreezePlan().freeze("b").train("**.codes").apply(model)


def test_constants_stay_frozen_in_every_phase_of_a_generator():
    plan = uf.FreezePlan.from_yaml(
        "{unifreeze: 1, phases: [{name: down, gradual_unfreezing: {every: {epochs: 1}}}]}"
    )
    for model in (TorchMAE(), PaddleMAE()):
        constants = frozen(model)
        handle = plan.apply(model)
        cls = paddle.optimizer.SGD if isinstance(model, PaddleMAE) else torch.optim.SGD
        handle.optimizer(cls, lr=0.1)
        for epoch in range(6):
            handle.step(epoch=epoch)
            assert constants <= frozen(model)
        assert frozen(model) == constants


def test_a_suggested_plan_leaves_constants_alone():
    model = TorchMAE()
    constants = frozen(model)
    plan = uf.suggest(model, examples=100_000, similarity="different").plan
    handle = plan.apply(model)
    assert constants <= frozen(model)
    assert "constant" in "\n".join(handle.resolution.notices)


def test_a_table_frozen_by_hand_is_like_any_other():
    model = runnable("bert", "torch")
    model.bert.embeddings.position_embeddings.requires_grad_(False)
    uf.FreezePlan().train("all").apply(model)
    assert frozen(model) == {"bert.embeddings.position_embeddings.weight"}


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_a_part_that_a_loop_froze_is_thawed_and_counted(framework):
    model = runnable("bert", framework)
    layers = model.bert.encoder.layer if framework == "torch" else model.bert.encoder.layers
    for parameter in layers[0].parameters():
        if framework == "torch":
            parameter.requires_grad = False
        else:
            parameter.stop_gradient = True
    count = len(frozen(model))
    handle = uf.FreezePlan().train("all").apply(model)
    assert not frozen(model)
    assert f"{count} parameters were found frozen, and train" in str(handle.resolution)


def test_projections_that_a_loop_froze_two_by_two_are_thawed():
    attention = torch.nn.ModuleDict({n: torch.nn.Linear(4, 4, bias=False) for n in "qkvo"})
    model = torch.nn.ModuleDict({"attention": attention, "out": torch.nn.Linear(4, 4)})
    model["attention"]["q"].requires_grad_(False)
    model["attention"]["k"].requires_grad_(False)
    uf.FreezePlan().train("all").apply(model)
    assert not frozen(model)


def biases_only(name):
    return name.endswith("bias")


def norms_only(name):
    return "bn" in name or "downsample.1" in name or "norm" in name.lower()


@pytest.mark.parametrize("network", ["resnet50", "bert", "llama"])
@pytest.mark.parametrize("trains", [biases_only, norms_only])
def test_what_a_loop_over_names_froze_is_thawed(network, trains):
    """Biases alone, norms alone: most weights then stand frozen beside something that trains."""
    model = runnable(network, "torch")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = trains(name)
    handle = uf.FreezePlan().train("all").apply(model)
    assert not frozen(model), handle.resolution


def test_what_adapters_left_frozen_is_no_constant():
    model = runnable("bert with lora", "torch")
    assert frozen(model)
    handle = uf.FreezePlan().train("all").apply(model)
    assert not frozen(model)
    assert "constant" not in str(handle.resolution)


# Tensors with several names ----------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize("verb", ["freeze", "train"])
def test_a_rule_on_one_name_of_a_tied_tensor_names_the_others(framework, verb):
    model = runnable("bert for masked words", framework)
    plan = uf.FreezePlan().freeze("all") if verb == "train" else uf.FreezePlan()
    plan = getattr(plan, verb)('path:"bert.embeddings"')
    if verb == "train":
        # Every name was frozen by a rule, so that they now disagree.
        with pytest.raises(uf.UnifreezeError, match="one tensor with two decisions"):
            plan.resolve(model)
        return
    notices = "\n".join(plan.resolve(model).notices)
    assert "also freezes cls.predictions.decoder.weight: the same tensor as" in notices


def test_no_notice_where_a_rule_takes_every_name():
    model = runnable("bert for masked words", "torch")
    plan = uf.FreezePlan().freeze('path:"bert.embeddings" | path:"cls.predictions"')
    assert "same tensor" not in "\n".join(plan.resolve(model).notices)


def test_a_tie_that_leaves_nothing_trainable_is_named():
    body, head = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9, bias=False)
    head.weight = body.weight
    model = torch.nn.ModuleDict({"body": body, "head": head})
    with pytest.raises(TrivialPlanError, match=r"also freezes head\.weight: the same tensor"):
        uf.FreezePlan().freeze('path:"body"').apply(model)
