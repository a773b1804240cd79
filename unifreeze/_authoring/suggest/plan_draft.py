"""A plan on its way: what trains when, and why; written as a plan file that says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap

from unifreeze._plan import FORMAT

WIDTH = 98


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: What it is called.
        train: Selectors of what trains from now on, besides what trained before.
        why: The reason.
        after: For how many epochs the stage before it lasts.
        lr: Base learning rate, where there is more than one stage.
    """

    name: str
    train: tuple[str, ...]
    why: str
    after: int = 0
    lr: float = 0.0

    @property
    def selector(self) -> str:
        """All that it trains, as one expression."""
        return "all" if "all" in self.train else " | ".join(self.train)


@dataclass(frozen=True)
class Draft:
    """Stages, and what else there is to say."""

    steps: tuple[Stage, ...]
    remarks: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each stage is as it is, then the remarks."""
        return (*(step.why for step in self.steps), *self.remarks)

    def with_tied(self) -> Draft:
        """Train tensors that have several names under all of them."""
        steps = [
            step if "all" in step.train or number else replace(step, train=(*step.train, "tied"))
            for number, step in enumerate(self.steps)
        ]
        said = "What the head shares with the embeddings is one tensor, and trains with the head."
        return Draft(tuple(steps), (*self.remarks, said))

    def of_everything(self) -> Draft:
        """Train everything, where what was to train is all there is."""
        step = Stage("all", ("all",), "What would train is all that the model has.")
        return Draft((step,), self.remarks)


def without_repeats(steps: Iterable[Stage]) -> tuple[Stage, ...]:
    """Leave out of each stage what trains already, and stages of which nothing is left."""
    kept: list[Stage] = []
    seen: set[str] = set()
    for step in steps:
        new = tuple(one for one in step.train if one not in seen)
        if new and "all" not in seen:
            kept.append(replace(step, train=new))
            seen |= {*new}
    return tuple(kept)


def draft_text(draft: Draft, title: str) -> str:
    """Return the draft as a plan file, with the reason above each line."""
    lines = [*comment(title)]
    for remark in draft.remarks:
        lines += comment(remark)
    lines.append(f"unifreeze: {FORMAT}")
    if len(draft.steps) == 1:
        lines += ["rules:", *_rule(draft.steps[0])]
    else:
        lines.append("phases:")
        lines += comment("Rates are for Adam and its kin; the more weights move, the lower.", 2)
        for number, step in enumerate(draft.steps):
            lines += _phase(step, first=number == 0)
    return "\n".join(lines) + "\n"


def _rule(step: Stage) -> list[str]:
    return [*comment(step.why, 2), f"  - {_verb(step, first=True)}: {quoted(step.selector)}"]


def _phase(step: Stage, *, first: bool) -> list[str]:
    rule = f"{_verb(step, first=first)}: {quoted(step.selector)}"
    lines = [*comment(step.why, 2), f"  - name: {step.name}"]
    if first:
        lines += ["    rules:", f"      - {rule}"]
    else:
        lines += [f"    after: {{epochs: {step.after}}}", "    add:", f"      - {rule}"]
    return [*lines, f"    lr: {rate(step.lr)}"]


def _verb(step: Stage, *, first: bool) -> str:
    return "only" if first and step.selector != "all" else "train"


def rate(value: float) -> str:
    """Write a learning rate as people do.

    >>> rate(3e-5)
    '3e-5'
    """
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def quoted(selector: str) -> str:
    """Quote a selector for YAML; it may hold quotes of its own."""
    return f"'{selector}'" if '"' in selector else f'"{selector}"'


def comment(text: str, indent: int = 0) -> list[str]:
    """Break a text into comment lines."""
    edge = " " * indent + "# "
    return [edge + line for line in wrap(text, WIDTH - len(edge), break_on_hyphens=False)]


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does.

    >>> listed(["stem", "head"]), listed(["a", "b", "c"])
    ('stem and head', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
