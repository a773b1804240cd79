"""Whether an edit of a Paddle network changes anything that it computes, without unifreeze.

Two copies with the same weights, one of them edited, compute in double precision on several
batches: outputs in inference; then, from the same random state, two steps of training with their
outputs, gradients, buffers and parameters; and inference again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle

SAME = 1e-13
"""Relative difference in double precision that another order of sums makes."""


def effect(
    build: Callable[[], Any], state: Any, edit: Callable[[Any], Any], batches: list[Any]
) -> str:
    """Return where an edit first shows; "" if it shows nowhere.

    Args:
        build: Makes the network; each time another one.
        state: The weights of both copies, as a state dict.
        edit: Edits the second copy.
        batches: What the network is called with, a dictionary or an array for each.
    """
    plain, edited = build(), build()
    for model in (plain, edited):
        model.set_state_dict(state)
        model.to(dtype="float64")
    edit(edited)
    for batch in batches:
        runs = zip(seen(plain, batch), seen(edited, batch), strict=False)
        for (what, here), (where, there) in runs:
            if what != where or _apart(here, there) > SAME:
                return what
    return ""


def seen(model: Any, batch: Any) -> Iterator[tuple[str, Any]]:
    """Yield everything that a network shows on a batch, in order, with what it is."""
    model.eval()
    yield from (("outputs in inference", array) for array in outputs(model, batch))
    model.train()
    for _ in range(2):
        paddle.seed(0)
        results = outputs(model, batch)
        yield from (("outputs in training", array) for array in results)
        loss = sum((r * _weights(r)).sum() for r in results)
        loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                yield f"gradient of {name}", parameter.grad
                parameter.set_value(parameter - 0.01 * parameter.grad)
                parameter.clear_gradient()
        for name, buffer in model.named_buffers():
            yield f"state of {name}", buffer
    model.eval()
    yield from (("outputs after training", array) for array in outputs(model, batch))


def outputs(model: Any, batch: Any) -> list[Any]:
    """Return the floating tensors that a network returns."""
    given = (
        {name: paddle.to_tensor(a) for name, a in batch.items()} if isinstance(batch, dict) else {}
    )
    result = model(**given) if given else model(paddle.to_tensor(batch))
    flat = result if isinstance(result, tuple | list) else [result]
    return [t for t in flat if isinstance(t, paddle.Tensor) and t.is_floating_point()]


def _weights(tensor: Any) -> Any:
    draw = np.random.default_rng(5)
    return paddle.to_tensor(draw.standard_normal(tensor.shape))


def _apart(one: Any, other: Any) -> float:
    a, b = (np.asarray(t.numpy(), np.float64) for t in (one, other))
    if a.shape != b.shape:
        return float("inf")
    size = float(np.linalg.norm(a)) or 1.0
    gap = float(np.linalg.norm(a - b)) / size
    return gap if gap == gap else float("inf")


def images(count: int = 4) -> list[Any]:
    """Return pictures of several sizes of values."""
    draw = np.random.default_rng(11)
    return [draw.standard_normal((4, 3, 9, 9)) * scale for scale in (1.0, 16.0, 0.01)][:count]


def texts(words: int = 99, length: int = 40) -> list[Any]:
    """Return token ids of all words at all places, with and without padding."""
    draw = np.random.default_rng(12)
    rows = []
    for number in range(3):
        ids = draw.permutation(np.arange(3 * length) % words).reshape(3, length)
        mask = np.ones_like(ids)
        if number:
            ids[0, -5:], mask[0, -5:] = 0, 0
        rows.append({"input_ids": ids, "attention_mask": mask})
    return rows
