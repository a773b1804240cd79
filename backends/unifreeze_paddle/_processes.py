"""The processes that train a Paddle model together: found by what is wrapped around it.

They tell each other a few bytes through the store at which they met, and never over the group that
exchanges gradients.
"""

from __future__ import annotations

import os
import socket
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import paddle

from unifreeze.backend import LiveTensor, Processes
from unifreeze_paddle import _engines as engines

_rounds: Counter[str] = Counter()
"""How often each key was shared."""
_SLOTS = 4
"""How many rounds of a key the store keeps; Paddle's store cannot delete."""


def processes_of(tensors: Iterable[LiveTensor]) -> Processes:
    """Return the processes that train a model together with this one.

    Args:
        tensors: The model's parameters.
    """
    if not engines.are_ready():
        return Processes()
    ranks: set[int] = set()
    for engine in engines.engines_around(tensors):
        ranks.update(_ranks_of(engine))
    return StoreProcesses(sorted(ranks)) if len(ranks) > 1 else Processes()


def _ranks_of(engine: Any) -> Sequence[int]:
    if isinstance(engine, paddle.DataParallel):
        return list(getattr(engine.group, "ranks", []))  # in one process it has no group
    topology = engine._hcg.topology()
    every = range(topology.world_size())
    own = _shard_of_model(topology, paddle.distributed.get_rank())
    return [rank for rank in every if _shard_of_model(topology, rank) == own]


def _shard_of_model(topology: Any, rank: int) -> dict[str, int]:
    """Return which part of a model a process holds, if it is divided among processes."""
    place = topology.get_coord(rank)._asdict()
    return {name: number for name, number in place.items() if name not in ("data", "sharding")}


class StoreProcesses(Processes):
    """Processes that train together, and tell each other a little through their store."""

    def __init__(self, ranks: Sequence[int]) -> None:
        """Take in some processes, this one among them.

        Args:
            ranks: Their numbers among all processes, in order.
        """
        self.rank, self.count = list(ranks).index(paddle.distributed.get_rank()), len(ranks)
        self._group = f"unifreeze/{zlib.crc32(repr(list(ranks)).encode()):08x}"

    def share(self, key: str, data: bytes, timeout: float) -> list[bytes | None]:
        """Give the other processes a few bytes, and get theirs."""
        store, name = _store(), f"{self._group}/{key}"
        number = _rounds[name]
        _rounds[name] += 1
        slot = f"{name}/{number % _SLOTS}"
        store.set(f"{slot}/{self.rank}", f"{number} {data.hex()}")
        store.add(f"{name}/{self.rank}", 1)
        deadline = monotonic() + timeout
        rows = [
            _read(store, f"{slot}/{rank}", number)
            if _has_come(store, f"{name}/{rank}", number, deadline)
            else None
            for rank in range(self.count)
        ]
        if None in rows:  # who comes here again takes up the same round
            _rounds[name] = number
            store.add(f"{name}/{self.rank}", -1)
        return rows


def _has_come(store: Any, counter: str, number: int, deadline: float) -> bool:
    """Wait until a process has come to a round; the store itself would wait without an end."""
    pause = 0.0001
    while store.add(counter, 0) <= number:
        if monotonic() > deadline:
            return False
        sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return True


def _read(store: Any, key: str, number: int) -> bytes | None:
    first, _, rest = store.get(key).decode().partition(" ")
    return bytes.fromhex(rest) if int(first) == number else None


@cache
def _store() -> Any:
    store = paddle.base.core.create_or_get_global_tcp_store()
    for link in _OPEN_FILES.iterdir() if _OPEN_FILES.is_dir() else ():
        with suppress(OSError):
            _send_at_once(int(link.name), _port())
    return store


_OPEN_FILES = Path("/proc/self/fd")


def _port() -> str:
    """Return the port of the store, as Paddle finds it."""
    first = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").partition(",")[0]
    place = os.environ.get("PADDLE_MASTER") or first
    return os.environ.get("MASTER_PORT") or place.rpartition(":")[2]


def _send_at_once(number: int, port: str) -> None:
    """Let a connection of the store send each small packet at once.

    Paddle leaves that out, so that each question waits 45 ms for a delayed acknowledgement.

    Args:
        number: The number of an open file, which may be such a connection.
        port: The port of the store.
    """
    if not stat.S_ISSOCK(os.fstat(number).st_mode):
        return
    with socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as connection:
        ends = connection.getsockname(), connection.getpeername()
        if any(isinstance(end, tuple) and str(end[1]) == port for end in ends):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
