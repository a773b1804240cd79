"""Judging a pairing without asking it: the weights are ported, and both networks run.

Everything is compared in double precision, in every mode, on inputs that pairing never saw: each
tensor with the one that the description says it is, each output, and each gradient.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

import unifreeze as uf
from tests.support.pairs.drawn.building import FRAMEWORKS, Program
from tests.support.pairs.drawn.description import MAIN, PADDLE, TORCH, Description
from tests.support.pairs.drawn.drawing import CHANNELS, LENGTH, SIDE_LENGTH, VOCABULARY
from tests.support.pairs.drawn.either_side import everything, gradient_of, state_of, to_array

LIMIT = 1e-6
"""Relative difference up to which two tensors in double precision are equal.

Paddle keeps a norm's epsilon in single precision, which alone makes some 1e-8."""


class Outcome(NamedTuple):
    """What became of one network.

    Attributes:
        verdict: "right"; "partly" where it is right but for what was left with a reason;
            "refused" with a reason; or "wrong".
        why: What is wrong, or the reason given.
    """

    verdict: str
    why: str = ""


def inputs(net: Description, seed: int) -> Any:
    """Return a batch for a network."""
    draw = np.random.default_rng([net.seed, seed])
    if net.domain == "tokens":
        return draw.integers(0, VOCABULARY, (3, LENGTH))
    if net.domain == "image":
        return draw.standard_normal((3, CHANNELS, SIDE_LENGTH, SIDE_LENGTH)).astype("float32")
    return draw.standard_normal((4, _width(net))).astype("float32")


def _width(net: Description) -> int:
    return net.parts["p0"].sizes["i"]


def build(net: Description) -> tuple[tuple[Program, Program], list[Any]]:
    """Build both ports; the source's statistics are moved from where they start."""
    programs = Program(net, TORCH), Program(net, PADDLE)
    models = [program.build() for program in programs]
    for side in (TORCH, PADDLE):
        _fill(programs[side], models[side])
        models[side].eval()
    return programs, models


def _fill(program: Program, model: Any) -> None:
    """Give every tensor values of its own: nothing starts as zeros or ones."""
    draw = np.random.default_rng([program.net.seed, program.side, 5])
    for path, tensor in everything(model).items():
        array = to_array(tensor)
        if array.dtype.kind == "f":
            values = draw.standard_normal(array.shape) * 0.4 + 0.3
            if path.endswith(("var", "_variance")):
                values = draw.uniform(0.5, 1.5, array.shape)
            program.f.write(tensor, np.asarray(values, array.dtype))


def judge(net: Description, *, backwards: bool = False) -> Outcome:
    """Pair, port and compare.

    Args:
        net: The network.
        backwards: From Paddle to PyTorch.
    """
    programs, models = build(net)
    source, target = (PADDLE, TORCH) if backwards else (TORCH, PADDLE)
    batch = inputs(net, 0)
    if any(net.inputs):
        names = ("torch", "paddle")
        batch = {names[side]: {net.inputs[side]: batch} for side in (TORCH, PADDLE)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pairing = uf.pair(models[source], models[target], batch=batch)
            left = {row.path for row in pairing.left}
            ported = uf.port_weights(
                models[source], models[target], pairing=pairing, partial=bool(left)
            )
    except uf.UnifreezeError as error:
        return Outcome("refused", str(error))
    untouched = _untouched(net, programs, models, target, ported)
    wrong = _wrong_tensors(programs, models, untouched) or _wrong_runs(
        net, programs, models, untouched
    )
    if wrong:
        return Outcome("wrong", f"{wrong}\n{pairing}")
    return Outcome("partly", str(pairing)) if untouched else Outcome("right")


def carry_by_description(net: Description, programs: Any, models: Any) -> None:
    """Carry every tensor over as the description says, to see that both ports are one network."""
    state = state_of(models[TORCH])
    live = everything(models[PADDLE])
    for known, place in programs[TORCH].places.items():
        there = programs[PADDLE].places[known]
        array = to_array(live[there.path]).copy()
        there.write(array, place.read(state[place.path]))
        programs[PADDLE].f.write(live[there.path], array)


def check_description(net: Description) -> str:
    """Say in what the two ports of a description differ; "" if in nothing."""
    programs, models = build(net)
    carry_by_description(net, programs, models)
    return _wrong_tensors(programs, models, {}) or _wrong_runs(net, programs, models, {})


def _untouched(
    net: Description, programs: Any, models: Any, target: int, ported: Any
) -> dict[str, str]:
    """Return the tensors of the description that the port says it did not carry over."""
    said = {path.partition("[")[0] for path in ported.untouched}
    return {
        known: known.partition(".")[0]
        for known, place in programs[target].places.items()
        if place.path in said
    }


def _wrong_tensors(programs: Any, models: Any, untouched: Any) -> str:
    states = [state_of(model) for model in models]
    for known, place in programs[TORCH].places.items():
        there = programs[PADDLE].places[known]
        if known not in untouched and not np.array_equal(
            place.read(states[TORCH][place.path]), there.read(states[PADDLE][there.path])
        ):
            return f"{known} ({place.path} and {there.path}) does not hold the same values"
    return ""


def _wrong_runs(net: Description, programs: Any, models: Any, untouched: dict[str, str]) -> str:
    models = [f.double(model) for f, model in zip(FRAMEWORKS, models, strict=True)]
    for mode in net.modes:
        if net.used(mode) & set(untouched.values()) and mode != MAIN:
            continue  # it was said that this would not be right
        for seed in (1, 2):
            wrong = _wrong_run(net, programs, models, mode, seed)
            if wrong:
                return f"in mode {mode}, {wrong}"
    return ""


def _wrong_run(net: Description, programs: Any, models: Any, mode: str, seed: int) -> str:
    found = [_run(net, programs[side], models[side], mode, seed) for side in (TORCH, PADDLE)]
    (outputs, gradients), (their_outputs, their_gradients) = found
    for name, output in outputs.items():
        if _gap(output, their_outputs[name]) > LIMIT:
            return f"output {name} differs by {_gap(output, their_outputs[name]):.1e}"
    largest = max((np.abs(g).max() for g in gradients.values() if g is not None), default=0.0)
    for known, gradient in gradients.items():
        there = their_gradients[known]
        if gradient is None or there is None:
            if (gradient is None) != (there is None) and not net.cut and _any(gradient, there):
                return f"{known} gets a gradient on one side only"
        elif np.abs(gradient - there).max() > LIMIT * max(largest, 1.0) and not _cut(net):
            return f"the gradient of {known} differs by {np.abs(gradient - there).max():.1e}"
    return ""


def _any(one: Any, other: Any) -> bool:
    return any(g is not None and np.abs(g).max() > LIMIT for g in (one, other))


def _cut(net: Description) -> bool:
    """Tell whether the two ports are written to have other gradients."""
    return "cut" in net.obstacles


def _gap(one: Any, other: Any) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-300))


def _run(net: Description, program: Program, model: Any, mode: str, seed: int) -> Any:
    f, batch = program.f, inputs(net, seed)
    batch = batch.astype("float64") if batch.dtype.kind == "f" else batch
    for tensor in everything(model).values():
        if hasattr(tensor, "clear_gradient"):
            tensor.clear_gradient(False)
        else:
            tensor.grad = None
    result = program.run(model, f.tensor(batch), mode)
    side = net.sides[program.side]
    outputs = _by_name(result, side)
    draw = np.random.default_rng([net.seed, seed, 9])
    weights = {name: draw.standard_normal(t.shape) for name, t in sorted(outputs.items())}
    f.backward([(outputs[name], weights[name]) for name in weights])
    live = everything(model)
    gradients = {}
    for known, place in program.places.items():
        gradient = gradient_of(live[place.path])
        gradients[known] = None if gradient is None else place.read(gradient)
    return {name: to_array(tensor) for name, tensor in outputs.items()}, gradients


def _by_name(result: Any, side: Any) -> dict[str, Any]:
    if isinstance(result, dict):
        return dict(result)
    results = result if isinstance(result, tuple) else (result,)
    return dict(zip(side.output_order, results, strict=True))


__all__ = ["MAIN", "Outcome", "build", "judge"]
