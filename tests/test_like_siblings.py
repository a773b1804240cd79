"""Layers in a list that are built alike are described at once, exactly as one by one."""

import paddle
import pytest
import torch

from unifreeze._modules.visiting import Visit
from unifreeze._modules.walking import Walk
from unifreeze._structure.place_layers import place
from unifreeze.backend import load_backend


class Torch:
    name, nn, module = "torch", torch.nn, torch.nn.Module

    @staticmethod
    def freeze(parameter):
        parameter.requires_grad = False

    @staticmethod
    def half(layer):
        return layer.half()

    @staticmethod
    def several(layers):
        return torch.nn.ModuleList(layers)

    @staticmethod
    def state(layer):
        layer.register_buffer("table", torch.zeros(2))

    @staticmethod
    def parameter(*shape):
        return torch.nn.Parameter(torch.zeros(*shape))


class Paddle:
    name, nn, module = "paddle", paddle.nn, paddle.nn.Layer

    @staticmethod
    def freeze(parameter):
        parameter.stop_gradient = True

    @staticmethod
    def half(layer):
        return layer.astype("float16")

    @staticmethod
    def several(layers):
        return paddle.nn.LayerList(layers)

    @staticmethod
    def state(layer):
        layer.register_buffer("table", paddle.zeros([2]))

    @staticmethod
    def parameter(*shape):
        return paddle.create_parameter(list(shape), "float32")


def block_of(side):
    class Block(side.module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = side.nn.GroupNorm(1, 4), side.nn.Linear(4, 6)
            self.inner = side.several([side.nn.Linear(3, 3) for _ in range(3)])

    return Block


def projection_of(side):
    """Return a class of layers that says by its sizes how it stores its matrix."""

    class Projection(side.module):
        def __init__(self, size_in, size_out):
            super().__init__()
            self.in_features, self.out_features = size_in, size_out
            self.matrix = side.parameter(3, 5)

    return Projection


def _alike(side, blocks):
    pass


def _first_is_larger(side, blocks):
    blocks[0].more = side.nn.Linear(4, 4)


def _one_is_wider(side, blocks):
    blocks[5].fc = side.nn.Linear(4, 7)


def _one_lacks_a_bias(side, blocks):
    blocks[4].fc.bias = None


def _one_is_frozen(side, blocks):
    side.freeze(blocks[3].fc.weight)


def _one_is_cast(side, blocks):
    side.half(blocks[6])


def _one_has_a_state(side, blocks):
    side.state(blocks[7].inner[1])


def _all_have_a_state(side, blocks):
    for block in blocks:
        side.state(block)


def _a_tie(side, blocks):
    blocks[6].fc.weight = blocks[2].fc.weight


def _a_tie_inside_one(side, blocks):
    for block in blocks:
        block.inner[2].weight = block.inner[1].weight


def _a_layer_twice(side, blocks):
    blocks[6].inner[0] = blocks[3].inner[0]


def _a_block_twice(side, blocks):
    blocks[6] = blocks[4]


def _a_tie_to_the_head(side, blocks):
    blocks.insert(4, blocks[0].fc)


def _another_class(side, blocks):
    blocks[4].norm = side.nn.LayerNorm(4)


def _another_order(side, blocks):
    fc = blocks[5].fc
    del blocks[5].fc
    blocks[5].fc = fc


CHANGES = [
    value for name, value in sorted(globals().items()) if name.startswith("_") and callable(value)
]
CHANGES = [change for change in CHANGES if getattr(change, "__module__", "") == __name__]


def walks(side, model, monkeypatch):
    reader = load_backend(side.name).reader
    at_once = Walk(reader, model)
    monkeypatch.setattr(Visit, "_copy", lambda *_: False)
    return at_once, Walk(reader, model)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("side", [Torch, Paddle])
def test_a_list_is_described_as_one_by_one(side, change, monkeypatch):
    blocks = [block_of(side)() for _ in range(1)]
    cls = type(blocks[0])
    blocks += [cls() for _ in range(8)]
    change(side, blocks)
    model = side.several([side.several(blocks), side.nn.Linear(4, 2)])
    compare(*walks(side, model, monkeypatch))


@pytest.mark.parametrize("side", [Torch, Paddle])
def test_matrices_stored_otherwise_are_told_apart(side, monkeypatch):
    cls = projection_of(side)
    layers = [cls(5, 3), cls(5, 3), cls(5, 3), cls(3, 5), cls(5, 3)]
    at_once, one_by_one = walks(side, side.several(layers), monkeypatch)
    compare(at_once, one_by_one)
    assert len({row.neutral for row in at_once.tree.tensors}) == 2


@pytest.mark.parametrize("side", [Torch, Paddle])
def test_most_blocks_are_not_visited(side, monkeypatch):
    cls, visited, visit = block_of(side), [], Visit._visit
    monkeypatch.setattr(
        Visit, "_visit", lambda self, *given: visited.append(given) or visit(self, *given)
    )
    walk = Walk(load_backend(side.name).reader, side.several([cls() for _ in range(300)]))
    assert len(walk.tree.paths) == 1 + 300 * 7
    assert len(visited) < 10


def compare(at_once, one_by_one):
    for column, values in vars(one_by_one.tree).items():
        if column != "copied":  # says which modules were not visited
            assert getattr(at_once.tree, column) == values, column
    placed, plainly = place(at_once.tree), place(one_by_one.tree)
    for column, values in vars(plainly).items():
        if column != "number":
            assert getattr(placed, column) == values, column
    assert vars(placed.number()) == vars(plainly.number())
    pairs = [(at_once.modules, one_by_one.modules), (at_once.tensors, one_by_one.tensors)]
    for mine, theirs in pairs:
        assert list(map(id, mine)) == list(map(id, theirs))
    assert at_once.by_class == one_by_one.by_class
    assert at_once.current()
