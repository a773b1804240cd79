"""How Paddle's rows make, train, save and load a model; in one process or several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.distributed import fleet

import unifreeze as uf
from tests.support.matrix.columns import Kit, Run
from tests.support.paddle_ranks.fleets import begin, optimizer_of, wrapped_by
from tests.support.paddle_ranks.nets import Net, batch
from unifreeze._protocol import backend_for

RATE = 1e-2


def make(kind: Callable[[], Any] = Net) -> Any:
    """Build a model, the same each time."""
    paddle.seed(0)
    return kind()


def adamw(handle: uf.Handle, _model: Any) -> Any:
    """Build AdamW from a handle."""
    return handle.optimizer(paddle.optimizer.AdamW, lr=RATE, weight_decay=0.1)


def step(run: Run, number: int, own: bool) -> None:
    """Train a step on a few rows."""
    rank = dist.get_rank() if own else 0
    run.called(batch(number, rank)).square().mean().backward()
    run.optimizer.step()
    run.optimizer.clear_grad(set_to_zero=False)


def tensors_of(model: Any) -> dict[str, Any]:
    """Return the live parameters by native path."""
    backend = backend_for(model)
    live = backend.objects(model)
    return {path: live[path] for path in backend.read(model)}


def values(model: Any) -> dict[str, bytes]:
    """Return all parameters' bytes."""
    return {path: tensor.numpy().tobytes() for path, tensor in tensors_of(model).items()}


def spoil(model: Any, path: str) -> None:
    """Change a parameter in place, as an average that is copied back does."""
    tensor = tensors_of(model)[path]
    tensor.set_value(tensor.detach() + 1)


def same(text: str) -> bool:
    """Return whether all processes say the same."""
    if dist.get_world_size() == 1:
        return True
    texts: list[Any] = []
    dist.all_gather_object(texts, text)
    return len(set(texts)) == 1


def save(folder: Path, run: Run) -> None:
    """Save values and states, one file for each process."""
    live = backend_for(run.model).objects(run.model)
    state = {
        "model": {path: tensor.numpy() for path, tensor in live.items()},
        "optimizer": run.optimizer.state_dict(),
        "plan": run.handle.state_dict(),
    }
    paddle.save(state, str(folder / f"{dist.get_rank()}.saved"))
    if dist.get_world_size() > 1:
        dist.barrier()


def load(folder: Path, run: Run) -> None:
    """Load what `save` has written, the optimizer's states of all processes put together."""
    states = [dict(paddle.load(str(file))) for file in sorted(folder.glob("*.saved"))]
    live = backend_for(run.model).objects(run.model)
    for path, value in states[0]["model"].items():
        live[path].set_value(value)
    optimizer: dict[str, Any] = {}
    for state in states:
        optimizer |= state["optimizer"]
    run.optimizer.set_state_dict(optimizer)
    run.handle.load_state_dict(states[0]["plan"])


def whole(model: Any) -> Any:
    """Return the model itself: nothing wraps it."""
    return model


PLAIN = Kit(
    make=make,
    wrap=whole,
    optimizer=adamw,
    step=step,
    values=values,
    spoil=spoil,
    same=same,
    save=save,
    load=load,
)


@cache
def _begin(sharding: int) -> None:
    """Begin fleet; a second call of it in a process does nothing, so rows of fleet run apart."""
    begin(sharding)
    assert fleet.get_hybrid_communicate_group().get_sharding_parallel_world_size() == sharding


def in_engine(engine: str, sharding: int = 1, **settings: Any) -> Kit:
    """Return the kit of what exchanges gradients.

    Args:
        engine: "fleet" or "DataParallel".
        sharding: Among how many processes fleet divides optimizers' states.
        **settings: Settings of DataParallel.
    """

    def wrap(model: Any) -> Any:
        if engine == "DataParallel":
            dist.init_parallel_env()
            return paddle.DataParallel(model, **settings)
        _begin(min(sharding, dist.get_world_size()))
        # In one process it takes models of pipelines alone.
        return wrapped_by(engine, model) if dist.get_world_size() > 1 else model

    def optimizer(handle: uf.Handle, model: Any) -> Any:
        inner = adamw(handle, model)
        return optimizer_of(engine, inner) if dist.get_world_size() > 1 else inner

    return replace(PLAIN, wrap=wrap, optimizer=optimizer)


def wrapped(wrap: Callable[[Any], Any], **others: Any) -> Kit:
    """Return the kit of a wrapper."""
    return replace(PLAIN, wrap=wrap, **others)


def optimized(cls: type, **settings: Any) -> Kit:
    """Return the kit of an optimizer that a handle builds."""
    return replace(PLAIN, optimizer=partial(_build, cls, {"lr": RATE, **settings}))


def _build(cls: type, settings: dict[str, Any], handle: uf.Handle, _model: Any) -> Any:
    return handle.optimizer(cls, **settings)
