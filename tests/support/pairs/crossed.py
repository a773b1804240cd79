"""Small networks of equal parts that their two ports register, or run, in another order.

No size tells which part is which: two towers of equal layers, lists of equal blocks that run one
after the other, numbered stages, and experts of which one port runs the last one first.
"""

from __future__ import annotations

from typing import Any

from tests.support.pairs.pair import Pair, target

WIDTH = 6


def _tools(framework: str) -> tuple[Any, Any]:
    """Return a framework's `nn`, and what it calls its list of modules."""
    if framework == "torch":
        from torch import nn

        return nn, nn.ModuleList
    from paddle import nn as layers

    return layers, layers.LayerList


def towers(framework: str, names: str, run: str) -> Any:
    """Build two towers of one size on one input, and a head over both.

    Args:
        framework: `torch` or `paddle`.
        names: What the first and the second are called, in the order they are registered in.
        run: `first` or `second`: which runs first.
    """
    nn, _ = _tools(framework)

    def tower() -> Any:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    class Towers(nn.Module if framework == "torch" else nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.names = names.split()
            for name in self.names:
                setattr(self, name, tower())
            self.fuse = nn.Linear(WIDTH, 3)

        def forward(self, x: Any) -> Any:
            first, second = (getattr(self, name) for name in sorted(self.names))
            if run == "first":
                one, other = first(x), second(x * x)
            else:
                other, one = second(x * x), first(x)
            return self.fuse(one - other * 2)

    return Towers()


def lists(framework: str, names: str) -> Any:
    """Build two lists of equal blocks that run one after the other, the lower ones first.

    Args:
        framework: `torch` or `paddle`.
        names: What the lower and the upper one are called, in the order they are registered in.
    """
    nn, make_list = _tools(framework)
    base: Any = nn.Module if framework == "torch" else nn.Layer

    class Block(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.lin = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            return x + self.lin(self.norm(x)).tanh()

    class Lists(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, WIDTH)
            for name in names.split():
                setattr(self, name, make_list([Block(), Block()]))
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            for name in sorted(names.split()):
                for block in getattr(self, name):
                    x = block(x)
            return self.head(x)

    return Lists()


def experts(framework: str, run: str) -> Any:
    """Build three experts of one size, weighted by a gate.

    Args:
        framework: `torch` or `paddle`.
        run: `forward` or `backward`: which expert runs first.
    """
    nn, make_list = _tools(framework)

    class Experts(nn.Module if framework == "torch" else nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(4, 3)
            self.experts = make_list([nn.Linear(4, WIDTH) for _ in range(3)])
            self.out = nn.Linear(WIDTH, 2)

        def forward(self, x: Any) -> Any:
            weights, whole = nn.functional.softmax(self.gate(x), -1), 0
            order = (0, 1, 2) if run == "forward" else (2, 1, 0)
            for number in order:
                whole = whole + self.experts[number](x) * weights[:, number : number + 1]
            return self.out(whole)

    return Experts()


def _pair(name: str, build: str, torch: tuple[str, ...], paddle: tuple[str, ...], *x: str) -> Pair:
    here = "tests.support.pairs.crossed"
    one, other = target(here, build, "torch", *torch), target(here, build, "paddle", *paddle)
    return Pair(name, one, other, x)


CROSSED = (
    _pair(
        "towers that run crosswise",
        "towers",
        ("text vision", "first"),
        ("text vision", "second"),
        "float32[3,6]",
    ),
    _pair(
        "towers registered crosswise",
        "towers",
        ("text vision", "first"),
        ("vision text", "first"),
        "float32[3,6]",
    ),
    _pair(
        "towers of other names",
        "towers",
        ("a b", "first"),
        ("text vision", "second"),
        "float32[3,6]",
    ),
    _pair("lists of blocks", "lists", ("lower upper",), ("upper lower",), "float32[3,4]"),
    _pair("lists of other names", "lists", ("early late",), ("upper lower",), "float32[3,4]"),
    _pair("numbered stages", "lists", ("layer1 layer2",), ("stage2 stage1",), "float32[3,4]"),
    _pair("experts run backwards", "experts", ("forward",), ("backward",), "float32[3,4]"),
)
"""Their captured plans may be refused, and must never come out as something else."""
