"""A network of PaddleClas learns two steps under a plan, then after `freeze_befor`, its own word.

The wheel has the networks and no engine: the loop is that of ppcls/engine/train/train.py.
In an environment with paddleclas: python -m examples.suites.paddleclas.train
"""

from pathlib import Path
from typing import Any

import paddle
import yaml
from paddle.nn.functional import cross_entropy
from ppcls.arch import build_model
from ppcls.utils import logger

import unifreeze as uf
from examples.suites.moved import Moved

HERE = Path(__file__).parent
paddle.set_device("cpu")
paddle.seed(0)
images, labels = paddle.randn([8, 3, 64, 64]), paddle.arange(8) % 5


def train(model: Any, optimizer: Any, batches: int = 2) -> None:
    """Make an epoch as the engine does."""
    model.train()
    for number in range(batches):
        picked = slice(4 * number, 4 * number + 4)
        cross_entropy(model(images[picked]), labels[picked]).backward()
        optimizer.step()
        optimizer.clear_grad()


def optimizer_of(model: Any, config: dict[str, Any]) -> Any:
    """Build the optimizer that the configuration names."""
    given = config["Optimizer"]
    return paddle.optimizer.Momentum(
        given["lr"]["learning_rate"],
        momentum=given["momentum"],
        parameters=model.parameters(),
        weight_decay=given["regularizer"]["coeff"],
    )


def train_with_plan(config: dict[str, Any]) -> None:
    """Train with three more lines."""
    model = build_model(config)
    optimizer = optimizer_of(model, config)
    moved = Moved(model.conv, model.blocks)
    handle = uf.FreezePlan.load(HERE / "plan.yaml").apply(model)
    handle.check_optimizer(optimizer)
    train(model, optimizer)
    print(handle.verify())
    print(f"a plan: {moved}")


def train_as_advised(config: dict[str, Any], after_steps: int) -> Moved:
    """Train with the suite's own method, which sets `x.stop_gradient` after the layer it names."""
    model = build_model(config)
    optimizer = optimizer_of(model, config)
    if after_steps:
        train(model, optimizer, after_steps)
    moved, names = Moved(model.conv, model.blocks), set(model.state_dict())
    model.freeze_befor("blocks[10]")
    if not after_steps:
        print(f"renamed: {len(names - set(model.state_dict()))} of {len(names)} weights")
    train(model, optimizer)
    return moved


if __name__ == "__main__":
    logger.init_logger()
    config = yaml.safe_load((HERE / "mobilenet_v3.yml").read_text(encoding="utf-8"))
    train_with_plan(config)
    for steps, when in enumerate(("from the start", "after a step")):
        print(f'freeze_befor("blocks[10]") {when}: {train_as_advised(config, steps)}')
