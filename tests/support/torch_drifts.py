"""What `verify` says of a PyTorch model that has drifted."""

from __future__ import annotations

import pytest
import torch

from unifreeze.errors import FrozenDriftError


def drifts(handle):
    """What `verify` finds: the kind of drift by path."""
    with pytest.raises(FrozenDriftError) as caught:
        handle.verify()
    return {drift.path: drift.kind for drift in caught.value.drifts}


@torch.no_grad()
def add(tensor, amount=0.5):
    tensor.add_(amount)
