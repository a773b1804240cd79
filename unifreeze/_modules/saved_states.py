"""Saved states of optimizers: they must be of the parameters they are loaded for."""

from __future__ import annotations

from collections.abc import Collection

from unifreeze.errors import OptimizerError, listing


def check_names(saved: Collection[str], wanted: Collection[str]) -> None:
    """Refuse a state of other parameters.

    Args:
        saved: Native paths of those that it is of.
        wanted: Those of the optimizer's.

    Raises:
        OptimizerError: Naming those that one has and the other lacks.
    """
    missing, more = sorted(set(wanted) - set(saved)), sorted(set(saved) - set(wanted))
    if missing or more:
        said = [f"it lacks {listing(missing)}"] if missing else []
        said += [f"it has {listing(more)}"] if more else []
        raise OptimizerError(
            "the optimizer's state is of other parameters: " + "; ".join(said),
            hint="build the optimizer over the same ones: under the same plan",
        )
