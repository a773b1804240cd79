"""A suggested plan before it is written: stages, each with its reason, and their plan file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from textwrap import wrap

from unifreeze._plan import FORMAT
from unifreeze.errors import quoted

WIDTH = 98


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: Name of the phase.
        train: Selectors of what trains from this stage on, besides what trained before.
        why: The reason.
        after: Number of epochs of the stage before it.
        lr: Base learning rate, for plans of several stages.
    """

    name: str
    train: tuple[str, ...]
    why: str
    after: int = 0
    lr: float = 0.0

    @property
    def selector(self) -> str:
        """What it trains, as one expression."""
        return "all" if "all" in self.train else " | ".join(self.train)


@dataclass(frozen=True)
class Draft:
    """Stages, and further remarks."""

    stages: tuple[Stage, ...]
    remarks: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reason for each stage, then the remarks."""
        return (*(stage.why for stage in self.stages), *self.remarks)

    def with_tied(self) -> Draft:
        """Also train tied tensors, under every name."""
        first, *rest = self.stages
        if "all" not in first.train:
            first = replace(first, train=(*first.train, "tied"))
        remark = "What the head shares with the embeddings is one tensor, and trains with the head."
        return Draft((first, *rest), (*self.remarks, remark))

    def of_everything(self) -> Draft:
        """Train everything, for models that have nothing but what was to train."""
        stage = Stage("all", ("all",), "What would train is all that the model has.")
        return Draft((stage,), self.remarks)


def without_repeats(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Remove from each stage what already trains, and then stages that train nothing new."""
    kept: list[Stage] = []
    seen: set[str] = set()
    for stage in stages:
        new = tuple(selector for selector in stage.train if selector not in seen)
        if new and "all" not in seen:
            kept.append(replace(stage, train=new))
            seen |= {*new}
    return tuple(kept)


def draft_text(draft: Draft, title: str) -> str:
    """Return the draft as a plan file, with the reason above each line."""
    lines = [*comment(title)]
    for remark in draft.remarks:
        lines += comment(remark)
    lines.append(f"unifreeze: {FORMAT}")
    if len(draft.stages) == 1:
        lines += ["rules:", *_rule(draft.stages[0])]
    else:
        lines.append("phases:")
        lines += comment("Rates are for Adam and its kin; the more weights move, the lower.", 2)
        for number, stage in enumerate(draft.stages):
            lines += _phase(stage, first=number == 0)
    return "\n".join(lines) + "\n"


def _rule(stage: Stage) -> list[str]:
    return [*comment(stage.why, 2), f"  - {_verb(stage, first=True)}: {quoted(stage.selector)}"]


def _phase(stage: Stage, *, first: bool) -> list[str]:
    rule = f"{_verb(stage, first=first)}: {quoted(stage.selector)}"
    lines = [*comment(stage.why, 2), f"  - name: {stage.name}"]
    if first:
        lines += ["    rules:", f"      - {rule}"]
    else:
        lines += [f"    after: {{epochs: {stage.after}}}", "    add:", f"      - {rule}"]
    return [*lines, f"    lr: {rate(stage.lr)}"]


def _verb(stage: Stage, *, first: bool) -> str:
    return "only" if first and stage.selector != "all" else "train"


def rate(value: float) -> str:
    """Write a learning rate as people do.

    >>> rate(3e-5)
    '3e-5'
    """
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def comment(text: str, indent: int = 0) -> list[str]:
    """Break a text into comment lines."""
    edge = " " * indent + "# "
    return [edge + line for line in wrap(text, WIDTH - len(edge), break_on_hyphens=False)]
