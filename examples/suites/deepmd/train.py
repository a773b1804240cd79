"""One plan fine-tunes DPA3 in both backends of deepmd-kit: two steps in each, on random atoms.

In an environment with deepmd-kit: python -m examples.suites.deepmd.train
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import torch
from deepmd.pd.model.model import get_model as get_paddle_model
from deepmd.pd.utils.env import enable_prim
from deepmd.pt.model.model import get_model as get_torch_model

import unifreeze as uf
from unifreeze.testing import assert_same_trainability

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "input.json").read_text(encoding="utf-8"))["model"]
PLAN = uf.FreezePlan.load(HERE / "plan.yaml")
random = np.random.default_rng(0)
atoms = (
    4 * random.random((2, 6, 3)),  # where they are
    np.array([[0, 1, 1, 0, 1, 1]] * 2),  # what they are
    np.tile(8 * np.eye(3).reshape(1, 9), (2, 1)),  # the box
)
energies, forces = random.standard_normal((2, 1)), random.standard_normal((2, 6, 3))


def train_in_torch(model: Any) -> uf.Handle:
    """Make two steps; three lines are the plan's."""
    handle = PLAN.apply(model)
    optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-3, weight_decay=0.01)
    for _ in range(2):
        found = model(*map(torch.as_tensor, atoms))
        loss = (found["energy"] - torch.as_tensor(energies)).square().mean()
        loss = loss + (found["force"] - torch.as_tensor(forces)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"PyTorch: {handle}\n  {handle.verify()}")
    return handle


def train_in_paddle(model: Any) -> uf.Handle:
    """Do the same in the other backend."""
    handle = PLAN.apply(model)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=1e-3, weight_decay=0.01)
    for _ in range(2):
        found = model(*map(paddle.to_tensor, atoms))
        loss = (found["energy"] - paddle.to_tensor(energies)).square().mean()
        loss = loss + (found["force"] - paddle.to_tensor(forces)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    print(f"PaddlePaddle: {handle}\n  {handle.verify()}")
    return handle


if __name__ == "__main__":
    paddle.set_device("cpu")
    torch.manual_seed(0)
    paddle.seed(0)
    enable_prim(True)  # forces are gradients, and their loss needs gradients of those
    in_torch, in_paddle = get_torch_model(CONFIG), get_paddle_model(CONFIG)
    train_in_torch(in_torch)
    train_in_paddle(in_paddle)
    assert_same_trainability(in_torch, in_paddle)
    print("the same parameters train in both")
