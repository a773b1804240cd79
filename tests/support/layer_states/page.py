"""The page in the documentation: every layer with state, and what freezing it does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.layer_states.found import search
from tests.support.layer_states.outcome import WRONG, Outcome, outcomes
from tests.support.layer_states.sides import SIDES

PAGE = Path(__file__).parents[3] / "docs" / "en" / "layers.md"

HEAD = """# Layers whose forward pass changes their state

Made by `python -m tests.support.layer_states --write`, which builds every layer class in the
namespaces of PyTorch, torchvision and PaddlePaddle with whatever arguments work, runs it in
training mode, and lists those whose buffers or parameters have other bits then. Each is frozen by
itself, and inside a flat encoder whose head trains; as it is built, and after it has seen a batch.
Then `train()` is called, and it runs again.

- **held**: the output is that of an unfrozen copy in inference mode, and no state moves.
- **left alone**: it has no inference mode, or holding it would change nothing; its output is as
  without a plan, its state is not verified, and the resolution says so.
- **refused**: the plan is not applied, with this reason.
- **nothing to freeze**: it has no parameters, so a plan for it alone selects nothing.

| framework | layer | by itself | in a flat encoder | why |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One layer class in one configuration."""

    framework: str
    layer: str
    alone: Outcome
    inside: Outcome

    @property
    def wrong(self) -> bool:
        """Whether something became of it that may not."""
        return WRONG in (self.alone.verdict, self.inside.verdict)

    def __str__(self) -> str:
        why = next((one.why for one in (self.inside, self.alone) if one.why), "")
        cells = (self.framework, f"`{self.layer}`", self.alone.verdict, self.inside.verdict, why)
        return f"| {' | '.join(cells)} |"


@cache
def table() -> list[Row]:
    """Find every layer with state, and freeze it."""
    return [
        Row(side.name, found.label, *outcomes(side, found))
        for side in SIDES.values()
        for found in search(side).found
    ]


def page(rows: list[Row]) -> str:
    """Return the page."""
    return HEAD + "\n".join(map(str, rows)) + "\n"
