"""The parts of a checkpoint, and which of them is the model's state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from unifreeze._ports.weights.allowed_in_pickles import FileSpan
from unifreeze.errors import WeightFileError, brief, listing, nearest

T = TypeVar("T")
USUAL = "state_dict"
"""The part that is taken where a checkpoint holds several and the caller gives no `key`."""


def find_state(
    source: str, content: Any, kind: type[T], key: str | None = None
) -> tuple[dict[str, T], tuple[str, ...]]:
    """Find the state dict in the content of a file.

    Args:
        source: Name of the file in messages.
        content: A state dict, or a dictionary with a state dict in it.
        kind: The class of its tensors.
        key: Which part to take, or `part.part` for a part in a part; None for the only part that is
            a state dict.

    Returns:
        The tensors by name, and the keys that were ignored.

    Raises:
        WeightFileError: There is none, or several, or it holds something that is neither a tensor
            nor plain metadata.
    """
    _check_mapping(source, content)
    if key is None and not _holds_tensors(content, kind):
        key = _only_part(source, content, kind)
    if key is None:
        return _split(source, content, kind)
    outer, _, inner = key.partition(".")
    if key not in content and inner and isinstance(content.get(outer), Mapping):
        return _with_ignored(content, outer, *find_state(source, content[outer], kind, inner))
    if key not in content:
        near = nearest(key, map(str, content))
        raise WeightFileError(
            f"{source} has no part {key!r}",
            context=f"its keys: {listing(map(str, content))}",
            hint=f"did you mean {near[0]!r}?" if near else "",
        )
    _check_mapping(source, content[key])
    if not _holds_tensors(content[key], kind) and _parts(content[key], kind):
        return _with_ignored(content, key, *find_state(source, content[key], kind))
    return _with_ignored(content, key, *_split(source, content[key], kind))


def _with_ignored(
    content: Mapping[Any, Any], key: str, tensors: dict[str, T], ignored: tuple[str, ...]
) -> tuple[dict[str, T], tuple[str, ...]]:
    """Add the keys beside a part to the keys that were ignored inside it."""
    beside = [str(name) for name in content if name != key]
    return tensors, (*beside, *(f"{key}.{name}" for name in ignored))


def _check_mapping(source: str, content: object) -> None:
    if not isinstance(content, Mapping):
        raise WeightFileError(
            f"{source} holds a {type(content).__name__}, and no weights by name",
            hint="save model.state_dict()",
        )


def _holds_tensors(content: object, kind: type) -> bool:
    return isinstance(content, Mapping) and any(isinstance(v, kind) for v in content.values())


def _parts(content: Mapping[Any, Any], kind: type) -> list[str]:
    """Return the keys of the parts that hold tensors."""
    return [str(key) for key, value in content.items() if _holds_tensors(value, kind)]


def _only_part(source: str, content: Mapping[Any, Any], kind: type) -> str:
    parts = _parts(content, kind)
    if not parts:  # {"model": {"state_dict": ...}}
        parts = [
            f"{key}.{part}"
            for key, value in content.items()
            if isinstance(value, Mapping)
            for part in _parts(value, kind)
        ]
    if len(parts) == 1 or USUAL in parts:
        return USUAL if USUAL in parts else parts[0]
    what = f"{len(parts)} state dicts: {listing(parts)}" if parts else "no state dict"
    raise WeightFileError(
        f"{source} holds {what}",
        context=f"its keys: {listing(map(str, content)) or 'none'}",
        hint=f"say which: key={parts[0]!r} (--key {parts[0]})"
        if parts
        else "save model.state_dict(), a mapping from names to tensors",
    )


def _split(
    source: str, content: Mapping[Any, Any], kind: type[T]
) -> tuple[dict[str, T], tuple[str, ...]]:
    tensors = {name: value for name, value in content.items() if isinstance(value, kind)}
    others = {name: value for name, value in content.items() if name not in tensors}
    odd = [
        f"{brief(name)} ({type(value).__name__})"
        for name, value in others.items()
        if not _plain(value)
    ]
    odd += [f"{brief(name)} (no text as name)" for name in tensors if not isinstance(name, str)]
    if odd:
        raise WeightFileError(
            f"{source} holds what is neither a tensor nor plain metadata",
            context=listing(odd),
            hint="save model.state_dict() alone",
        )
    return tensors, tuple(map(str, others))


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | FileSpan)
