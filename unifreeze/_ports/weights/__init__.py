"""Weights at rest: weight files of both frameworks, read and written without running any."""

from unifreeze._ports.weights.contents import DTYPES, Array, Entry, Named, Progress, WeightFile
from unifreeze._ports.weights.dialects import format_for, meant_by, stored_for
from unifreeze._ports.weights.opening import open_weights
from unifreeze._ports.weights.saving import save_weights
from unifreeze._ports.weights.shards import files_of

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
