"""PaddlePaddle: wrappers, ties, lazy and traced models, and what verify, reapply and remove do.

Rules H, L, M and O are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import textwrap

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.base.framework import EagerParamBase

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.paddle_layers import Above, bits, floats, gradients, weighted
from tests.support.kits.paddle_nets import Block, Stack, loss_of, moved, train
from tests.support.rounding import check_same
from unifreeze import FreezePlan
from unifreeze._modules.digests import digest
from unifreeze._protocol import load_backend
from unifreeze.errors import (
    FrozenDriftError,
    OptimizerError,
    TieConflictError,
    TrivialPlanError,
    UndecidedRuleError,
    UnifreezeError,
    UnmatchedSelectorError,
    UnsupportedPlanError,
    WriteError,
)

BACKEND = load_backend("paddle")


def paths(model):
    return [p.path for p in BACKEND.describe(model).parameters]


def names(model):
    return [p.name for p in BACKEND.describe(model).parameters]


def inside(model):
    """Everything that hangs on each layer, with the identity of each value that has one.

    Paddle itself notes in `_built` that a layer with hooks has run. What stands in for a forward
    pass may be made anew, and counts by its sort.
    """
    found = {}
    for name, layer in model.named_sublayers(include_self=True):
        for key, value in vars(layer).items():
            if key == "_built":
                continue
            held = list(value.items()) if isinstance(value, dict) else [("", value)]
            found[name, key] = [
                (k, v if isinstance(v, bool | int | None) else getattr(v, "guard", named(key, v)))
                for k, v in held
            ]
    return found


def named(key, value):
    return type(value) if key == "forward" else id(value)


def flags(model):
    return {name: p.stop_gradient for name, p in model.named_parameters()}


# Wrappers ----------------------------------------------------------------------------------------


def test_data_parallel_is_seen_through():
    model = Stack()
    wrapped = paddle.DataParallel(model)
    assert paths(wrapped) == paths(Stack())
    assert names(wrapped) == names(Stack())
    handle = FreezePlan().freeze("blocks[0]").apply(wrapped)
    before = bits(model)
    train(wrapped, handle.optimizer(paddle.optimizer.AdamW, lr=0.1))
    handle.verify()
    assert not {name for name in moved(model, before) if name.startswith("blocks.0")}
    assert uf.resolve(handle.plan, model).frozen_paths == handle.resolution.frozen_paths


def test_a_plan_that_changes_flags_under_data_parallel_is_refused(monkeypatch):
    """H: with several processes gradients would silently no longer be shared."""
    model = Stack()
    plan = FreezePlan().freeze("blocks[0]")
    wrapped = paddle.DataParallel(model)
    monkeypatch.setattr(paddle.distributed, "get_world_size", lambda: 2)
    before = flags(model)
    with pytest.raises(UnsupportedPlanError, match="apply the plan first, then wrap"):
        plan.apply(wrapped)
    assert flags(model) == before
    plan.apply(model)
    plan.apply(wrapped)


@pytest.mark.parametrize(
    "around",
    [
        lambda wrapped: {"student": wrapped, "teacher": Stack()},
        lambda wrapped: nn.Sequential(wrapped, nn.Linear(3, 2)),
        paddle.Model,
    ],
    ids=["one of several", "nested", "high-level model"],
)
def test_data_parallel_is_found_wherever_it_is(around, monkeypatch):
    """H"""
    model = around(paddle.DataParallel(Stack()))
    monkeypatch.setattr(paddle.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UnsupportedPlanError, match="apply the plan first, then wrap"):
        FreezePlan().freeze("**.weight").apply(model)


class Rows(paddle.io.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return floats(8, 6)[index], floats(8, 3)[index]


def test_the_high_level_model_is_seen_through_and_trains_under_a_plan():
    """G: it calls `train()` on the network before every batch."""
    network = Stack()
    model = paddle.Model(network)
    assert paths(model) == paths(network)
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    model.prepare(handle.optimizer(paddle.optimizer.AdamW, lr=0.1), nn.MSELoss())
    before = bits(network)
    model.fit(Rows(), epochs=2, batch_size=4, verbose=0)
    handle.verify()
    assert "head.weight" in moved(network, before)
    assert "blocks.1.norm._mean" in moved(network, before)


@pytest.fixture(scope="module")
def nlp():
    import_torchvision()
    import paddlenlp.transformers
    from paddlenlp import peft

    class Nlp:
        transformers = paddlenlp.transformers
        config = paddlenlp.transformers.BertConfig(
            vocab_size=30, hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=16, num_labels=2,
        )  # fmt: skip
        lora = staticmethod(
            lambda model: peft.LoRAModel(
                model, peft.LoRAConfig(target_modules=[".*q_proj.*", ".*v_proj.*"], r=2)
            )
        )

    return Nlp


def test_adapters_are_seen_through_and_shift_no_count(nlp):
    base = nlp.transformers.BertForSequenceClassification(nlp.config)
    before = names(base)
    wrapped = nlp.lora(base)
    adapters = [p for p in BACKEND.describe(wrapped).parameters if p.kind == "adapter"]
    assert len(adapters) == 12
    assert {p.name for p in adapters if p.name.startswith("blocks.0/")} == {
        "blocks.0/linear.0/lora_A", "blocks.0/linear.0/lora_B",
        "blocks.0/linear.2/lora_A", "blocks.0/linear.2/lora_B",
    }  # fmt: skip
    assert [name for name in names(wrapped) if "lora" not in name] == before


def test_adapters_and_head_alone_can_be_trained(nlp):
    model = nlp.lora(nlp.transformers.BertForSequenceClassification(nlp.config))
    handle = FreezePlan().only("adapter | head").apply(model)
    trained = {name for name, frozen in flags(model).items() if not frozen}
    assert trained == {name for name in flags(model) if re.search("lora|pooler|classifier", name)}
    ids = paddle.to_tensor([[1, 2, 3], [4, 5, 6]])
    before = bits(model)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model(ids).sum().backward()
        assert handle.check_gradients() == ()
        optimizer.step()
        optimizer.clear_grad()
    handle.verify()
    assert {name for name in moved(model, before) if "lora_B" in name}
    assert moved(model, before) <= trained


def test_frozen_norms_of_a_language_model_pass_the_right_gradient(nlp):
    """A model just made would not show it: its scales are one."""
    paddle.seed(0)
    model = nlp.transformers.BertForSequenceClassification(nlp.config).to(dtype="float64")
    model.eval()
    rng = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if "norm" in name.lower():
            parameter.set_value(rng.standard_normal(parameter.shape))
    ids = paddle.to_tensor([[1, 2, 3], [4, 5, 6]])
    expected = gradients(model, ids)
    FreezePlan().freeze("norm").apply(model)
    found = gradients(model, ids)
    assert sum(gradient is None for gradient in found.values()) == 14
    frozen = {name for name, gradient in found.items() if gradient is None}
    check_same(found, expected | dict.fromkeys(frozen))


# Ties --------------------------------------------------------------------------------------------


def test_a_tied_parameter_is_one_with_a_second_name(nlp):
    """Paddle lists only its first name."""
    model = nlp.transformers.BertForMaskedLM(nlp.config)
    tied = {p.path: p.aliases for p in BACKEND.describe(model).parameters if p.aliases}
    assert tied["bert.embeddings.word_embeddings.weight"] == ("cls.predictions.decoder.weight",)
    assert len(paths(model)) == len({id(p) for p in model.parameters()})


@pytest.mark.parametrize(
    "name", ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"]
)
def test_a_tied_parameter_is_frozen_by_either_name(nlp, name):
    model = nlp.transformers.BertForMaskedLM(nlp.config)
    handle = FreezePlan().freeze(f'path:"{name}"').apply(model)
    assert handle.resolution.frozen_paths == ("bert.embeddings.word_embeddings.weight",)
    assert model.bert.embeddings.word_embeddings.weight.stop_gradient
    assert sum(flags(model).values()) == 1


def test_layers_that_share_a_parameter_are_seen_to():
    model = Stack()
    model.blocks[1].first.weight = model.blocks[0].first.weight
    tied = [p for p in BACKEND.describe(model).parameters if p.aliases]
    assert [(p.path, p.aliases) for p in tied] == [
        ("blocks.0.first.weight", ("blocks.1.first.weight",))
    ]


def test_parameters_over_one_memory_must_be_decided_alike():
    """Training the one would move the other."""
    model = Stack()
    one, other = model.blocks[0].first.weight, model.blocks[1].first.weight
    other.get_tensor()._share_data_with(one.get_tensor())
    assert one.data_ptr() == other.data_ptr()
    with pytest.raises(TieConflictError, match="share memory"):
        FreezePlan().freeze("blocks[0]").resolve(model)
    FreezePlan().freeze("blocks").apply(model).verify()


# Lazy models -------------------------------------------------------------------------------------


def test_a_lazy_model_is_described_resolved_and_put_under_a_plan():
    with paddle.LazyGuard():
        lazy = Stack()
    assert names(lazy) == names(Stack())
    assert BACKEND.describe(lazy).parameters[0].values == 36
    handle = FreezePlan().only("head").apply(lazy)
    assert handle.resolution.counts() == (21, 255)
    assert handle.verify()[:3] == (0, 0, 18)  # 14 parameters and 4 statistics, none seen
    for parameter in lazy.parameters():
        parameter.initialize()
    assert flags(lazy)["stem.weight"] is True
    handle.rebase()
    before = bits(lazy)
    train(lazy, handle.optimizer(paddle.optimizer.AdamW, lr=0.1))
    assert moved(lazy, before) == {"head.weight", "head.bias"}
    handle.verify()


def test_a_large_model_can_be_planned_before_it_has_any_values():
    with paddle.LazyGuard():
        layer = nn.TransformerEncoderLayer(768, 12, 3072)
        model = nn.Sequential(nn.Embedding(30000, 768), nn.TransformerEncoder(layer, 12))
    resolution = FreezePlan().freeze("embedding | blocks[:6]").resolve(model)
    assert resolution.counts()[1] == 30000 * 768 + 12 * 7_087_872
    assert resolution.counts()[0] == 6 * 7_087_872
    assert not model[0].weight._is_initialized()


# Traced models -----------------------------------------------------------------------------------


class Decorated(Stack):
    @paddle.jit.to_static(full_graph=True)
    def forward(self, x):
        return super().forward(x)


def traced_whole():
    return paddle.jit.to_static(Stack(), full_graph=True)


@pytest.mark.parametrize("make", [traced_whole, Decorated])
def test_a_model_already_traced_whole_is_refused_with_the_cure(make):
    """M: a plan would have no effect on it, silently."""
    model = make()
    before = flags(model)
    FreezePlan().freeze("blocks[0]").apply(model).remove()
    loss_of(model)
    with pytest.raises(UnsupportedPlanError, match=r"already traced(.|\n)*then call to_static"):
        FreezePlan().freeze("blocks[0]").apply(model)
    assert flags(model) == before


def test_flags_are_not_changed_behind_a_whole_trace():
    """M: neither by removal nor for a while, for the program would not notice."""
    model = Stack()
    found = flags(model)
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    paddle.jit.to_static(model, full_graph=True)
    loss_of(model)
    before = flags(model)
    with pytest.raises(UnsupportedPlanError, match=r"cannot remove the plan(.|\n)*rollback"):
        handle.remove()
    with pytest.raises(UnsupportedPlanError, match="for a while"), uf.frozen(model):
        pass
    assert flags(model) == before
    model.forward.rollback()
    handle.remove()
    assert flags(model) == found


def test_a_part_already_traced_whole_is_named():
    """M"""
    model = Stack()
    paddle.jit.to_static(model.blocks[1], full_graph=True)
    loss_of(model)
    with pytest.raises(UnsupportedPlanError, match=r"blocks\.1: to_static"):
        FreezePlan().freeze("blocks[0]").apply(model)


def test_a_model_traced_whole_is_refused_even_if_only_statistics_would_hold():
    """G, M: every flag is as the plan says, but what the norms do is traced, too."""
    model = Stack()
    for parameter in model.blocks[0].parameters():
        parameter.stop_gradient = True
    paddle.jit.to_static(model, full_graph=True)
    loss_of(model)
    with pytest.raises(UnsupportedPlanError, match="already traced"):
        FreezePlan().freeze("blocks[0]").apply(model)


def test_a_traced_model_takes_the_plan_it_was_traced_under():
    """M: nothing would change."""
    model = Stack()
    plan = FreezePlan().freeze("blocks[0]")
    plan.apply(model)
    paddle.jit.to_static(model, full_graph=True)
    loss_of(model)
    plan.apply(model).verify()


def test_rolling_a_trace_back_lets_the_plan_be_applied():
    """M: the cure."""
    model = traced_whole()
    loss_of(model)
    model.forward.rollback()
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    traced = paddle.jit.to_static(model, full_graph=True)
    before = bits(model)
    train(traced, handle.optimizer(paddle.optimizer.SGD, lr=0.1))
    handle.verify()
    assert {"blocks.1.first.weight", "blocks.1.norm._mean"} <= moved(model, before)


def test_what_a_plan_thaws_trains_in_a_model_traced_by_default():
    """M: there a trace looks at the flags again."""
    model = Stack()
    traced = paddle.jit.to_static(model)
    traced.train()
    for plan, frozen in ((FreezePlan().freeze("blocks"), 12), (FreezePlan().train("all"), 0)):
        handle = plan.apply(model)
        for parameter in model.parameters():
            parameter.clear_gradient(False)
        loss_of(traced).backward()
        assert handle.check_gradients() == ()
        assert sum(parameter.grad is not None for parameter in model.parameters()) == 16 - frozen


# verify ------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", ["moved", "reloaded", "cast"])
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


def test_loading_the_same_values_is_no_drift():
    model = Stack()
    handle = FreezePlan().only("head").apply(model)
    model.set_state_dict(copy.deepcopy(model).state_dict())
    handle.verify()


# remove ------------------------------------------------------------------------------------------


def recurrent():
    """A model that has run before: a norm notes the layout of its first input."""
    paddle.seed(0)
    model = nn.LayerDict({"body": Above(nn.LSTM(3, 4)), "norm": nn.LayerNorm(4), "head": Stack()})
    with paddle.no_grad():
        loss_of(model["head"])
    return model


@pytest.mark.parametrize(
    "plan",
    [
        FreezePlan().only("head"),
        FreezePlan().freeze("norm & weight").with_norm_stats("hold_all"),
        FreezePlan().freeze("body | **.blocks").with_dropout("off"),
        FreezePlan().freeze("body.layer.weight_ih_l0").with_group("bias", lr_scale=2.0),
    ],
    ids=lambda plan: str(plan.rules[0]),
)
def test_removing_a_plan_leaves_every_layer_as_it_was(plan):
    model = recurrent()
    model["body"].below[0].stop_gradient = True
    model["head"].eval()
    before = inside(model), flags(model)
    handle = plan.apply(model)
    assert (inside(model), flags(model)) != before
    assert "set_state_dict" in vars(model)
    handle.optimizer(paddle.optimizer.SGD, lr=0.1)
    weighted(model["body"](paddle.to_tensor(floats(2, 5, 3)))).backward()
    loss_of(model["head"]).backward()
    handle.remove()
    assert (inside(model), flags(model)) == before
    assert "set_state_dict" not in vars(model)


def test_removing_the_last_of_several_plans_goes_back_to_before_the_first():
    model = recurrent()
    before = inside(model), flags(model)
    FreezePlan().freeze("body").apply(model)
    FreezePlan().freeze("norm & weight").apply(model)
    FreezePlan().freeze("all").with_dropout("off").apply(model).remove()
    assert (inside(model), flags(model)) == before


def test_a_handle_whose_plan_is_gone_says_so():
    model = Stack()
    first = FreezePlan().only("head").apply(model)
    FreezePlan().freeze("head").apply(model).remove()
    with pytest.raises(UnifreezeError, match="no longer in force"):
        first.verify()


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        (FreezePlan().freeze("bakbone"), UnmatchedSelectorError),
        (FreezePlan().freeze("head").train("head"), UndecidedRuleError),
    ],
)
def test_a_plan_that_does_not_fit_leaves_the_model_as_it_was(plan, error):
    model = Stack()
    loss_of(model).backward()
    before = inside(model), flags(model), model.stem.weight.grad.numpy().tobytes()
    with pytest.raises(error):
        plan.apply(model)
    assert (inside(model), flags(model), model.stem.weight.grad.numpy().tobytes()) == before


@pytest.mark.parametrize("step", ["set_flag", "set_guards", "set_gradient"])
def test_an_apply_that_fails_half_way_leaves_the_model_as_it_was(monkeypatch, step):
    model = recurrent()
    loss_of(model["head"]).backward()
    stem = model["head"].stem.weight
    before = inside(model), flags(model), stem.grad.numpy().tobytes()
    done = getattr(BACKEND, step)
    calls = []

    def fails(*args, **kwargs):
        done(*args, **kwargs)
        calls.append(args)
        if len(calls) == (1 if step == "set_guards" else 3):
            raise RuntimeError("in the middle")

    monkeypatch.setattr(BACKEND, step, fails)
    with pytest.raises(WriteError, match="in the middle"):
        FreezePlan().freeze("all").apply(model)
    assert (inside(model), flags(model), stem.grad.numpy().tobytes()) == before


# For a while -------------------------------------------------------------------------------------


class Discriminator(nn.Layer):
    """Everything whose kernel needs help, in a row."""

    def __init__(self):
        super().__init__()
        paddle.seed(1)
        self.inorm = nn.InstanceNorm1D(3)
        self.act = nn.PReLU(3)
        self.rnn = nn.LSTM(3, 4)
        self.lnorm = nn.LayerNorm(4)
        self.norm = nn.BatchNorm1D(5)
        self.head = nn.Linear(4, 1)
        for tensor in (self.inorm.scale, self.lnorm.weight, self.norm.weight):
            tensor.set_value(floats(*tensor.shape))

    def forward(self, x):
        x, _ = self.rnn(self.act(self.inorm(x)).transpose([0, 2, 1]))
        return self.head(self.norm(self.lnorm(x)))


@pytest.mark.usefixtures("double")
def test_a_model_frozen_for_a_while_lets_the_right_gradient_through():
    """B, C, D: what a generator needs of its discriminator."""
    model = Discriminator()
    x = paddle.to_tensor(floats(2, 3, 5), stop_gradient=False)
    weighted(model(x)).backward()
    expected = x.grad.numpy()
    before = inside(model), flags(model)
    for _ in range(2):
        x.clear_gradient(False)
        for parameter in model.parameters():
            parameter.clear_gradient(False)
        with uf.frozen(model):
            weighted(model(x)).backward()
        check_same(x.grad, expected)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert (inside(model), flags(model)) == before


@pytest.mark.usefixtures("double")
def test_a_model_under_a_plan_can_be_frozen_for_a_while():
    model = Discriminator()
    x = paddle.to_tensor(floats(2, 3, 5), stop_gradient=False)
    handle = FreezePlan().freeze("norm & weight | rnn.weight_hh_l0").apply(model)
    expected = gradients(model, x), x.grad.numpy()
    before = inside(model), flags(model)
    with uf.frozen(model):
        x.clear_gradient(False)
        assert set(gradients(model, x).values()) == {None}
        check_same(x.grad, expected[1])
    assert (inside(model), flags(model)) == before
    check_same(gradients(model, x), expected[0])
    handle.verify()


def test_flags_come_back_when_the_work_fails():
    model = Discriminator()
    before = inside(model), flags(model)
    with pytest.raises(KeyboardInterrupt), uf.frozen(model):
        raise KeyboardInterrupt
    assert (inside(model), flags(model)) == before


# Several models, and everything ------------------------------------------------------------------


def test_several_models_go_under_one_plan_and_come_back():
    student, teacher = recurrent()["head"], recurrent()
    before = inside(student), inside(teacher), flags(student), flags(teacher)
    plan = FreezePlan().freeze("teacher").freeze("blocks[0] in student")
    handle = uf.apply(plan, {"student": student, "teacher": teacher})
    assert all(frozen for name, frozen in flags(teacher).items())
    assert handle.resolution.counts()[0] == 255 - 96
    x = paddle.to_tensor(floats(2, 5, 3), stop_gradient=False)
    weighted(teacher["body"].layer(x)).backward()
    assert np.abs(x.grad.numpy()).max() > 0
    handle.verify()
    handle.remove()
    assert (inside(student), inside(teacher), flags(student), flags(teacher)) == before


def test_freezing_everything_has_to_be_said():
    model = Stack()
    with pytest.raises(TrivialPlanError, match="leaves nothing trainable"):
        FreezePlan().freeze("stem | blocks | head").apply(model)
    assert not any(frozen for name, frozen in flags(model).items() if "norm._" not in name)


def test_a_model_frozen_whole_gives_a_loss_without_gradient():
    """Paddle's backward does nothing then, and says nothing."""
    model = Stack()
    handle = FreezePlan().freeze("all").apply(model)
    model.train()
    loss = loss_of(model)
    assert loss.stop_gradient
    loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert str(handle) == "trainable params: 0 || all params: 255 || trainable%: 0.0000"
    assert handle.verify()[:3] == (16, 4, 0)
    with pytest.raises(OptimizerError, match="nothing to train"):
        handle.param_groups()


# Fingerprints ------------------------------------------------------------------------------------

DTYPES = [
    "float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int8", "uint8", "int16", "int32", "int64", "bool", "complex64", "complex128",
]  # fmt: skip


def holder(values, dtype):
    """A layer with one parameter of a dtype."""
    layer = nn.Layer()
    tensor = paddle.to_tensor(values, dtype="float32").astype(dtype)
    layer.tensor = EagerParamBase.from_tensor(tensor, trainable=False)
    return layer


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_of_every_dtype_are_read_where_they_are(dtype):
    """No copy, and the very bytes."""
    tensor = holder([[0, 1, 0], [1, 1, 1]], dtype).tensor
    payload = BACKEND.payload(tensor)
    assert payload.dtype == dtype
    assert payload.shape == (2, 3)
    assert payload.data.size == 6 * tensor.element_size()
    assert payload.data.__array_interface__["data"][0] == tensor.data_ptr()
    assert payload.data.tobytes() == tensor.numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_changed_value_of_any_dtype_changes_the_fingerprint(dtype):
    layer, same = (holder([[0, 1, 0], [1, 1, 1]], dtype) for _ in range(2))
    other = holder([[0, 1, 0], [1, 0, 1]], dtype)
    digests = [BACKEND.fingerprint(each, ["tensor"])["tensor"] for each in (layer, same, other)]
    assert digests[0].bits == digests[1].bits != digests[2].bits
    assert {digest.dtype for digest in digests} == {dtype}


def test_a_tensor_that_is_not_contiguous_is_read_in_order():
    values = paddle.to_tensor(floats(3, 2))
    strided = paddle.as_strided(values, [2, 3], [1, 2])
    assert not strided.is_contiguous()
    plain = digest(BACKEND.payload(paddle.to_tensor(values.numpy().T.copy())))
    assert digest(BACKEND.payload(strided)).bits == plain.bits


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_scalars_and_empty_parameters_have_fingerprints(shape):
    layer = nn.LayerDict({"odd": nn.Layer(), "head": nn.Linear(2, 2)})
    layer["odd"].tensor = layer["odd"].create_parameter(
        list(shape), default_initializer=nn.initializer.Constant(1.0)
    )
    handle = FreezePlan().freeze("odd").apply(layer)
    assert handle.verify().parameters == 1


# One process, two names --------------------------------------------------------------------------


def test_the_framework_is_told_by_the_models_bases_under_a_torch_proxy():
    """Paddle can pose as torch: its layer is then `torch.nn.Module`."""
    code = """
        import paddle
        paddle.compat.enable_torch_proxy()
        import torch
        import unifreeze as uf

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.body = paddle.nn.Linear(2, 2)
                self.head = torch.nn.Linear(2, 2)

        assert issubclass(Net, paddle.nn.Layer)
        model = Net()
        handle = uf.freeze(model, "body")
        assert handle.resolution.spec.framework == "paddle"
        assert model.body.weight.stop_gradient and not model.head.weight.stop_gradient
        handle.verify()
        print("told")
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip().endswith("told"), done.stderr[-800:]


def test_both_frameworks_are_told_apart_in_one_process():
    import torch

    assert uf.resolve(FreezePlan().freeze("weight"), nn.Linear(2, 2)).spec.framework == "paddle"
    other = torch.nn.Linear(2, 2)
    assert uf.resolve(FreezePlan().freeze("weight"), other).spec.framework == "torch"
