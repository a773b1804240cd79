"""Weight files of both frameworks, read and written without running anything in them."""

from unifreeze._ports.weights.contents import (
    DTYPES,
    Named,
    TensorEntry,
    TensorProgress,
    WeightFile,
)
from unifreeze._ports.weights.framework_dtypes import metadata_format, neutral_dtype, stored_dtype
from unifreeze._ports.weights.opening import open_weights
from unifreeze._ports.weights.saving import save_weights
from unifreeze._ports.weights.shards import files_of

__all__ = [
    "DTYPES",
    "TensorEntry",
    "Named",
    "TensorProgress",
    "WeightFile",
    "files_of",
    "metadata_format",
    "neutral_dtype",
    "open_weights",
    "save_weights",
    "stored_dtype",
]
