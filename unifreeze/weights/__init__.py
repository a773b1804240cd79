"""Weights at rest: weight files of both frameworks, read and written without running any."""

from unifreeze.weights.dialects import format_for, meant_by, stored_for
from unifreeze.weights.opening import open_weights
from unifreeze.weights.saving import save_weights
from unifreeze.weights.shards import files_of
from unifreeze.weights.values import DTYPES, Array, Entry, Named, Progress, WeightFile

__all__ = [
    "DTYPES",
    "Array",
    "Entry",
    "Named",
    "Progress",
    "WeightFile",
    "files_of",
    "format_for",
    "meant_by",
    "open_weights",
    "save_weights",
    "stored_for",
]
