"""The processes that train a PyTorch model together: found by what exchanges its gradients.

They tell each other a few bytes through the store at which they met, and never over the group that
exchanges gradients.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any

import torch
from torch import nn

from unifreeze.backend import Processes

distributed = torch.distributed
_rounds: Counter[str] = Counter()
"""How often each key was shared."""


def are_ready() -> bool:
    """Return whether this process is one of a group of processes."""
    return bool(distributed.is_available() and distributed.is_initialized())


class StoreProcesses(Processes):
    """Processes that train together, and tell each other a little through their store."""

    def __init__(self, ranks: Sequence[int]) -> None:
        """Take in some processes, this one among them.

        Args:
            ranks: Their numbers among all processes, in order.
        """
        self.rank, self.count = list(ranks).index(distributed.get_rank()), len(ranks)
        # torchrun may keep the store when it starts the processes again.
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._group = f"unifreeze/{again}/{zlib.crc32(repr(list(ranks)).encode()):08x}"

    def share(self, key: str, data: bytes, timeout: float) -> list[bytes | None]:
        """Give the other processes a few bytes, and get theirs."""
        store, name = _store(), f"{self._group}/{key}"
        number = _rounds[name]
        _rounds[name] += 1
        keys = [f"{name}/{number}/{rank}" for rank in range(self.count)]
        store.set(keys[self.rank], data.hex())
        deadline = monotonic() + timeout
        rows = [_get(store, row, deadline) for row in keys]
        if None in rows:
            _rounds[name] = number  # who comes here again takes up the same round
            store.delete_key(keys[self.rank])
        elif number:  # all have come to this round, so the one before has been read
            store.delete_key(f"{name}/{number - 1}/{self.rank}")
        return rows


def _get(store: Any, key: str, deadline: float) -> bytes | None:
    """Return what a process has put under a key; None if it does not come in time."""
    try:
        if not store.check([key]):
            store.wait([key], timedelta(seconds=max(deadline - monotonic(), 0.001)))
        return bytes.fromhex(store.get(key).decode())
    except RuntimeError:  # of each kind of store another kind of it
        return None


def _store() -> Any:
    return distributed.distributed_c10d._get_default_store()


def ranks_of(engines: Sequence[Any], shards: Sequence[nn.Module]) -> list[int]:
    """Return the numbers of the processes that exchange gradients with this one.

    Args:
        engines: The `DistributedDataParallel` around a model.
        shards: The modules that `fully_shard` has taken over.
    """
    ranks: set[int] = set()
    for engine in engines:
        ranks.update(distributed.get_process_group_ranks(engine.process_group))
    for mesh in _meshes(shards):
        ranks.update(mesh.mesh.flatten().tolist())
    return sorted(ranks)


def _meshes(shards: Sequence[nn.Module]) -> Iterator[Any]:
    seen: set[int] = set()
    for module in shards:
        for parameter in module.parameters():
            mesh = getattr(parameter, "device_mesh", None)
            if mesh is not None and id(mesh) not in seen:
                seen.add(id(mesh))
                yield mesh
