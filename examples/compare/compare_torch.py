"""How much of a pretrained network to train on 60 examples: three plans, three runs of each."""

import torch
from torch import nn

import unifreeze as uf

torch.set_num_threads(1)  # such small matrices gain nothing from more
torch.manual_seed(0)
hidden, pretext, task = torch.randn(16, 8), torch.randn(8, 6), torch.randn(8, 3)


def data(rows, answer):
    """Draw inputs and their classes; both tasks look at the same eight hidden numbers."""
    inputs = torch.randn(rows, 16)
    return inputs, (torch.tanh(inputs @ hidden) @ answer).argmax(1)


class Block(nn.Module):
    """Two layers around which the input passes."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        """Add to the input."""
        return x + self.down(torch.tanh(self.up(x)))


class Net(nn.Module):
    """Three blocks and a head."""

    def __init__(self, classes):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block(), Block()])
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
        optimizer.zero_grad()


pretrained = Net(classes=6)
fit(pretrained, torch.optim.AdamW(pretrained.parameters(), lr=3e-3), *data(3000, pretext), 200)
few, many = data(60, task), data(2000, task)


def make_model():
    """Build the network with the pretrained blocks and a new head."""
    model = Net(classes=3)
    model.blocks.load_state_dict(pretrained.blocks.state_dict())
    return model


def train(model, handle):
    """Train what the plan trains."""
    fit(model, handle.optimizer(torch.optim.AdamW, lr=3e-3), *few, 200)


@torch.no_grad()
def evaluate(model):
    """Count the right answers on data of its own."""
    model.eval()
    inputs, classes = many
    return {"accuracy": (model(inputs).argmax(1) == classes).float().mean().item()}


plans = {
    "head": uf.FreezePlan().only("head"),
    "last block": uf.FreezePlan().only("head | blocks[-1]"),
    "everything": uf.FreezePlan().train("all"),
}
print(uf.compare_plans(plans, make_model, train, evaluate, repeats=3))
