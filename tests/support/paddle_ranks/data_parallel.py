"""Runs under `paddle.DataParallel` in which flags change, in many ways."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

import unifreeze as uf
from tests.support.paddle_ranks.nets import Block, Net, loss_of
from tests.support.paddle_ranks.runs import Alone, Together
from unifreeze_paddle import _gradient_exchange as exchange

PHASES = """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 0.01}
  - {name: top, at: {step: 5}, rules: [{only: "blocks[-1:] | head"}]}
  - {name: again, at: {step: 10}, rules: [{only: head}]}
  - {name: all, at: {step: 15}, rules: [{train: all}], lr: 0.005}
"""
SHORT = """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: all, at: {step: 2}, rules: [{train: all}]}
  - {name: top, at: {step: 4}, rules: [{only: "blocks[-1:] | head"}]}
"""


def _adamw(handle: Any) -> Any:
    return handle.optimizer(paddle.optimizer.AdamW, lr=0.01, weight_decay=0.01)


def _phases(run: Together, plan: str, steps: int, *, before: bool) -> None:
    """Train through a plan's phases."""
    if not before:
        run.wrap()
    handle = uf.FreezePlan.from_yaml(plan).apply(run.model)
    if before:
        run.wrap()
    optimizer = _adamw(handle)
    for step in range(steps):
        handle.step(step=step)
        run.step(optimizer, step)
    handle.verify()


def plan_then_wrap(run: Together) -> None:
    """Apply a plan with phases, then wrap."""
    _phases(run, PHASES, 20, before=True)


def wrap_then_plan(run: Together) -> None:
    """Wrap, then apply a plan with phases to the bare model."""
    _phases(run, PHASES, 20, before=False)


def unused_are_found(run: Together) -> None:
    """Leave a block out in some steps."""
    run.settings = {"find_unused_parameters": True}
    run.wrap()
    handle = uf.FreezePlan.from_yaml(SHORT).apply(run.model)
    optimizer = _adamw(handle)
    for step in range(6):
        handle.step(step=step)
        run.model.skipped = 1 if step in (3, 5) else -1
        run.step(optimizer, step)


def small_groups(run: Together) -> None:
    """Exchange in many small groups."""
    run.settings = {"comm_buffer_size": 0.0002, "last_comm_buffer_size": 0.0001}
    _phases(run, SHORT, 6, before=False)


def blocks_recompute(run: Together) -> None:
    """Recompute blocks in the backward pass."""
    run.model.recomputes = True
    _phases(run, SHORT, 6, before=True)


def gradients_accumulate(run: Together) -> None:
    """Take each step on two batches, of which only the second exchanges."""
    run.wrap()
    handle = uf.FreezePlan.from_yaml(SHORT).apply(run.model)
    optimizer = _adamw(handle)
    for step in range(6):
        handle.step(step=step)
        run.step(optimizer, step, step + 100)


def evaluation_with_gradient(run: Together) -> None:
    """Evaluate without `no_grad` before each step and before phases change."""
    run.wrap()
    handle = uf.FreezePlan.from_yaml(SHORT).apply(run.model)
    optimizer = _adamw(handle)
    for step in range(6):
        run.evaluate(step)
        handle.step(step=step)
        run.step(optimizer, step)
        run.evaluate(step)


def second_plans(run: Together) -> None:
    """Apply one plan after the other to the bare model, then remove the last."""
    run.wrap()
    sgd = paddle.optimizer.SGD(0.05, parameters=run.model.parameters())
    for number, selector in enumerate(("head", "blocks[:2]", "stem | head")):
        handle = uf.FreezePlan().only(selector).apply(run.model)
        run.step(sgd, 2 * number)
        run.step(sgd, 2 * number + 1)
    handle.remove()
    run.step(sgd, 10)


def nothing_trains_meanwhile(run: Together) -> None:
    """Freeze everything, evaluate, and thaw it."""
    run.wrap()
    sgd = paddle.optimizer.SGD(0.05, parameters=run.model.parameters())
    run.step(sgd, 0)
    handle = uf.FreezePlan().freeze("all").apply(run.model)
    run.evaluate(0)
    handle.remove()
    run.step(sgd, 1)


def state_is_loaded(run: Together) -> None:
    """Continue from a saved state, in a later phase, after wrapping."""
    run.wrap()
    plan = uf.FreezePlan.from_yaml(SHORT)
    handle = plan.apply(run.model)
    optimizer = _adamw(handle)
    for step in range(3):
        handle.step(step=step)
        run.step(optimizer, step)
    state = handle.state_dict()
    handle.remove()
    resumed = plan.apply(run.model)
    resumed.load_state_dict(state)
    optimizer = _adamw(resumed)
    for step in range(3, 6):
        resumed.step(step=step)
        run.step(optimizer, step)


def layer_is_replaced(run: Together) -> None:
    """Replace a layer that trains, and one that does not, and apply the plan again."""
    run.wrap()
    handle = uf.FreezePlan().only("head | blocks[-1:]").apply(run.model)
    run.step(paddle.optimizer.SGD(0.05, parameters=run.model.parameters()), 0)
    run.model.head = paddle.nn.Linear(16, 2)
    run.model.blocks[0] = Block(16)
    handle.reapply()
    sgd = paddle.optimizer.SGD(0.05, parameters=run.model.parameters())
    run.step(sgd, 1)
    run.step(sgd, 2)


def frozen_for_a_while(run: Together) -> None:
    """Freeze a part for a while, in a `with` statement."""
    run.wrap()
    sgd = paddle.optimizer.SGD(0.05, parameters=run.model.parameters())
    run.step(sgd, 0)
    for step in (1, 2):
        with uf.frozen(run.model.blocks):
            run.step(sgd, step)
        with uf.frozen(run.model):
            run.evaluate(step)
    run.step(sgd, 3)


def wrapper_of_a_part(run: Together) -> None:
    """Apply plans to a part of the model that is wrapped."""
    run.wrap()
    sgd = paddle.optimizer.SGD(0.05, parameters=run.model.parameters())
    handle = uf.FreezePlan().freeze("all").apply(run.model.blocks[0])
    run.step(sgd, 0)
    handle.remove()
    run.step(sgd, 1)


def several_models(run: Together) -> None:
    """Apply plans to several models at once, of which one is wrapped."""
    run.wrap()
    sgd = paddle.optimizer.SGD(0.05, parameters=run.model.parameters())
    for number, student in enumerate((run.wrapped, run.model)):
        models = {"student": student, "teacher": Net()}
        plan = uf.FreezePlan().only(f"student.{'head' if number else 'stem'}")
        handle = uf.apply(plan, models)
        run.step(sgd, number)
    handle.remove()
    run.step(sgd, 2)


def wrapper_is_nested(run: Together) -> None:
    """Apply plans to a model that holds the wrapper."""
    run.wrap()
    around = paddle.nn.Sequential(run.wrapped, paddle.nn.Linear(2, 2))
    sgd = paddle.optimizer.SGD(0.05, parameters=run.model.parameters())
    handle = uf.FreezePlan().only('path:"0.head"').apply(around)
    run.step(sgd, 0)
    handle.remove()
    run.step(sgd, 1)


def model_is_wrapped_anew(run: Together) -> None:
    """Wrap a model again, after its first wrapper has gone: each `train()` of a trainer does."""
    for selector in ("head", "blocks[-1:] | head", "stem"):
        run.wrap()
        sgd = paddle.optimizer.SGD(0.05, parameters=run.model.parameters())
        handle = uf.FreezePlan().only(selector).apply(run.model)
        run.step(sgd, 0)
        handle.remove()
        run.step(sgd, 1)
        run.wrapped = None
        gc.collect()


def processes_are_seeded_differently(run: Together) -> None:
    """Wrap models of different values: all get those of the first process, which is no drift."""
    paddle.seed(0 if isinstance(run, Alone) else dist.get_rank())
    run.model = Net()
    handle = uf.FreezePlan.from_yaml(SHORT).apply(run.model)
    run.wrap()
    optimizer = _adamw(handle)
    handle.verify()
    for step in range(6):
        handle.step(step=step)
        run.step(optimizer, step)
        handle.verify()


def reducer_is_built_once(run: Together) -> None:
    """Train where Paddle cannot build a second reducer."""

    def refuse(wrapper: Any) -> None:
        raise TypeError("init_reducer() missing 1 required positional argument")

    run.wrap()
    build, exchange._init_reducer = exchange._init_reducer, refuse
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            handle = uf.FreezePlan.from_yaml(SHORT).apply(run.model)
            optimizer = _adamw(handle)
            for step in range(6):
                handle.step(step=step)
                run.step(optimizer, step)
    finally:
        exchange._init_reducer = build
    said = [str(w.message) for w in caught if "one by one" in str(w.message)]
    assert bool(said) != isinstance(run, Alone)


def _many_sets(run: Together) -> None:
    """Train more sets of parameters than a wrapper gets reducers, some of them again."""
    most, exchange._MOST_REDUCERS = exchange._MOST_REDUCERS, 2
    try:
        run.wrap()
        sgd = paddle.optimizer.SGD(0.05, parameters=run.model.parameters())
        for step, selector in enumerate(("head", "stem", "blocks[1]", "head", "bias", "blocks[1]")):
            uf.FreezePlan().only(selector).apply(run.model)
            run.step(sgd, step)
            run.evaluate(step)
            run.step(sgd, step + 10, step + 20)
    finally:
        exchange._MOST_REDUCERS = most


def more_sets_than_reducers(run: Together) -> None:
    """Train more sets of parameters than a wrapper gets reducers."""
    _many_sets(run)


def more_sets_that_recompute(run: Together) -> None:
    """Do the same while blocks recompute in the backward pass."""
    run.model.recomputes = True
    _many_sets(run)


def more_sets_with_unused_ones(run: Together) -> None:
    """Do the same where some parameters are not used in some steps."""
    run.settings = {"find_unused_parameters": True}
    run.model.skipped = 1
    _many_sets(run)


RUNS: tuple[Callable[[Together], None], ...] = (
    plan_then_wrap,
    wrap_then_plan,
    unused_are_found,
    small_groups,
    blocks_recompute,
    gradients_accumulate,
    evaluation_with_gradient,
    second_plans,
    nothing_trains_meanwhile,
    state_is_loaded,
    layer_is_replaced,
    frozen_for_a_while,
    wrapper_of_a_part,
    several_models,
    wrapper_is_nested,
    model_is_wrapped_anew,
    processes_are_seeded_differently,
    reducer_is_built_once,
    more_sets_than_reducers,
    more_sets_that_recompute,
    more_sets_with_unused_ones,
)


def alone() -> dict[str, Any]:
    """Do every run in this process, for two."""
    return {run.__name__: _after(run, Alone()) for run in RUNS}


def together() -> dict[str, Any]:
    """Do this process's part of every run; measure the bytes that steps send."""
    dist.init_parallel_env()
    return {run.__name__: _after(run, Together()) for run in RUNS} | {"traffic": _traffic()}


def _after(run: Callable[[Together], None], on: Together) -> Any:
    try:
        run(on)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return on.after


def _traffic() -> dict[str, float]:
    """Return the bytes that each of this process's steps sends in a head phase and a full one."""
    paddle.seed(0)
    model = Net(width=128)
    wrapped = paddle.DataParallel(model)
    sgd = paddle.optimizer.SGD(0.01, parameters=model.parameters())
    sent = {}
    for name, plan in (
        ("head", uf.FreezePlan().only("head")),
        ("all", uf.FreezePlan().train("all")),
    ):
        plan.apply(model)
        for step in range(4):
            if step == 1:
                before = _bytes_written()
            loss_of(wrapped, step, dist.get_rank()).backward()
            sgd.step()
            sgd.clear_grad()
        sent[name] = (_bytes_written() - before) / 3
    return sent


def _bytes_written() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def many_changes() -> dict[str, Any]:
    """Train 1,000 steps with 200 changes of random plans; return memory and values."""
    dist.init_parallel_env()
    paddle.seed(0)
    model = Net(width=128)
    wrapped = paddle.DataParallel(model)
    sgd = paddle.optimizer.SGD(0.001, parameters=model.parameters())
    draw = np.random.default_rng(0)
    names = [f'path:"{name}"' for name, _ in model.named_parameters()]
    memory = []
    start = time.perf_counter()
    for step in range(1000):
        if step % 5 == 0:
            drawn = draw.choice(names, draw.integers(1, len(names)), replace=False)
            uf.FreezePlan().only(" | ".join(drawn)).apply(model)
        loss_of(wrapped, step, dist.get_rank()).backward()
        sgd.step()
        sgd.clear_grad()
        if step % 100 == 99:
            memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    equal: list[Any] = []
    dist.all_gather_object(equal, [t._md5sum() for t in model.parameters()])
    return {
        "memory": memory,
        "equal": equal[0] == equal[1],
        "seconds": time.perf_counter() - start,
    }
