"""The network in Paddle."""

from paddle import nn


class Strange(nn.Layer):
    def __init__(self):
        super().__init__()
        self.bn, self.mix, self.last = nn.BatchNorm1D(8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.mix(self.bn(x)))


class Tail(nn.Layer):
    def __init__(self):
        super().__init__()
        self.more, self.strange = nn.Linear(8, 8), Strange()

    def forward(self, x):
        return self.strange(self.more(x))


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 8)
        pairs = [nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)) for _ in "1234"]
        self.body = nn.Sequential(*pairs[:2], nn.Tanh(), *pairs[2:])
        self.tail = Tail()

    def forward(self, x):
        return self.tail(self.body(self.second(self.first(x))))


HEAD, STEM, BLOCKS = "tail.strange", "second", "body[*]"
FIRST_BLOCK, EXTRA, SCALE = "body.0", "tail.more", "first"


class Pair(nn.Layer):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)


class Stack(nn.Layer):
    """A stack of blocks like those that are found without help."""

    def __init__(self, blocks=4):
        super().__init__()
        self.units = nn.LayerList([Pair() for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)


class Two(nn.Layer):
    """Two stacks side by side, called encoder and decoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Stack(2), Stack(3)
