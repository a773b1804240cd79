"""`check_gradients`: compares the gradients that a backward pass left with the plan."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from unifreeze._protocol import Finding
from unifreeze._resolution import Resolution
from unifreeze._structure import Mask

_ALL_ZEROS = (
    "is trainable and its gradient is all zeros: nothing has reached it since gradients were set "
    "to zero, or what reached it was multiplied by zeros"
)


def gradient_findings(
    resolution: Resolution, answered: Mask | None, norms: Mapping[str, float | None]
) -> tuple[Finding, ...]:
    """Compare gradients with the plan's decisions.

    Args:
        resolution: What the plan decided.
        answered: The parameters that this plan decides, where other plans overlap; None for all.
        norms: The norm of each parameter's gradient by its first path, None where there is none.
    """
    spec = resolution.spec
    decided = np.ones_like(resolution.trainable) if answered is None else answered
    paths = [spec.tree.names[name] for name in spec.first_names]
    rows = zip(paths, resolution.trainable.tolist(), decided.tolist(), strict=True)
    flags = {path: trainable for path, trainable, is_decided in rows if is_decided}
    zeros = _zeros(resolution, paths, norms)
    findings = []
    for path, norm in norms.items():
        trainable = flags.get(path)
        if norm is None and trainable:
            findings.append(Finding(path, "is trainable and has no gradient"))
        elif path in zeros and trainable:
            findings.append(Finding(path, _ALL_ZEROS))
        elif norm is not None and trainable is False:
            findings.append(Finding(path, "is frozen and has a gradient"))
        if norm is not None and not np.isfinite(norm):
            findings.append(Finding(path, f"has a gradient of norm {norm}"))
    return tuple(findings)


def _zeros(resolution: Resolution, paths: list[str], norms: Mapping[str, float | None]) -> set[str]:
    """Find gradients that are all zeros, and should not be.

    One half of an adapter begins as zeros, so that the other half's first gradient is all zeros.
    """
    spec, tree = resolution.spec, resolution.spec.tree
    adapts = [tree.adapters[name] for name in spec.first_names]
    owners = [tree.owners[name] for name in spec.first_names]
    rows = list(zip(paths, adapts, owners, spec.tensors, strict=True))
    reached = {owner for path, adapter, owner, _ in rows if adapter and norms.get(path)}
    return {
        path
        for path, adapter, owner, tensor in rows
        if norms.get(path) == 0 and 0 not in tensor.shape and not (adapter and owner in reached)
    }
