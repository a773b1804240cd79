"""Small networks to cache, written once for both frameworks, and a loop that trains them."""

from __future__ import annotations

import contextlib
from itertools import chain
from types import SimpleNamespace

import numpy as np


def framework_of(name):
    """What the networks and the loop need of a framework, under one name for both."""
    if name == "torch":
        import torch
        from torch import nn

        return SimpleNamespace(
            name=name,
            nn=nn,
            lib=torch,
            Module=nn.Module,
            List=nn.ModuleList,
            BatchNorm1D=nn.BatchNorm1d,
            BatchNorm2D=nn.BatchNorm2d,
            Conv2D=nn.Conv2d,
            tensor=torch.tensor,
            seed=torch.manual_seed,
            AdamW=torch.optim.AdamW,
            cat=torch.cat,
            softmax=lambda x: torch.softmax(x, -1),
            load=lambda model, values: model.load_state_dict(values),
            clear=lambda optimizer: optimizer.zero_grad(),
            swap=lambda x: x.transpose(-1, -2),
            no_grad=torch.no_grad,
            floats=lambda x: x.float(),
        )
    import paddle
    from paddle import nn

    return SimpleNamespace(
        name=name,
        nn=nn,
        lib=paddle,
        Module=nn.Layer,
        List=nn.LayerList,
        BatchNorm1D=nn.BatchNorm1D,
        BatchNorm2D=nn.BatchNorm2D,
        Conv2D=nn.Conv2D,
        tensor=paddle.to_tensor,
        seed=paddle.seed,
        AdamW=paddle.optimizer.AdamW,
        cat=paddle.concat,
        softmax=lambda x: paddle.nn.functional.softmax(x, -1),
        load=lambda model, values: model.set_state_dict(values),
        clear=lambda optimizer: optimizer.clear_grad(),
        swap=lambda x: x.transpose([*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]),
        no_grad=paddle.no_grad,
        floats=lambda x: x.astype("float32"),
    )


def residual_net(fw, width=8):
    """Convolutions with batch norms and skips in four stages, pooled, with a linear head."""
    nn = fw.nn

    class Stage(fw.Module):
        def __init__(self, inside, out):
            super().__init__()
            self.conv1 = fw.Conv2D(inside, out, 3, stride=2, padding=1)
            self.bn1 = fw.BatchNorm2D(out)
            self.relu = nn.ReLU()
            self.conv2 = fw.Conv2D(out, out, 3, padding=1)
            self.bn2 = fw.BatchNorm2D(out)
            self.shortcut = fw.Conv2D(inside, out, 1, stride=2)

        def forward(self, x):
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(y + self.shortcut(x))

    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = fw.Conv2D(3, width, 3, padding=1)
            self.bn1 = fw.BatchNorm2D(width)
            self.stages = fw.List([Stage(width, width), Stage(width, 2 * width)])
            self.last = Stage(2 * width, 2 * width)
            self.head = nn.Linear(2 * width, 3)

        def forward(self, x):
            x = self.bn1(self.conv1(x))
            for stage in self.stages:
                x = stage(x)
            x = self.last(x)
            return self.head(x.mean([2, 3] if fw.name == "paddle" else (2, 3)))

    return Net()


def text_net(fw, width=16, layers=4, drop=0.1):
    """Embeddings, layers of attention with a mask, a pooler and a linear classifier."""
    nn = fw.nn

    class Layer(fw.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
            self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
            self.drop = nn.Dropout(drop)
            self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

        def forward(self, x, mask):
            scores = self.query(x) @ fw.swap(self.key(x)) * width**-0.5 + mask
            x = self.norm(x + self.drop(self.out(fw.softmax(scores) @ self.value(x))))
            return x + self.down(nn.functional.gelu(self.up(x)))

    class Embeddings(fw.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(50, width), nn.Embedding(32, width)
            self.drop = nn.Dropout(drop)

        def forward(self, ids):
            places = fw.tensor(np.arange(ids.shape[1])[None])
            return self.drop(self.words(ids) + self.places(places))

    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.embeddings = Embeddings()
            self.layers = fw.List([Layer() for _ in range(layers)])
            self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, 3)

        def forward(self, ids, attention_mask=None):
            x, mask = self.embeddings(ids), 0.0
            if attention_mask is not None:
                mask = ((1 - fw.floats(attention_mask)) * -1e4).unsqueeze(1)
            for layer in self.layers:
                x = layer(x, mask)
            return self.classifier(fw.lib.tanh(self.pooler(x[:, 0])))

    return Net()


IMAGES = np.random.default_rng(0).standard_normal((24, 3, 16, 16)).astype("float32")
IDS = np.random.default_rng(1).integers(1, 50, (24, 12))
LABELS = np.random.default_rng(2).integers(0, 3, 24)


def image_batches(epoch, size=8):
    """Rows of the images, shuffled."""
    order = np.random.default_rng(epoch).permutation(len(IMAGES))
    return [(order[n : n + size], None) for n in range(0, len(order), size)]


def text_batches(epoch, size=4):
    """Rows of the texts in buckets of two lengths, shuffled within and among buckets."""
    draw = np.random.default_rng(epoch)
    batches = []
    for rows, length in ((np.arange(12), 12), (np.arange(12, 24), 8)):
        order = draw.permutation(rows)
        batches += [(order[n : n + size], length) for n in range(0, len(order), size)]
    return [batches[n] for n in draw.permutation(len(batches))]


def run_net(fw, model, rows, length):
    """Call a model on rows of its data."""
    if length is None:
        return model(fw.tensor(IMAGES[rows]))
    ids = IDS[rows][:, :length]
    return model(fw.tensor(ids), attention_mask=fw.tensor((ids > 4).astype("int64")))


def train(fw, model, handle, batches, *, epochs=3, cached=None, each=None):
    """Train; return losses, all gradients, final values and the run.

    Args:
        fw: The framework.
        model: The model.
        handle: Its handle.
        batches: Returns the batches of an epoch.
        epochs: How many.
        cached: Makes the cached block; None to train without.
        each: Called after each step with its number.
    """
    optimizer = handle.optimizer(fw.AdamW, lr=1e-2)
    fw.seed(3)
    losses, gradients = [], []
    with contextlib.nullcontext() if cached is None else cached() as run:
        for epoch in range(epochs):
            model.train()
            for rows, length in batches(epoch):
                result = run_net(fw, model, rows, length)
                loss = fw.nn.functional.cross_entropy(result, fw.tensor(LABELS[rows]))
                loss.backward()
                grads = [p.grad for p in model.parameters()]
                gradients.append([None if g is None else g.numpy().copy() for g in grads])
                optimizer.step()
                fw.clear(optimizer)
                losses.append(float(loss))
                if each is not None:
                    each(len(losses))
    return losses, gradients, values_of(model), run


def values_of(model):
    """Copies of all parameters and statistics."""
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def same(first, second):
    """Whether two results of `train` are the same bits."""
    pairs = zip(chain(*first[1]), chain(*second[1]), strict=True)
    gradients = all(
        a is b is None or (a is not None and b is not None and a.tobytes() == b.tobytes())
        for a, b in pairs
    )
    values = all(first[2][name].tobytes() == second[2][name].tobytes() for name in first[2])
    return first[0] == second[0] and gradients and values
