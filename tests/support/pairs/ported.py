"""Whether two live models are one function, found out by running them, and by nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import torch

import unifreeze as uf

LIMIT = 1e-6
"""Relative difference, in double precision; Paddle keeps epsilons in single precision."""


def ported(source: Any, target: Any, batch: Any, **settings: Any) -> uf.Pairing:
    """Pair two models, carry the weights over, and return the pairing."""
    pairing = uf.pair(source, target, batch=batch, **settings)
    uf.port_weights(source, target, pairing=pairing)
    return pairing


def scramble(model: Any, seed: int = 0) -> Any:
    """Give every tensor of a model values of its own, as training would; return the model."""
    draw = np.random.default_rng(seed)
    for name, tensor in _tensors(model).items():
        array = np.asarray(tensor.detach().numpy())
        if array.dtype.kind == "f":
            values = draw.standard_normal(array.shape) * 0.4 + 0.2
            if name.endswith(("var", "_variance")):
                values = draw.uniform(0.5, 1.5, array.shape)
            _write(tensor, np.asarray(values, array.dtype))
    return model


def gap(
    one: Any, other: Any, *inputs: Any, names: dict[str, str] | None = None, **call: Any
) -> float:
    """Return the largest relative difference of an output, an input's gradient or a parameter's.

    Both models are run in double precision, in inference mode, and left there.

    Args:
        one: A model of PyTorch.
        other: Its port to Paddle.
        inputs: Arrays for both.
        names: Parameters whose gradients to compare, by their names in both.
        call: What else both take.
    """
    ours, theirs = _run(one, inputs, call), _run(other, inputs, call)
    assert ours[0].keys() == theirs[0].keys()
    gaps = [_relative(value, theirs[0][key]) for key, value in ours[0].items()]
    gaps += [_relative(a, b) for a, b in zip(ours[1], theirs[1], strict=True)]
    for here, there in (names or {}).items():
        a, b = _gradient(_tensors(one)[here]), _gradient(_tensors(other)[there])
        gaps.append(min(_relative(a, turned) for turned in (b, b.T) if a.size == turned.size))
    return max(gaps)


def _run(model: Any, inputs: Any, call: Any) -> tuple[dict[str, Any], list[Any]]:
    is_torch = isinstance(model, torch.nn.Module)
    model.eval()
    model.double() if is_torch else model._to_impl(dtype="float64", floating_only=True)
    for tensor in _tensors(model).values():
        if is_torch:
            tensor.grad = None
        else:
            tensor.clear_gradient(False)
    given = []
    for array in map(np.asarray, inputs):
        floating = array.dtype.kind == "f"
        array = array.astype("float64") if floating else array
        tensor = torch.tensor(array) if is_torch else paddle.to_tensor(array)
        if floating and is_torch:
            tensor.requires_grad = True
        elif floating:
            tensor.stop_gradient = False
        given.append(tensor)
    outputs = _named(model(*given, **call))
    draw = np.random.default_rng(7)
    shapes = {key: tuple(map(int, outputs[key].shape)) for key in sorted(outputs)}
    weights = {key: draw.standard_normal(shape) for key, shape in shapes.items()}
    make = torch.tensor if is_torch else paddle.to_tensor
    terms = [(outputs[key] * make(weight)).sum() for key, weight in weights.items()]
    (sum(terms) if is_torch else paddle.add_n(terms)).backward()
    gradients = [_gradient(tensor) for tensor in given if not _is_whole(tensor)]
    return {key: tensor.detach().numpy() for key, tensor in outputs.items()}, gradients


def _is_whole(tensor: Any) -> bool:
    return "int" in str(tensor.dtype)


def _named(result: Any) -> dict[str, Any]:
    if isinstance(result, dict):
        return dict(result)
    results = result if isinstance(result, tuple | list) else (result,)
    return {str(number): tensor for number, tensor in enumerate(results)}


def _gradient(tensor: Any) -> Any:
    return np.zeros(tuple(map(int, tensor.shape))) if tensor.grad is None else tensor.grad.numpy()


def _relative(one: Any, other: Any) -> float:
    scale = max(float(np.abs(one).max(initial=0.0)), 1e-12)
    return float(np.abs(one.reshape(-1) - other.reshape(-1)).max(initial=0.0)) / scale


def _tensors(model: Any) -> dict[str, Any]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _write(tensor: Any, array: Any) -> None:
    if isinstance(tensor, torch.Tensor):
        with torch.no_grad():
            tensor.copy_(torch.tensor(array))
    else:
        tensor.set_value(array)
