"""The same in PaddlePaddle: the same plans, the same counts."""

import paddle
from paddle import nn

import unifreeze as uf

paddle.seed(0)
hidden, pretext, task = paddle.randn([16, 8]), paddle.randn([8, 6]), paddle.randn([8, 3])


def data(rows, answer):
    """Draw inputs and their classes; both tasks look at the same eight hidden numbers."""
    inputs = paddle.randn([rows, 16])
    return inputs, (paddle.tanh(inputs @ hidden) @ answer).argmax(1)


class Block(nn.Layer):
    """Two layers around which the input passes."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        """Add to the input."""
        return x + self.down(paddle.tanh(self.up(x)))


class Net(nn.Layer):
    """Three blocks and a head."""

    def __init__(self, classes):
        super().__init__()
        self.blocks = nn.LayerList([Block(), Block(), Block()])
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        """Run all of it."""
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def fit(model, optimizer, inputs, classes, steps):
    """Train on all of the data at each step."""
    model.train()
    for _ in range(steps):
        nn.functional.cross_entropy(model(inputs), classes).backward()
        optimizer.step()
        optimizer.clear_grad()


pretrained = Net(classes=6)
optimizer = paddle.optimizer.AdamW(3e-3, parameters=pretrained.parameters())
fit(pretrained, optimizer, *data(3000, pretext), 200)
few, many = data(60, task), data(2000, task)


def make_model():
    """Build the network with the pretrained blocks and a new head."""
    model = Net(classes=3)
    model.blocks.set_state_dict(pretrained.blocks.state_dict())
    return model


def train(model, handle):
    """Train what the plan trains."""
    fit(model, handle.optimizer(paddle.optimizer.AdamW, lr=3e-3), *few, 200)


@paddle.no_grad()
def evaluate(model):
    """Count the right answers on data of its own."""
    model.eval()
    inputs, classes = many
    return {"accuracy": (model(inputs).argmax(1) == classes).astype("float32").mean().item()}


plans = {
    "head": uf.FreezePlan().only("head"),
    "last block": uf.FreezePlan().only("head | blocks[-1]"),
    "everything": uf.FreezePlan().train("all"),
}
print(uf.compare_plans(plans, make_model, train, evaluate, repeats=3))
