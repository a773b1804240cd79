"""Weights at rest: weight files of both frameworks, read and written without running any."""

from unifreeze._ports.weights.contents import (
    DTYPES,
    Array,
    Named,
    TensorEntry,
    TensorProgress,
    WeightFile,
)
from unifreeze._ports.weights.framework_dtypes import format_for, meant_by, stored_for
from unifreeze._ports.weights.opening import open_weights
from unifreeze._ports.weights.saving import save_weights
from unifreeze._ports.weights.shards import files_of

__all__ = [
    "DTYPES",
    "Array",
    "TensorEntry",
    "Named",
    "TensorProgress",
    "WeightFile",
    "files_of",
    "format_for",
    "meant_by",
    "open_weights",
    "save_weights",
    "stored_for",
]
