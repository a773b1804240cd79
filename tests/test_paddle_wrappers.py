"""PaddlePaddle: wrappers, adapters, ties, lazy models, and the framework told by a model's bases.

Rules G and H are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import numpy as np
import paddle
import pytest
from paddle import nn

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.paddle_layers import bits, floats, gradients
from tests.support.kits.paddle_nets import Stack, moved, train
from tests.support.paddle_descriptions import BACKEND, flags
from tests.support.rounding import check_same
from unifreeze import FreezePlan
from unifreeze.errors import TieConflictError


def paths(model):
    return [p.path for p in BACKEND.describe(model).parameters]


def names(model):
    return [p.name for p in BACKEND.describe(model).parameters]


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
    handle = FreezePlan().only("adapter | pooler | head").apply(model)
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
    resolution = FreezePlan().freeze("tables | blocks[:6]").resolve(model)
    assert resolution.counts()[1] == 30000 * 768 + 12 * 7_087_872
    assert resolution.counts()[0] == 6 * 7_087_872
    assert not model[0].weight._is_initialized()


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
