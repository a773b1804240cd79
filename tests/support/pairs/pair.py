"""What a pair of networks is."""

from __future__ import annotations

from typing import Any, NamedTuple


class Pair(NamedTuple):
    """One network, built by a library of PyTorch and by one of Paddle.

    Attributes:
        name: What the pair is called.
        torch: The model in PyTorch, as the command line takes it: `package.module:factory(…)`.
        paddle: The model in Paddle, likewise.
        batch: Inputs that both models take, as the command line takes them.
        settings: What was changed in one library to make both networks the same, in sentences.
        original: The pair without those settings, whose networks differ.
        different: Why the two networks differ; empty if they are one function.
        fused: The framework that keeps query, key and value in one tensor where the other has
            three, so that not every tensor has a counterpart.
    """

    name: str
    torch: str
    paddle: str
    batch: tuple[str, ...]
    settings: tuple[str, ...] = ()
    original: Pair | None = None
    different: str = ""
    fused: str = ""


def target(module: str, function: str, *args: Any, **kwargs: Any) -> str:
    """Write a call of a factory as the command line takes it.

    >>> target("tests.support.pairs.vision", "torch_model", "resnet18", classes=5)
    "tests.support.pairs.vision:torch_model('resnet18', classes=5)"
    """
    given = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
    return f"{module}:{function}({', '.join(given)})"


def cured(pair: Pair, different: str, *settings: str, **changes: str) -> Pair:
    """Make one pair of two networks that differ as they come: `changes` are the targets to use.

    The pair returned keeps the two as they come as its `original`.
    """
    original = pair._replace(name=f"{pair.name} as it comes", different=different)
    return pair._replace(settings=settings, original=original, **changes)
