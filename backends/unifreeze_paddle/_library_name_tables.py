"""Tables of names that Paddle's model libraries ship: PaddleNLP's mappings, AOA statements.

Both are attributes of a model's class. They say which tensor of the PyTorch port becomes which one
of this port. Some are wrong or incomplete, so they are only hints.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from paddle import nn

_LAYER = "$LAYER_ID"


def shipped_map(model: nn.Layer, others: Iterable[str]) -> dict[str, str]:
    """Return which tensor of the other port is which of a model, as the model's library says.

    Args:
        model: A model; only those of some libraries have a table.
        others: Native paths of the other port.

    Returns:
        For paths of the other port the path in this model; `path[n]` is part n of a fused tensor.
    """
    config = getattr(model, "config", None)
    if config is None:
        return {}
    names: dict[str, str] = {}
    with suppress(Exception):  # the base class has a table that raises; hints may be missing
        names |= _mapped(model, config)
    with suppress(Exception):
        names |= _stated(model, config, others)
    return names


def _mapped(model: nn.Layer, config: Any) -> dict[str, str]:
    mappings = getattr(type(model), "_get_name_mappings", None)
    if mappings is None:
        return {}
    config = copy.deepcopy(config)
    config.architectures = [type(model).__name__]
    return {row.source_name: row.target_name for row in mappings(config)}


def _stated(model: nn.Layer, config: Any, others: Iterable[str]) -> dict[str, str]:
    statements = getattr(type(model), "_gen_aoa_config", None)
    return {} if statements is None else _expanded(statements(config)["aoa_statements"], others)


def _expanded(statements: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Apply statements such as "q^T, k^T, v^T -> qkv, fused_qkv" to the names of the other port."""
    patterns = [
        (re.compile(re.escape(source).replace(re.escape(_LAYER), r"(\d+)")), target)
        for statement in statements
        for source, target in _parts(statement)
    ]
    names = {}
    for name in others:
        for pattern, target in patterns:
            # The statements have names as in a model with a head; here its body may stand alone.
            match = pattern.fullmatch(name) or pattern.fullmatch(f"model.{name}")
            if match:
                layer = match.group(1) if match.groups() else ""
                names[name] = target.replace(_LAYER, layer)
    return names


def _parts(statement: str) -> Iterator[tuple[str, str]]:
    """Yield each source of a statement with its target, `target[n]` if there are several."""
    left, _, right = statement.partition("->")
    sources = [source.strip().removesuffix("^T") for source in left.split(",")]
    target = right.split(",")[0].strip()
    for number, source in enumerate(sources):
        yield source, f"{target}[{number}]" if len(sources) > 1 else target
