"""What `verify` says of a model that has drifted."""

from __future__ import annotations

import pytest

from unifreeze.errors import FrozenDriftError


def drifts(handle):
    """What `verify` finds: the kind of drift by path."""
    with pytest.raises(FrozenDriftError) as caught:
        handle.verify()
    return {drift.path: drift.kind for drift in caught.value.drifts}
