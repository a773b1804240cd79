"""Saved states of optimizers must have the parameters of the optimizer that loads them."""

from __future__ import annotations

from collections.abc import Collection

from unifreeze.errors import OptimizerError, listing


def check_names(saved: Collection[str], wanted: Collection[str]) -> None:
    """Refuse an optimizer state with other parameters.

    Args:
        saved: Native paths of the parameters in the state.
        wanted: Native paths of the optimizer's parameters.

    Raises:
        OptimizerError: Naming the parameters that are missing, and those that are too many.
    """
    missing, more = sorted(set(wanted) - set(saved)), sorted(set(saved) - set(wanted))
    if missing or more:
        said = [f"it lacks {listing(missing)}"] if missing else []
        said += [f"it has {listing(more)}"] if more else []
        raise OptimizerError(
            "the optimizer's state is of other parameters: " + "; ".join(said),
            hint="build the optimizer over the same ones: under the same plan",
        )
