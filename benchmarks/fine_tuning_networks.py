"""The networks that the benchmark of fine-tuning trains, and how they are frozen by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from examples.ernie import models as ernie
from examples.resnet import models as resnet

PLANS = {
    "resnet": {"head": "head", "top": 'head | path:"layer4"'},
    "bert": {
        "head": "classifier",
        "top": "head | blocks[-2:]",
        "embeddings": "head | blocks[-2:] | embeddings",
    },
}
PLANS["ernie"] = PLANS["bert"]
NAMES = {"resnet": "ResNet-50", "bert": "BERT base", "ernie": "ERNIE base"}
TRAINED = {
    ("resnet", "head"): "head",
    ("resnet", "top"): "layer4 and head",
    ("bert", "head"): "classifier",
    ("bert", "top"): "last 2 of 12",
    ("bert", "embeddings"): "last 2 of 12, and embeddings",
}
TRAINED |= {("ernie", plan): words for (kind, plan), words in TRAINED.items() if kind == "bert"}


class Torch:
    """What the benchmark needs to know of torch."""

    name = "torch"

    def __init__(self, device: str = "cpu") -> None:
        import torch

        torch.set_num_threads(1)
        self.library, self.device = torch, device
        self.layers, self.functional = torch.nn, torch.nn.functional

    def seconds(self) -> float:
        """Return the time: of the processor, or of the wall once a GPU has done its work."""
        if self.device == "cpu":
            return time.process_time()
        self.library.cuda.synchronize()
        return time.perf_counter()

    def seed(self, seed: int) -> None:
        """Seed all that draws."""
        self.library.manual_seed(seed)

    def tensor(self, array: Any) -> Any:
        """Return an array as a tensor where models are."""
        return self.library.from_numpy(np.asarray(array)).to(self.device)

    def make(self, model: str) -> Any:
        """Build a network, the same each time."""
        self.seed(0)
        build: dict[str, Any] = {}
        build |= {"resnet": resnet.torch_resnet50, "ernie": ernie.torch_ernie, "bert": torch_bert}
        made = build[model]().to(self.device)
        norms = [m for m in made.modules() if hasattr(m, "running_mean")]
        settle_norms(self, made, norms, "momentum", 1.0)
        return made

    def train_only(self, model: Any, trained: set[str]) -> None:
        """Freeze by hand: flags, then eval mode for modules all of whose parameters are frozen."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name in trained
        model.train()
        for module in model.modules():
            inside = list(module.parameters())
            if inside and not any(p.requires_grad for p in inside):
                module.eval()  # and all dropouts in it

    def optimizer(self, model: Any) -> Any:
        """Build AdamW over what trains."""
        trained = [p for p in model.parameters() if p.requires_grad]
        return self.library.optim.AdamW(trained, lr=1e-5)

    def clear(self, optimizer: Any) -> None:
        """Drop gradients."""
        optimizer.zero_grad()

    def logits(self, model: Any, batch: Any) -> Any:
        """Return a model's logits."""
        result = model(batch)
        return getattr(result, "logits", result)

    def no_grad(self) -> Any:
        """Return a block without gradient."""
        return self.library.no_grad()

    def layers_of(self, body: Any) -> list[Any]:
        """Return the layers of a text model."""
        return list(body.encoder.layer)


class Paddle:
    """What the benchmark needs to know of Paddle."""

    name, device = "paddle", "cpu"

    def __init__(self) -> None:
        import paddle

        self.library, self.tensor = paddle, paddle.to_tensor
        self.layers, self.functional = paddle.nn, paddle.nn.functional
        self.seconds, self.seed = time.process_time, paddle.seed

    def make(self, model: str) -> Any:
        """Build a network, the same each time."""
        self.seed(0)
        build: dict[str, Any] = {}
        build |= {
            "resnet": resnet.paddle_resnet50,
            "ernie": ernie.paddle_ernie,
            "bert": paddle_bert,
        }
        made = build[model]()
        norms = [m for m in made.sublayers() if hasattr(m, "_mean")]
        settle_norms(self, made, norms, "_momentum", 0.0)
        return made

    def train_only(self, model: Any, trained: set[str]) -> None:
        """Freeze by hand: flags, then eval mode for modules all of whose parameters are frozen."""
        for name, parameter in model.named_parameters():
            if not name.endswith(("._mean", "._variance")):
                parameter.stop_gradient = name not in trained
        model.train()
        for module in model.sublayers(include_self=True):
            inside = module.parameters()
            if inside and all(p.stop_gradient for p in inside):
                module.eval()  # and all dropouts in it

    def optimizer(self, model: Any) -> Any:
        """Build AdamW over what trains."""
        trained = [p for p in model.parameters() if not p.stop_gradient]
        return self.library.optimizer.AdamW(1e-5, parameters=trained, weight_decay=0.01)

    def clear(self, optimizer: Any) -> None:
        """Drop gradients."""
        optimizer.clear_grad()

    def logits(self, model: Any, batch: Any) -> Any:
        """Return a model's logits."""
        return model(batch)

    def no_grad(self) -> Any:
        """Return a block without gradient."""
        return self.library.no_grad()

    def layers_of(self, body: Any) -> list[Any]:
        """Return the layers of a text model."""
        return list(body.encoder.layers)


def torch_bert() -> Any:
    """Build transformers' BERT base for two classes."""
    from examples.torchvision_on_cpu import import_torchvision

    import_torchvision()
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(num_labels=2))


def paddle_bert() -> Any:
    """Build PaddleNLP's BERT base for two classes."""
    from paddlenlp.transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(num_labels=2))


def settle_norms(framework: Any, model: Any, norms: list[Any], momentum: str, last: float) -> None:
    """Set running statistics to those of some images, as a network has them that was trained.

    With those of a new network logits are so large that gradients are subnormal numbers, with which
    a processor takes several times as long.

    Args:
        framework: The framework.
        model: The network.
        norms: Its norms with running statistics.
        momentum: Their attribute for how fast statistics move.
        last: Its value with which statistics become those of the last batch.
    """
    usual = [getattr(norm, momentum) for norm in norms]
    for norm in norms:
        setattr(norm, momentum, last)
    model.train()
    if norms:
        images = np.random.default_rng(1).standard_normal((8, 3, 64, 64), np.float32)
        with framework.no_grad():
            model(framework.tensor(images))
    for norm, value in zip(norms, usual, strict=True):
        setattr(norm, momentum, value)


def two_stages(
    framework: Any, model: Any, kind: str, plan: str
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return what computes features, and what trains on them, written for these models."""
    if kind == "resnet":

        def early(x: Any) -> Any:
            relu = framework.functional.relu
            x = model.maxpool(relu(model.bn1(model.conv1(x))))
            x = model.layer3(model.layer2(model.layer1(x)))
            return model.avgpool(model.layer4(x)) if plan == "head" else x

        def late(x: Any) -> Any:
            x = x if plan == "head" else model.avgpool(model.layer4(x))
            return model.fc(x.flatten(1))

        return early, late
    body = getattr(model, kind)
    layers = framework.layers_of(body)

    def through(hidden: Any, some: list[Any]) -> Any:
        for layer in some:
            result = layer(hidden)
            hidden = result[0] if isinstance(result, tuple) else result
        return hidden

    def head(pooled: Any) -> Any:
        return model.classifier(model.dropout(pooled))

    if plan == "head":
        return lambda ids: body.pooler(through(body.embeddings(ids), layers)), head
    return (
        lambda ids: through(body.embeddings(ids), layers[:-2]),
        lambda hidden: head(body.pooler(through(hidden, layers[-2:]))),
    )


def data(kind: str, batches: int, size: int, length: int) -> list[tuple[Any, Any]]:
    """Return batches of made-up inputs and labels.

    Args:
        kind: The network.
        batches: How many.
        size: Rows of each.
        length: Of texts, in tokens, or of the sides of images, in pixels.
    """
    random = np.random.default_rng(0)
    if kind == "resnet":
        images = random.standard_normal((batches, size, 3, length, length), np.float32)
        return [(part, random.integers(0, 1000, size)) for part in images]
    ids = random.integers(1, 1000, (batches, size, length))
    return [(part, random.integers(0, 2, size)) for part in ids]
