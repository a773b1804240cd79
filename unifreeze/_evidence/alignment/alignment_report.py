"""The acceptance report as a value: its lines and curves, as text, as Markdown and as a file."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from unifreeze._arguments import checked
from unifreeze._evidence.alignment.lines import Line, PlanDocument
from unifreeze._evidence.alignment.loss_curves import Curves
from unifreeze._evidence.alignment.report_text import markdown, plain_text
from unifreeze._files import Format, Saved
from unifreeze._pictures import loss_chart
from unifreeze._tables import one_line
from unifreeze.errors import RecordError, counted

ALIGNMENT_FORMAT = 1
Language = Literal["en", "zh"]


class AlignmentReport(Saved):
    """Whether a port of a network computes and trains as the first model does.

    Attributes:
        unifreeze_alignment: Version of the format.
        frameworks: Of both models.
        models: Their classes.
        plan: The plan of the training steps and of parity.
        steps: Training steps of the loss curves.
        seed: Seed of everything random.
        weights: Where the first model's weights come from; "" where nobody said.
        inputs: Dtype and shape of each input.
        lines: What was checked, in order.
        curves: The losses; None where the training could not be run.

    >>> report = align(torch_model, paddle_model, batch=batch, steps=3)
    >>> report.verdict
    'the port is aligned'
    >>> report.save(folder / "report.json")
    >>> report.load(folder / "report.json") == report
    True
    """

    format: ClassVar[Format] = Format(
        what="unifreeze acceptance report",
        key="unifreeze_alignment",
        version=ALIGNMENT_FORMAT,
        error=RecordError,
        hint="write it again with `unifreeze align … --json FILE`",
    )

    unifreeze_alignment: int
    frameworks: tuple[str, str]
    models: tuple[str, str]
    plan: PlanDocument
    steps: int
    seed: int
    weights: str
    inputs: tuple[str, ...]
    lines: tuple[Line, ...]
    curves: Curves | None

    @model_validator(mode="before")
    @classmethod
    def _without_verdict(cls, data: Any) -> Any:
        """Leave out the verdict, which follows from the lines."""
        return {k: v for k, v in data.items() if k != "holds"} if isinstance(data, dict) else data

    @property
    def holds(self) -> bool:
        """Return whether no line is broken."""
        return not self.broken

    @property
    def broken(self) -> tuple[str, ...]:
        """The sections with a broken line."""
        broken = [line.section for line in self.lines if line.verdict == "BROKEN"]
        return tuple(dict.fromkeys(broken))

    @property
    def verdict(self) -> str:
        """Whether the port is aligned, in a few words."""
        return "the port is aligned" if self.holds else "the port is not aligned"

    @property
    def summary(self) -> str:
        """The last line that a command prints."""
        return self.verdict if self.holds else f"{self.verdict}: {', '.join(self.broken)}"

    @checked
    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data, which `load` reads from a file.

        >>> align(torch_model, paddle_model, batch=batch, steps=3).to_json()["holds"]
        True
        """
        return {"holds": self.holds, **json.loads(self.model_dump_json())}

    @checked
    def to_markdown(self, language: Language = "en", *, picture: str = "") -> str:
        """Write the report as Markdown, in English or in Chinese, with the same lines in both.

        Args:
            language: "en" or "zh".
            picture: The file of the loss curves, as the Markdown should call it.

        >>> report = align(torch_model, paddle_model, batch=batch, steps=3)
        >>> print(report.to_markdown("zh").splitlines()[0])
        # 复现对齐报告
        """
        return markdown(self, language, picture)

    @checked
    def to_svg(self, language: Language = "en") -> Any:
        """Draw both loss curves, with words in English or in Chinese.

        Args:
            language: "en" or "zh".

        >>> align(torch_model, paddle_model, batch=batch, steps=3).to_svg().save(folder / "a.svg")
        """
        return loss_chart(self, language)

    def __repr__(self) -> str:
        return one_line(self, f"{self.verdict}, {counted(len(self.lines), 'line')}")

    def __str__(self) -> str:
        return plain_text(self)
