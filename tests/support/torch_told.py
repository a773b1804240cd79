"""Processes that do not do the same, and what each of them is told; files that they write."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

import unifreeze as uf
from tests.support.torch_processes import Counted, bits, counting_hook, join, make, shard

WAIT = 1.5
"""Seconds that a process waits for the others here."""
PHASES = """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: all, at: {step: 2}, rules: [{train: all}]}
"""
METRIC = PHASES.replace("at: {step: 2}", "when: {metric: loss, stalled_for: 1}")
BEST = METRIC.replace("rules: [{train: all}]", "rules: [{train: all}], restore_best: true")


def began(text: str = PHASES, seed: int = 0) -> tuple[Any, Any, uf.Handle, Any]:
    """Build a model under a plan, with a wrapper and an optimizer."""
    model = make(seed)
    handle = uf.FreezePlan.from_yaml(text).apply(model)
    engine = DistributedDataParallel(model)
    return model, engine, handle, handle.optimizer(torch.optim.AdamW, lr=1e-2)


def step(engine: Any, optimizer: Any, number: int = 0) -> None:
    """Train one step on this process's share."""
    optimizer.zero_grad()
    engine(shard(number, dist.get_rank())).square().mean().backward()
    optimizer.step()


def told(call: Callable[[], Any]) -> str:
    """Return what a call raises, or "" if it raises nothing, and check that it does not hang."""
    start = time.monotonic()
    try:
        call()
        return ""
    except uf.errors.RanksError as error:
        assert time.monotonic() - start < WAIT + 20
        return str(error)


def everybody() -> None:
    """Wait until all processes are here: whoever waits for nobody would end too soon."""
    dist.barrier()


def a_plan_that_differs(rank: int) -> str:
    model = make()
    handle = uf.FreezePlan().only(["head", "stem"][rank]).apply(model)
    engine = DistributedDataParallel(model, init_sync=False)
    return told(lambda: step(engine, handle.optimizer(torch.optim.SGD, lr=0.1)))


def a_second_plan_in_one_process(rank: int) -> str:
    model, engine, _, optimizer = began()
    step_all(engine, optimizer)
    text = ""
    if rank == 0:
        handle = uf.FreezePlan().only("stem").apply(model)
        text = told(lambda: step(engine, handle.optimizer(torch.optim.SGD, lr=0.1)))
    everybody()
    return text


def step_all(engine: Any, optimizer: Any) -> None:
    """Train one step that all processes agree on; the schedule of phases is told first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine(shard(0, dist.get_rank())).square().mean().backward()
    optimizer.zero_grad()


def removal_in_one_process(rank: int) -> str:
    model = make()
    handle = uf.freeze(model, "stem")
    engine = DistributedDataParallel(model)
    step(engine, handle.optimizer(torch.optim.SGD, lr=0.1))
    text = ""
    if rank == 0:
        handle.remove()
        text = told(lambda: engine(shard(0, rank)))
    everybody()
    return text


def a_phase_in_one_process(rank: int) -> str:
    _model, _engine, handle, _optimizer = began()
    text = ""
    if rank == 0:
        handle.step(step=0)
        text = told(lambda: handle.step(step=2))
        assert handle.phase is not None
        text += f" / {handle.phase.name}, {handle.verify().parameters} frozen"
    everybody()
    return text


def a_step_in_one_process(rank: int) -> str:
    _model, _engine, handle, _optimizer = began(METRIC)
    text = told(lambda: handle.step(epoch=0, metrics={"loss": 1.0})) if rank else ""
    everybody()
    return text


def epochs_that_differ(rank: int) -> str:
    _model, _engine, handle, _optimizer = began(METRIC)
    return told(lambda: handle.step(epoch=rank, metrics={"loss": 1.0}))


def other_phases_at_one_step(rank: int) -> str:
    _model, _engine, handle, _optimizer = began(PHASES.replace("step: 2", f"step: {2 - rank}"))
    handle.step(step=0)
    return told(lambda: handle.step(step=2))


def metrics_that_differ(rank: int) -> list[Any]:
    """Return the phase of each epoch, whether ranks are equal, and what was warned of."""
    model, engine, handle, optimizer = began(METRIC)
    names = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in range(5):
            measured = {"loss": 1.0 if rank else 1.0 - 0.1 * min(epoch, 2)} if epoch else None
            handle.step(epoch=epoch, metrics=measured if rank == 0 or epoch < 3 else None)
            step(engine, optimizer, epoch)
            names.append(handle.phase and handle.phase.name)
    texts = [str(w.message) for w in caught if issubclass(w.category, uf.errors.UnifreezeWarning)]
    return [names, bits(model), texts]


def apply_in_one_process(rank: int) -> str:
    """A script that looks at a plan in one process alone is not kept waiting."""
    _, engine, _, optimizer = began()
    step_all(engine, optimizer)
    before = time.monotonic()
    if rank == 0:
        handle = uf.FreezePlan().only("head").apply(make())
        handle.verify()
        handle.remove()
    assert time.monotonic() - before < WAIT
    everybody()
    return ""


def ranks_with_other_seeds(rank: int) -> list[str]:
    """Return what verify says after wrapping, before and after training, and of a real change."""
    texts = []
    for how in ("ddp", "fsdp2", "ddp, trained", "fsdp2, trained"):
        model = make(seed=rank)
        handle = uf.freeze(model, "~head")
        engine = DistributedDataParallel(model) if "ddp" in how else fully_shard(model)
        optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-2)
        if "trained" in how:
            step(engine, optimizer)
        texts.append(told_of_drift(handle))
        with torch.no_grad():
            if "ddp" in how or rank == 1:
                next(model.parameters()).add_(1)
        texts.append(told_of_drift(handle))
    return texts


def told_of_drift(handle: uf.Handle) -> str:
    """Return the kinds of drift that verify finds, with the first path; "" if none."""
    try:
        handle.verify()
        return ""
    except uf.errors.FrozenDriftError as error:
        return str(error.drifts[0]).partition(" (")[0]


def bytes_of_phases(rank: int) -> list[int]:
    """Return the bytes that one step exchanges: of the head, of all, of the head again."""
    model = make()
    engine, counted = DistributedDataParallel(model), Counted()
    engine.register_comm_hook(counted, counting_hook)
    sizes = []
    for words in ("head", "all", "head"):
        plan = uf.FreezePlan().train("all") if words == "all" else uf.FreezePlan().only(words)
        handle = plan.apply(model)
        optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)
        for number in range(2):
            counted.bytes = 0
            step(engine, optimizer, number)
        sizes.append(counted.bytes)
    return sizes


def many_changes(rank: int) -> tuple[str, int, bool]:
    """Return the bits after 60 changes of flags, how many parameters train, and if they moved."""
    model = make()
    engine = DistributedDataParallel(model)
    start = bits(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    handle = None
    for number in range(60):
        words = ("head", "stem | head", "blocks[1]", "all")[number * 7 % 4]
        if number % 5 == 4 and handle is not None:
            handle.remove()
            handle = None
        else:
            plan = uf.FreezePlan().train("all") if words == "all" else uf.FreezePlan().only(words)
            handle = plan.apply(engine if number % 2 else model)
        step(engine, optimizer, number)
    return bits(model), sum(p.requires_grad for p in model.parameters()), bits(model) != start


def flattened(rank: int) -> list[str]:
    """Return what is said under `FullyShardedDataParallel`: of four plans, and of verify inside."""
    texts = []
    cpu = torch.device("cpu")
    engine = FullyShardedDataParallel(make(), use_orig_params=True, device_id=cpu)
    texts.append(refused(lambda: uf.freeze(engine, "~head")))
    model = make(seed=rank)
    handle = uf.freeze(model, "~head")
    engine = FullyShardedDataParallel(model, use_orig_params=True, device_id=cpu)
    optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)
    step(engine, optimizer)
    with FullyShardedDataParallel.summon_full_params(engine):
        texts.append(refused(handle.verify))
    step(engine, optimizer)
    texts.append(told_of_drift(handle))
    model = make()
    handle = uf.FreezePlan.from_yaml(PHASES).apply(model)
    engine = FullyShardedDataParallel(model, use_orig_params=True, device_id=cpu)
    texts.append(refused(lambda: handle.optimizer(torch.optim.SGD, lr=0.1)))
    return texts


def refused(call: Callable[[], Any]) -> str:
    """Return what a call is refused with; "" if it is not."""
    try:
        call()
        return ""
    except uf.UnifreezeError as error:
        return str(error)


def resumed_after_wrapping(rank: int) -> tuple[str, str, bool]:
    """Load the state of a run of one process after wrapping; return phase, bits, if all moved."""
    alone = make()
    first = uf.FreezePlan.from_yaml(PHASES).apply(alone)
    optimizer = first.optimizer(torch.optim.AdamW, lr=1e-2)
    for number in range(3):
        first.step(step=number)
        optimizer.zero_grad()
        alone(shard(number, 0)).square().mean().backward()
        optimizer.step()
    model, engine, handle, optimizer = began()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    handle.load_state_dict(first.state_dict())
    handle.step(step=3)
    step(engine, optimizer, 3)
    rows = zip(model.parameters(), before, strict=True)
    assert handle.phase is not None
    return handle.phase.name, bits(model), not any(torch.equal(p, then) for p, then in rows)


def wrapped_late(rank: int) -> list[Any]:
    """Wrap only after a phase has begun, and again after the state of that run was loaded."""
    saved, seen = None, []
    for steps in (range(4), range(4, 6)):
        model = make()
        handle = uf.FreezePlan.from_yaml(PHASES).apply(model)
        if saved is not None:
            handle.load_state_dict(saved)
        optimizer, engine = handle.optimizer(torch.optim.AdamW, lr=1e-2), None
        for number in steps:
            handle.step(step=number)
            engine = engine or DistributedDataParallel(model)
            step(engine, optimizer, number)
            assert handle.phase is not None
            seen.append((handle.phase.name, bits(model)))
        handle.verify()
        saved = handle.state_dict()
    return seen


def a_plan_that_differs_on_parts(rank: int) -> str:
    model = fully_shard(make())
    handle = uf.FreezePlan().only(["head", "stem"][rank]).apply(model)
    optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)
    return told(lambda: step(model, optimizer))


def a_phase_in_one_process_on_parts(rank: int) -> str:
    model = fully_shard(make())
    handle = uf.FreezePlan.from_yaml(PHASES).apply(model)
    handle.optimizer(torch.optim.SGD, lr=0.1)
    text = told(lambda: handle.step(step=2)) if rank == 0 else ""
    everybody()
    return text


SCENARIOS = [
    wrapped_late,
    a_plan_that_differs_on_parts,
    a_phase_in_one_process_on_parts,
    resumed_after_wrapping,
    flattened,
    a_plan_that_differs,
    a_second_plan_in_one_process,
    removal_in_one_process,
    a_phase_in_one_process,
    a_step_in_one_process,
    epochs_that_differ,
    other_phases_at_one_step,
    metrics_that_differ,
    apply_in_one_process,
    ranks_with_other_seeds,
    bytes_of_phases,
    many_changes,
]


def all_told(rank: int, count: int) -> dict[str, Any]:
    """Run every scenario in the same processes."""
    join(rank, count)
    results = {}
    for scenario in SCENARIOS:
        results[scenario.__name__] = scenario(rank)
        everybody()
    return results


def written(rank: int, count: int, folder: str, how: str) -> dict[str, Any]:
    """Train, save what was trained, keep best values, go on from them; return what was seen."""
    if count > 1:
        join(rank, count)
    model = make()
    plan = uf.FreezePlan.from_yaml(BEST)
    if how == "fsdp2":
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
    handle = plan.apply(model)
    handle.keep_best(Path(folder) / f"best-{how}-{count}")
    engine = DistributedDataParallel(model) if how == "ddp" else model
    optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-2)
    for epoch in range(5):
        handle.step(epoch=epoch, metrics={"loss": 1.0} if epoch else None)
        optimizer.zero_grad()
        engine(shard(epoch, 0)).square().mean().backward()
        optimizer.step()
    file = Path(folder) / f"{how}-{count}.safetensors"
    if how == "fsdp2" or rank == 0:
        handle.save_trained(file)
    state = handle.trainable_state_dict() if how == "fsdp2" or rank == 0 else None
    if state is not None:
        handle.load_trainable_state_dict(state)
    alone = ""
    if how == "fsdp2" and count == 2 and rank == 0:
        alone = told(handle.trainable_state_dict)
    if count > 1:
        everybody()
    return {"base": state and state["base"], "bits": bits(model), "alone": alone}
