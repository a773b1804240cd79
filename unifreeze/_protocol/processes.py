"""The processes that train one model together: who they are, and how they tell each other a little.

What they tell never goes over the group that exchanges gradients, where it could meet another
process's gradients.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import isfinite

from unifreeze.errors import RanksError, brief, listing

TIMEOUT = "UNIFREEZE_TIMEOUT"
"""The environment variable with the seconds that a process waits for the others."""
_SECONDS = 60.0


class Processes:
    """The processes that train one model together; this class is one process alone.

    Attributes:
        rank: The number of this process among them.
        count: How many they are.
    """

    rank: int = 0
    count: int = 1

    def share(self, key: str, data: bytes, timeout: float) -> list[bytes | None]:
        """Give the other processes a few bytes, and get theirs.

        The k-th call with a key meets the k-th call of the others with that key.

        Args:
            key: What the bytes are about.
            data: The bytes of this process.
            timeout: Seconds to wait for the others.

        Returns:
            The bytes of each process in order of rank; None where one gave nothing in time.
        """
        return [data]


def wait_seconds() -> float:
    """Return how long a process waits for the others, in seconds.

    Raises:
        RanksError: The environment variable does not hold such a number.
    """
    text = os.environ.get(TIMEOUT, "")
    if not text:
        return _SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not (seconds > 0 and isfinite(seconds)):
        raise RanksError(
            f"{TIMEOUT} is the number of seconds to wait for other processes, not {brief(text)}",
            hint=f"for example {TIMEOUT}=120",
        )
    return seconds


def share(processes: Processes, key: str, data: bytes, action: str) -> list[bytes]:
    """Share bytes with the other processes.

    Args:
        processes: The processes that train together.
        key: What the bytes are about.
        data: The bytes of this process.
        action: What all processes should do now, for the message: "call handle.step".

    Raises:
        RanksError: A process did not do it in time; the message names it.
    """
    seconds = wait_seconds()
    rows = processes.share(key, data, seconds)
    missing = [rank for rank, row in enumerate(rows) if row is None]
    if missing:
        raise RanksError(
            f"{ranks(missing)} did not {action} within {seconds:g} seconds",
            context=f"{ranks([processes.rank])} of {processes.count} did, and waited",
            hint=f"do the same in every process; where one needs longer: {TIMEOUT}=…",
        )
    return [row for row in rows if row is not None]


def agree(processes: Processes, key: str, text: str, action: str, fact: str) -> None:
    """Check that every process says the same about what it does now.

    Args:
        processes: The processes that train together.
        key: What the text is about.
        text: What this process says.
        action: What all processes should do now, for the message.
        fact: What is wrong if their texts differ.

    Raises:
        RanksError: They differ, or one says nothing in time; the message names the ranks.
    """
    if processes.count == 1:
        return
    rows = [row.decode() for row in share(processes, key, text.encode(), action)]
    if len(set(rows)) > 1:
        raise RanksError(
            f"{processes.count} processes train one model, and {fact}",
            context="\n".join(f"{ranks(who)}: {said}" for said, who in _by_text(rows)),
            hint="give every process the same plan, model, epochs and steps",
        )


def _by_text(rows: Sequence[str]) -> list[tuple[str, list[int]]]:
    texts = dict.fromkeys(rows)
    return [(text, [n for n, row in enumerate(rows) if row == text]) for text in texts]


def ranks(numbers: Sequence[int]) -> str:
    """Name some ranks in a message.

    >>> ranks([1]), ranks([0, 2])
    ('rank 1', 'ranks 0, 2')
    """
    return f"rank{'s' if len(numbers) > 1 else ''} {listing(map(str, numbers))}"
