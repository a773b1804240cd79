"""Weights at rest in safetensors, as one framework's libraries write them and can read them.

Paddle's libraries go through NumPy, which has no bfloat16: they write its bits as unsigned
integers, say `np` in the metadata, and read nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

_MEANT: Mapping[str, Mapping[str, str]] = {"paddle": {"uint16": "bfloat16"}}
"""For each framework, dtypes that it does not have, and what its files mean by them."""
_FORMATS: Mapping[str, str] = {"paddle": "np"}


def meant_by(framework: str, dtype: str) -> str:
    """Return what a framework means by a dtype in its weight files.

    >>> meant_by("paddle", "uint16"), meant_by("torch", "uint16")
    ('bfloat16', 'uint16')
    """
    return _MEANT.get(framework, {}).get(dtype, dtype)


def stored_for(framework: str, dtype: str) -> str:
    """Return the dtype under which a framework's libraries look for one in safetensors.

    >>> stored_for("paddle", "bfloat16"), stored_for("torch", "bfloat16")
    ('uint16', 'bfloat16')
    """
    stored = {meant: written for written, meant in _MEANT.get(framework, {}).items()}
    return stored.get(dtype, dtype)


def format_for(framework: str) -> str:
    """Return what a framework's libraries want to read under `format` in the metadata."""
    return _FORMATS.get(framework, "pt")
