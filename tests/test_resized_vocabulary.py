"""A vocabulary resized under a plan: told with its shapes, and taken in by `rebase()`."""

from __future__ import annotations

import paddle
import pytest
import torch

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits import paddle_layers, torch_nets
from unifreeze import FreezePlan
from unifreeze._protocol import load_backend
from unifreeze.errors import FrozenDriftError

OLD, NEW, WIDTH = 11, 15, 6


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.body = torch.nn.Embedding(OLD, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.head = torch.nn.Linear(WIDTH, OLD, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.body(self.embed(ids))))


class Paddle(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.embed, self.body = paddle.nn.Embedding(OLD, WIDTH), paddle.nn.Linear(WIDTH, WIDTH)

    def forward(self, ids):
        return self.body(self.embed(ids)) @ self.embed.weight.t()


MODELS = {"torch": Torch, "paddle": Paddle}


def torch_in_place(model):
    model.embed.weight.data = torch.randn(NEW, WIDTH)


def torch_grown(model):
    table = model.embed.weight
    trains, table.requires_grad = table.requires_grad, False  # else it is not allowed
    table.resize_(NEW, WIDTH).normal_()
    table.requires_grad = trains


def torch_new_parameter(model):
    model.embed.weight = model.head.weight = torch.nn.Parameter(torch.randn(NEW, WIDTH))


def torch_new_layer(model):
    model.embed = torch.nn.Embedding(NEW, WIDTH)
    model.head.weight = model.embed.weight


def paddle_in_place(model):
    paddle.assign(paddle.randn([NEW, WIDTH]), output=model.embed.weight)


def paddle_by_data(model):
    model.embed.weight.data = paddle.randn([NEW, WIDTH])


def paddle_new_parameter(model):
    model.embed.weight = model.embed.create_parameter([NEW, WIDTH])


def paddle_new_layer(model):
    model.embed = paddle.nn.Embedding(NEW, WIDTH)


WAYS = [
    ("torch", torch_in_place),
    ("torch", torch_grown),
    ("torch", torch_new_parameter),
    ("torch", torch_new_layer),
    ("paddle", paddle_in_place),
    ("paddle", paddle_by_data),
    ("paddle", paddle_new_parameter),
    ("paddle", paddle_new_layer),
]
ways = pytest.mark.parametrize(("framework", "resize"), WAYS, ids=[way.__name__ for _, way in WAYS])


def values(model):
    """How many values a model has, and how many of them train, by the framework's own flags."""
    counts = [(int(tensor.numel()), _trains(tensor)) for tensor in model.parameters()]
    return sum(count for count, trains in counts if trains), sum(count for count, _ in counts)


def _trains(tensor):
    return not tensor.stop_gradient if isinstance(tensor, paddle.Tensor) else tensor.requires_grad


def step(model, optimizer, framework):
    ids = [[1, 2, NEW - 1]]
    batch = torch.tensor(ids) if framework == "torch" else paddle.to_tensor(ids)
    model.train()
    (model(batch) ** 2).mean().backward()
    optimizer.step()


def bits_of(model, framework):
    kit = torch_nets if framework == "torch" else paddle_layers
    return {name: value for name, value in kit.bits(model).items() if name.startswith("embed")}


@ways
def test_a_frozen_table_of_another_shape_is_told_and_taken_in(framework, resize):
    model = MODELS[framework]()
    handle = FreezePlan().freeze("embed").apply(model)
    resize(model)
    with pytest.raises(FrozenDriftError) as caught:
        handle.verify()
    text = str(caught.value)
    assert "embed.weight: resized" in text
    assert f"[{OLD}, {WIDTH}]" in text
    assert f"[{NEW}, {WIDTH}]" in text
    assert "handle.rebase()" in text
    handle.rebase()
    handle.verify()
    assert handle.resolution.counts() == values(model)
    assert not _trains(model.embed.weight)
    cls = torch.optim.AdamW if framework == "torch" else paddle.optimizer.AdamW
    optimizer, before = handle.optimizer(cls, lr=0.1), bits_of(model, framework)
    step(model, optimizer, framework)
    assert bits_of(model, framework) == before
    handle.verify()


@ways
def test_a_table_that_trains_is_counted_anew_once_it_is_taken_in(framework, resize):
    model = MODELS[framework]()
    handle = FreezePlan().freeze("body").apply(model)
    resize(model)
    handle.verify()
    handle.rebase()
    assert handle.resolution.counts() == values(model)
    assert handle.resolution.counts()[1] == NEW * WIDTH + WIDTH * WIDTH + WIDTH


@ways
def test_every_later_look_sees_the_new_shape(framework, resize):
    """A description that is kept from before would count the old one."""
    model, backend = MODELS[framework](), load_backend(framework)
    backend.describe(model)
    resize(model)
    shapes = {p.path: p.shape for p in backend.describe(model).parameters}
    assert shapes["embed.weight"] == (NEW, WIDTH)
    resize_back = {p.path: p.shape for p in backend.describe(model).parameters}
    assert resize_back == shapes


@ways
def test_a_second_plan_counts_the_new_shape(framework, resize):
    model = MODELS[framework]()
    FreezePlan().freeze("embed").apply(model)
    resize(model)
    handle = FreezePlan().freeze("embed").apply(model)
    assert handle.resolution.counts() == values(model)
    handle.verify()


@pytest.mark.parametrize("tied", [True, False])
def test_the_tokens_of_a_model_of_transformers_are_resized(tied):
    """Its method changes the parameter in place, and that of the head with it."""
    import_torchvision()
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    model = BertForMaskedLM(BertConfig(**sizes, intermediate_size=16, tie_word_embeddings=tied))
    handle = FreezePlan().freeze("embeddings").apply(model)
    model.resize_token_embeddings(44, mean_resizing=False)
    with pytest.raises(FrozenDriftError, match=r"\[40, 16\] to \[44, 16\][^\0]*rebase\(\)"):
        handle.verify()
    handle.rebase()
    handle.verify()
    assert handle.resolution.counts() == values(model)


def test_the_tokens_of_a_model_of_paddlenlp_are_resized():
    """Its method puts another table in its place."""
    from paddlenlp.transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    model = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=16))
    handle = uf.freeze(model, "embeddings")
    model.resize_token_embeddings(44)
    with pytest.raises(FrozenDriftError, match=r"\[44, 16\] .*\[40, 16\][^\0]*rebase\(\)"):
        handle.verify()
    handle.rebase()
    handle.verify()
    table = model.get_input_embeddings().weight
    assert table.stop_gradient
    assert handle.resolution.counts()[1] == sum(p.size for p in model.parameters())
