"""Paddle's rows of what exchanges gradients, each in two processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import paddle
import paddle.distributed as dist

import unifreeze as uf
from tests.support.matrix.cells import NotRunHereError, Row
from tests.support.matrix.columns import Kit, cells_of
from tests.support.matrix.paddle_kits import PLAIN, RATE, in_engine, make
from tests.support.paddle_ranks.fleets import optimizer_of
from tests.support.paddle_ranks.nets import Net

PART = "engines"
GPU = "it asserts a GPU"
FOUR = "gloo groups of four Paddle processes hang while fleet makes them, before a model is built"


def _recomputing() -> Any:
    model = make(Net)
    model.recomputes = True
    return model


def _looking_ahead(handle: uf.Handle, model: Any) -> Any:
    inner = handle.optimizer(paddle.optimizer.AdamW, lr=RATE)
    return paddle.incubate.LookAhead(inner, alpha=0.5, k=2)


def _fused(engine: Kit) -> Kit:
    """Let fleet's shards update several parameters as one."""

    def optimizer(handle: uf.Handle, model: Any) -> Any:
        inner = handle.optimizer(paddle.optimizer.AdamW, lr=RATE)
        if dist.get_world_size() == 1:
            raise NotRunHereError("one process has nothing to divide")
        outer = optimizer_of("fleet", inner)
        outer._inner_opt.comm_overlap = True  # which itself needs a GPU
        return outer

    return replace(engine, optimizer=optimizer)


def _row(name: str, kit: Kit, group: str = "DataParallel") -> Row:
    cells = cells_of(kit, processes=2)
    return Row(name, PART, "Paddle", cells, processes=2, fast=False, group=group)


def _never(name: str, why: str) -> Row:
    cells = dict.fromkeys(cells_of(PLAIN), why)
    return Row(name, PART, "Paddle", cells, processes=2, fast=False)


DATA = in_engine("DataParallel", 1)
SHARDED = in_engine("fleet", 2)
ROWS = [
    _row("`paddle.DataParallel`", DATA),
    _row(
        "`paddle.DataParallel`: find_unused_parameters",
        in_engine("DataParallel", 1, find_unused_parameters=True),
    ),
    _row(
        "`paddle.DataParallel`: small buffers",
        in_engine("DataParallel", 1, comm_buffer_size=0.0002, last_comm_buffer_size=0.0001),
    ),
    _row("`paddle.DataParallel`: blocks recompute", replace(DATA, make=_recomputing)),
    _row("`paddle.DataParallel` and `LookAhead`", replace(DATA, optimizer=_looking_ahead)),
    _row("fleet: data parallel", in_engine("fleet", 1), "fleet"),
    _row("fleet: sharding stage 1", SHARDED, "sharding"),
    _row("fleet: sharding stage 1, comm_overlap", _fused(SHARDED), "sharding"),
    _never("fleet: sharding stage 1 beside data parallel, four processes", FOUR),
    _never("`group_sharded_parallel`: stages 2 and 3", GPU),
    _never("fleet: tensor and pipeline parallel", GPU),
]
