"""Importing torchvision beside a CPU build of PyTorch.

torchvision's wheels are built against the CUDA build of PyTorch; beside a CPU build their compiled
operators do not load, and the import then fails because it registers Python code for two operators
that nobody has declared. Declaring the two is enough: models work, the operators themselves do not.
Libraries that import torchvision (transformers does, if it is installed) need this done first.
"""

from __future__ import annotations

from typing import Any

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []


def import_torchvision() -> Any:
    """Import torchvision, declaring its operators first if its own do not load."""
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for schema in _OPERATORS:
            library.define(schema)
        _declared.append(library)  # the declaration lasts as long as the object
        _forget_failed_import()
        import torchvision
    return torchvision


def _forget_failed_import() -> None:
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
