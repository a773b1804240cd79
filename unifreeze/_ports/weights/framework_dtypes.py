"""The dtypes and metadata that each framework's libraries use in weight files.

Paddle's libraries go through NumPy, which has no bfloat16: they write its bits as unsigned
integers, write `format: np` in the metadata, and read nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

_MEANT: Mapping[str, Mapping[str, str]] = {"paddle": {"uint16": "bfloat16"}}
"""For each framework, dtypes in its files that stand for another dtype."""
_FORMATS: Mapping[str, str] = {"paddle": "np"}


def neutral_dtype(framework: str, dtype: str) -> str:
    """Return the dtype that a framework means by a dtype in its weight files.

    >>> neutral_dtype("paddle", "uint16"), neutral_dtype("torch", "uint16")
    ('bfloat16', 'uint16')
    """
    return _MEANT.get(framework, {}).get(dtype, dtype)


def stored_dtype(framework: str, dtype: str) -> str:
    """Return the dtype under which a framework's libraries store a dtype in safetensors.

    >>> stored_dtype("paddle", "bfloat16"), stored_dtype("torch", "bfloat16")
    ('uint16', 'bfloat16')
    """
    stored = {meant: written for written, meant in _MEANT.get(framework, {}).items()}
    return stored.get(dtype, dtype)


def metadata_format(framework: str) -> str:
    """Return the `format` that a framework's libraries expect in the metadata."""
    return _FORMATS.get(framework, "pt")
