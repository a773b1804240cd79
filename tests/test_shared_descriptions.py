"""What is read once for modules that are built alike is what reading each of them gives."""

import pytest
import torch
from torch import nn

from unifreeze._modules.visiting import Visit
from unifreeze._modules.walking import Walk
from unifreeze._structure.place_layers import place
from unifreeze.backend import load_backend


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.mlp, self.norm = Attention(), FeedForward(), nn.LayerNorm(4)


class Stage(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList([Layer() for _ in range(depth)])


class Inner(nn.Module):
    """A stage whose only content is another one."""

    def __init__(self):
        super().__init__()
        self.body = Stage(3)


def flat():
    """Attention and what follows it stand in one list."""
    return nn.ModuleList([part for _ in range(4) for part in (Attention(), FeedForward())])


def lists(*names):
    """Lists that are alike, under several names."""
    return nn.ModuleDict({name: nn.ModuleList([Layer() for _ in range(4)]) for name in names})


def experts():
    layers = [nn.ModuleDict({"attention": Attention(), "experts": nn.ModuleList(
        [FeedForward() for _ in range(4)])}) for _ in range(4)]  # fmt: skip
    return nn.ModuleList(layers)


NETS = {
    "layers": lambda: nn.ModuleList([Layer() for _ in range(5)]),
    "stages": lambda: nn.ModuleList([Stage(3) for _ in range(4)]),
    "stages of other depths": lambda: nn.ModuleList([Stage(n) for n in (2, 2, 6, 6, 2)]),
    "stages in stages": lambda: nn.ModuleList([Inner() for _ in range(4)]),
    "pairs in a flat list": flat,
    "pairs in small lists": lambda: nn.ModuleList([flat()[:2] for _ in range(4)]),
    "sides": lambda: lists("encoder", "decoder"),
    "heads and projectors": lambda: lists("blocks", "heads", "projectors", "aux"),
    "experts": experts,
    "pyramid": lambda: nn.ModuleList(
        [nn.ModuleDict({"blocks": nn.ModuleList([Layer() for _ in range(2)]),
                        "downsample": nn.Linear(4, 4)}) for _ in range(4)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_modules_that_are_built_alike_are_placed_as_if_each_was_read(name, monkeypatch):
    net = nn.ModuleDict({"embed": nn.Embedding(9, 4), "net": NETS[name](), "fc": nn.Linear(4, 2)})
    reader = load_backend("torch").reader
    shared = Walk(reader, net).tree
    monkeypatch.setattr(Visit, "_copy", lambda *_: False)
    plain = Walk(reader, net).tree
    assert not plain.like
    first, second = place(shared), place(plain)
    for column, values in vars(second).items():
        if column != "number":
            assert getattr(first, column) == values, column
    assert vars(first.number()) == vars(second.number())


def test_most_of_these_networks_have_modules_that_are_built_alike():
    reader = load_backend("torch").reader
    shared = [
        name for name, make in NETS.items() if Walk(reader, nn.ModuleList([make()])).tree.like
    ]
    assert len(shared) >= 7, shared


def test_a_module_stands_for_what_is_in_its_place_in_the_first_sibling():
    tree = Walk(load_backend("torch").reader, nn.ModuleList([Stage(3) for _ in range(4)])).tree
    originals = tree.originals()
    for number, first in enumerate(originals):
        tail = tree.last_name(number)
        assert tree.types[number] == tree.types[first]
        assert tail == tree.last_name(first) or (tail.isdigit() and tree.last_name(first) == "0")
    assert len(set(originals)) < len(originals) / 3
    assert torch.tensor(originals).le(torch.arange(len(originals))).all()
