"""PyTorch's backend with every forward pass under autocast to bfloat16.

For a record of a run in mixed precision: give `unifreeze record` the option
`--backend torch=examples.in_bfloat16:InBfloat16`.
"""

from __future__ import annotations

from typing import Any

import torch

from unifreeze.backend import Batch
from unifreeze_torch import TorchBackend


class InBfloat16(TorchBackend):
    """PyTorch as mixed-precision training uses it; weights stay in single precision."""

    def run(self, model: Any, batch: Batch) -> Any:
        """Run a forward pass under autocast, on whichever device the model is."""
        kind = self.anchor(model).device.type
        with torch.autocast(kind, dtype=torch.bfloat16):
            return super().run(model, batch)
