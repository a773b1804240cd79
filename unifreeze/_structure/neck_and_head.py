"""Where the head of a model begins, by the kinds of the layers at its end."""

from __future__ import annotations

from collections.abc import Sequence


def trailing_linears(kinds: Sequence[str]) -> int:
    """Return where the head of a model without blocks begins: its trailing linears.

    In a plain stack of linears the head is the last layer.

    >>> trailing_linears(["conv", "norm", "linear", "linear"]), trailing_linears(["linear"] * 3)
    (2, 2)
    """
    kinds_that_end = [n for n, kind in enumerate(kinds) if kind not in ("linear", "activation")]
    start = kinds_that_end[-1] + 1 if kinds_that_end else len(kinds) - 1
    while start < len(kinds) and kinds[start] != "linear":
        start += 1
    return start


def neck_length(kinds: Sequence[str]) -> int:
    """Return how many of the layers after the last block are neck.

    Norms right after the last block are neck. So is everything up to the last convolution before
    the first linear layer, because the linears are then the head.

    >>> neck_length(["norm", "linear"]), neck_length(["conv", "norm", "linear"])
    (1, 2)
    """
    linear = kinds.index("linear") if "linear" in kinds else 0
    cut = max((n + 1 for n in range(linear) if kinds[n] == "conv"), default=0)
    while cut < len(kinds) and kinds[cut] == "norm":
        cut += 1
    return cut
