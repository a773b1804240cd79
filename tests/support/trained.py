"""Small residual networks, one per framework under the same names, and a task each to train on.

In double precision, so that training ends at the same network on every processor.

`tasks.NAME.trained()` trains the PyTorch one for a few seconds; `in_framework` gives it, or the
Paddle one with its weights, and `damaged` fills one block's matrices with noise.
"""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional

WIDTH, BLOCKS, CLASSES = 8, 6, 4


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.last = nn.BatchNorm2d(WIDTH)

    def forward(self, x):
        return (x + self.last(self.second(self.norm(self.first(x)).relu()))).relu()


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList([Cell() for _ in range(BLOCKS)])
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Layer(nn.Module):
    """Attention and a perceptron, each followed by its norm."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.last = nn.LayerNorm(WIDTH)

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(1, 2) / WIDTH**0.5
        x = self.norm(x + self.output(torch.softmax(scores, -1) @ self.value(x)))
        return self.last(x + self.down(functional.gelu(self.up(x))))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(12, WIDTH), nn.Embedding(8, WIDTH)
        self.blocks = nn.ModuleList([Layer() for _ in range(BLOCKS)])
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def paddle_network(name):
    import paddle
    from paddle import nn

    class Cell(nn.Layer):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2D(WIDTH, WIDTH, 3, padding=1, bias_attr=False)
            self.norm = nn.BatchNorm2D(WIDTH)
            self.second = nn.Conv2D(WIDTH, WIDTH, 3, padding=1, bias_attr=False)
            self.last = nn.BatchNorm2D(WIDTH)

        def forward(self, x):
            relu = nn.functional.relu
            return relu(x + self.last(self.second(relu(self.norm(self.first(x))))))

    class Pictures(nn.Layer):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2D(3, WIDTH, 3, padding=1)
            self.blocks = nn.LayerList([Cell() for _ in range(BLOCKS)])
            self.head = nn.Linear(WIDTH, CLASSES)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean((2, 3)))

    class Layer(nn.Layer):
        def __init__(self):
            super().__init__()
            self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.value, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
            self.last = nn.LayerNorm(WIDTH)

        def forward(self, x):
            softmax, gelu = nn.functional.softmax, nn.functional.gelu
            scores = self.query(x) @ self.key(x).transpose([0, 2, 1]) / WIDTH**0.5
            x = self.norm(x + self.output(softmax(scores, -1) @ self.value(x)))
            return self.last(x + self.down(gelu(self.up(x))))

    class Words(nn.Layer):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(12, WIDTH), nn.Embedding(8, WIDTH)
            self.blocks = nn.LayerList([Layer() for _ in range(BLOCKS)])
            self.head = nn.Linear(WIDTH, CLASSES)

        def forward(self, ids):
            x = self.words(ids) + self.places(paddle.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    return {"pictures": Pictures, "words": Words}[name]()


def pictures_batch(count, seed):
    """Four textures, each shifted at random, in noise."""
    drawn = np.random.default_rng(seed)
    labels = drawn.integers(0, CLASSES, count)
    textures = np.random.default_rng(99).standard_normal((CLASSES, 3, 6, 6))
    shifts = drawn.integers(0, 6, (count, 2))
    pairs = zip(labels, shifts, strict=True)
    images = np.stack([np.roll(textures[k], tuple(s), (1, 2)) for k, s in pairs])
    noise = 0.5 * drawn.standard_normal(images.shape)
    return {"x": images + noise, "y": labels}


def words_batch(count, seed):
    """How often the third word of the vocabulary occurs, up to three times."""
    drawn = np.random.default_rng(seed)
    ids = drawn.integers(0, 12, (count, 8))
    ids[drawn.random(ids.shape) < 0.1] = 3
    return {"ids": ids, "y": np.minimum((ids == 3).sum(1), CLASSES - 1)}


NETWORKS = {
    "pictures": (Pictures, pictures_batch, 150, 3e-3),
    "words": (Words, words_batch, 150, 1e-2),
}


@cache
def trained(name):
    """Train the PyTorch network of a task; the same one every time it is asked for."""
    make, batch, steps, rate = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double()
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        for step in range(steps):
            *inputs, labels = map(torch.tensor, batch(32, step).values())
            optimizer.zero_grad()
            functional.cross_entropy(model(*inputs), labels).backward()
            optimizer.step()
    return model.eval()


def damaged(model, block, seed=0):
    """Return a copy with noise, twice as large, in place of the matrices of one block."""
    made = copy.deepcopy(model)
    drawn = np.random.default_rng([seed, block])
    with torch.no_grad():
        for tensor in made.blocks[block].parameters():
            if tensor.ndim > 1:
                size = 2 * float(tensor.std())
                tensor.copy_(torch.tensor(size * drawn.standard_normal(tensor.shape)))
    return made


def in_framework(framework, name, model):
    """Return the network itself, or the Paddle one with its weights."""
    if framework == "torch":
        return model
    import paddle

    made = paddle_network(name).to(dtype="float64")
    linear = {path for path, layer in made.named_sublayers() if isinstance(layer, paddle.nn.Linear)}
    names = {"running_mean": "_mean", "running_var": "_variance"}
    state = {}
    for path, tensor in model.state_dict().items():
        owner, _, leaf = path.rpartition(".")
        array = tensor.numpy()
        swapped = leaf == "weight" and owner in linear
        state[f"{owner}.{names.get(leaf, leaf)}"] = array.T if swapped else array
    wanted = made.state_dict().keys()
    assert wanted <= state.keys()
    made.set_state_dict({path: state[path] for path in wanted})
    made.eval()
    return made


def batches(name, count=3):
    """Return batches that training did not see."""
    return [NETWORKS[name][1](64, 1000 + number) for number in range(count)]
