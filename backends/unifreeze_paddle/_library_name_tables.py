"""The tables of names that Paddle's model libraries ship: PaddleNLP's mappings, AOA statements.

Both are read off the model's class, whatever library it is of. They say which tensor of the PyTorch
port becomes which of this one; some are wrong or incomplete, so that they are hints and no more.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

_LAYER = "$LAYER_ID"


def shipped_map(model: Any, others: Iterable[str]) -> dict[str, str]:
    """Return which tensor of the other port is which of a model, as its library has it.

    Args:
        model: A layer of a model library, or any other, for which there is no table.
        others: Native paths of the other port.

    Returns:
        Path there to path here; `path[n]` for part n of a fused tensor.
    """
    config = getattr(model, "config", None)
    if config is None:
        return {}
    found: dict[str, str] = {}
    with suppress(Exception):  # the base class has a table that raises; a hint may be missing
        found |= _mapped(model, config)
    with suppress(Exception):
        found |= _stated(model, config, others)
    return found


def _mapped(model: Any, config: Any) -> dict[str, str]:
    mappings = getattr(type(model), "_get_name_mappings", None)
    if mappings is None:
        return {}
    config = copy.deepcopy(config)
    config.architectures = [type(model).__name__]
    return {row.source_name: row.target_name for row in mappings(config)}


def _stated(model: Any, config: Any, others: Iterable[str]) -> dict[str, str]:
    statements = getattr(type(model), "_gen_aoa_config", None)
    return {} if statements is None else _expanded(statements(config)["aoa_statements"], others)


def _expanded(statements: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Carry out statements such as "q^T, k^T, v^T -> qkv, fused_qkv" on the names there are."""
    patterns = [
        (re.compile(re.escape(source).replace(re.escape(_LAYER), r"(\d+)")), target)
        for statement in statements
        for source, target in _parts(statement)
    ]
    found = {}
    for name in others:
        for pattern, target in patterns:
            # The statements name the model under its head, whose part may stand alone here.
            match = pattern.fullmatch(name) or pattern.fullmatch(f"model.{name}")
            if match:
                layer = match.group(1) if match.groups() else ""
                found[name] = target.replace(_LAYER, layer)
    return found


def _parts(statement: str) -> Iterator[tuple[str, str]]:
    """Give each source of a statement with its target, `target[n]` if there are several."""
    left, _, right = statement.partition("->")
    sources = [source.strip().removesuffix("^T") for source in left.split(",")]
    target = right.split(",")[0].strip()
    for number, source in enumerate(sources):
        yield source, f"{target}[{number}]" if len(sources) > 1 else target
