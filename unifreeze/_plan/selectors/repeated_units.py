"""Count the blocks, stages, children or parameters of a model that an index selects from."""

from __future__ import annotations

from collections.abc import Sequence

from unifreeze._plan.selectors.vocabulary import SYNONYMS
from unifreeze._structure import BlockRun, ModelSpec


def runs_called(name: str, spec: ModelSpec) -> Sequence[int]:
    """Return the numbers of the runs of blocks that a word stands for."""
    if name in ("blocks", "stages"):
        return range(len(spec.runs))
    return [number for number, label in enumerate(spec.placement.labels) if label == name]


def stage_count(run: BlockRun, spec: ModelSpec) -> int | None:
    """Return the number of a run's stages; None if it is unknown.

    Blocks in one list show their stages only by their resolution, in a traced forward pass.
    """
    count = max(run.stages) + 1
    unseen = count == 1 and len(run.blocks) > 1 and spec.order == "registration"
    return None if unseen else count


def unit_total(name: str, spec: ModelSpec) -> int | None:
    """Return how many units a word counts in a model; None where that is not a single number."""
    name = SYNONYMS.get(name, name)
    if name == "params":
        return len(spec)
    if name == "children":
        return len(spec.tree.children(0))
    runs = runs_called(name, spec)
    if len(runs) != 1:
        return None
    run = spec.runs[runs[0]]
    return stage_count(run, spec) if name == "stages" else len(run.blocks)
