"""The network in PyTorch."""

from torch import nn


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.module, self.out = nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.module(self.norm(x)))


class My(nn.Module):
    def __init__(self):
        super().__init__()
        self.extra, self.odd = nn.Linear(8, 8), Odd()

    def forward(self, x):
        return self.odd(self.extra(x))


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        pairs = [nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)) for _ in "1234"]
        self.cells = nn.Sequential(*pairs[:2], nn.Tanh(), *pairs[2:])

    def forward(self, x):
        return self.cells(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.enter = nn.Linear(6, 6), nn.Linear(6, 8)
        self.trunk, self.my = Trunk(), My()

    def forward(self, x):
        return self.my(self.trunk(self.enter(self.scale(x))))


HEAD, STEM, BLOCKS = "my.odd", "enter", "trunk.cells[*]"
FIRST_BLOCK, EXTRA, SCALE = "trunk.cells.0", "my.extra", "scale"


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)


class Stack(nn.Module):
    """A stack of blocks like those that are found without help."""

    def __init__(self, blocks=4):
        super().__init__()
        self.units = nn.ModuleList([Pair() for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)


class Two(nn.Module):
    """Two stacks side by side, called encoder and decoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Stack(2), Stack(3)
