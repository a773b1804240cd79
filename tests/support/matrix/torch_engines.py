"""PyTorch's rows of engines: what exchanges gradients between processes, or divides parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._composable.replicate import replicate
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import unifreeze as uf
from tests.support.matrix.cells import Row
from tests.support.matrix.columns import Kit, Run, cells_of
from tests.support.matrix.torch_kits import (
    PLAIN,
    RATE,
    load_parts,
    save_parts,
    step,
    wrapped,
)
from tests.support.torch_processes import ENGINES, OWN, shard
from unifreeze_torch import _exchange as exchange

DDP = DistributedDataParallel


def _accumulated(run: Run, number: int, own: bool) -> None:
    """Train a step on two batches; gradients are exchanged after the second."""
    run.optimizer.zero_grad()
    rank = dist.get_rank() if own else 0
    with run.called.no_sync():
        run.called(shard(100 + number, rank)).square().mean().backward()
    run.called(shard(number, rank)).square().mean().backward()
    run.optimizer.step()


def _delayed(model: Any) -> Any:
    """Let DDP exchange what is in the last block by a hook of another parameter."""
    return DDP(
        model,
        delay_all_reduce_named_params=list(model.blocks[-1].named_parameters()),
        param_to_hook_all_reduce=model.head.weight,
    )


def _inside_backward(model: Any) -> Any:
    """Let an optimizer step inside the backward pass."""
    from torch.distributed.optim import _apply_optimizer_in_backward as put_in

    put_in(torch.optim.SGD, [p for p in model.parameters() if p.requires_grad], {"lr": RATE})
    return DDP(model)


class _Nothing:
    """Stands where others have an optimizer: each parameter has one of its own."""

    def zero_grad(self) -> None:
        """Do nothing."""

    def step(self) -> None:
        """Do nothing."""


def _none(handle: uf.Handle, _model: Any) -> Any:
    return _Nothing()


def _unknown(model: Any) -> Any:
    """Wrap as if DDP were built in an unknown way; gradients are exchanged by hooks then."""
    exchange.way = lambda: "own"
    return DDP(model)


def _known(cell: Callable[[Path], None], folder: Path) -> None:
    """Try a cell, and put back how gradients are exchanged."""
    way = exchange.way
    try:
        cell(folder)
    finally:
        exchange.way = way


def _zero(handle: uf.Handle, model: Any) -> Any:
    """Build an optimizer each process of which keeps the states of some parameters."""
    optimizer = ZeroRedundancyOptimizer(
        list(model.parameters()), optimizer_class=torch.optim.AdamW, lr=RATE
    )
    if handle.phase is None:
        handle.check_optimizer(optimizer)
    else:
        handle.attach(optimizer)
    return optimizer


def _save_zero(folder: Path, run: Run) -> None:
    run.optimizer.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        state = {"optimizer": run.optimizer.state_dict(), "plan": run.handle.state_dict()}
        torch.save({"model": run.model.state_dict(), **state}, folder / "saved.pt")
    else:
        run.handle.state_dict()
    dist.barrier()


def _first(model: Any) -> Any:
    """Return a model divided by FSDP as it was before `fully_shard`."""
    return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


def _whole_values(model: Any) -> dict[str, bytes]:
    """Return the values of a model that such a wrapper may have divided."""
    around = exchange.flattened.around(model.parameters())
    if not around:
        return PLAIN.values(model)
    with FullyShardedDataParallel.summon_full_params(around[0], writeback=False):
        named = {n.replace("_fsdp_wrapped_module.", ""): p for n, p in model.named_parameters()}
        return {name: bytes(p.detach().clone().numpy().tobytes()) for name, p in named.items()}


def _by_tensor(model: Any) -> Any:
    """Divide the linear layers of each block among processes that compute the same rows."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        parallelize_module(block, mesh, {"first": ColwiseParallel(), "second": RowwiseParallel()})
    return model


def _same_rows(run: Run, number: int, own: bool) -> None:
    step(run, number, False)


def _row(name: str, kit: Kit, **others: Any) -> Row:
    cells = cells_of(kit, processes=2, **others)
    return Row(name, "engines", "PyTorch", cells, processes=2, fast=False)


def _rows_of_engines() -> list[Row]:
    rows = []
    for name, wrap in ENGINES.items():
        parts = {"save": save_parts, "load": load_parts} if name.startswith("FSDP2") else {}
        shown = name if parts else f"`DistributedDataParallel`: {name}"
        row = _row(shown, wrapped(_unknown if name == OWN else wrap, **parts))
        if name == OWN:
            row = replace(row, cells={c: _guarded(cell) for c, cell in row.cells.items()})
        rows.append(row)
    return rows


def _guarded(cell: Any) -> Any:
    if hasattr(cell, "save"):
        return replace(cell, save=partial(_known, cell.save), go_on=partial(_known, cell.go_on))
    return partial(_known, cell)


GPU_ALONE = "PyTorch runs such a backward pass on a GPU alone"
NOT_INSTALLED = "it is not installed; a stand-in is tried in tests/test_torch_divided_by_others.py"
ROWS = [
    *_rows_of_engines(),
    _row(
        "`DistributedDataParallel`, saved by `torch.distributed.checkpoint`",
        wrapped(DDP, save=save_parts, load=load_parts),
    ),
    _row("`DistributedDataParallel` with `no_sync`", wrapped(DDP, step=_accumulated)),
    _row("`DistributedDataParallel`: `delay_all_reduce_named_params`", wrapped(_delayed)),
    _row(
        "`DistributedDataParallel`: an optimizer in the backward pass",
        wrapped(_inside_backward, optimizer=_none),
        plan_before=GPU_ALONE,
        remove=GPU_ALONE,
        verify=GPU_ALONE,
    ),
    _row(
        "`DistributedDataParallel` and `ZeroRedundancyOptimizer`",
        wrapped(DDP, optimizer=_zero, save=_save_zero),
    ),
    _row("`replicate`", wrapped(replicate)),
    _row(
        "`FullyShardedDataParallel` (FSDP1), `use_orig_params`",
        wrapped(_first, values=_whole_values),
    ),
    _row(
        "tensor parallel by `parallelize_module`",
        replace(
            PLAIN,
            wrap=_by_tensor,
            step=_same_rows,
            save=save_parts,
            load=load_parts,
            sums_alike=False,
        ),
    ),
    Row(
        "DeepSpeed ZeRO",
        "engines",
        "PyTorch",
        dict.fromkeys(cells_of(PLAIN), NOT_INSTALLED),
        processes=2,
    ),
]
