"""What is right, listed and wrong in a library of models; the table, and docs/en/zoo.md."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tests.support.zoos.judging import Row, Unbuilt

PAGE = Path(__file__).resolve().parents[3] / "docs" / "en" / "zoo.md"
EXCEPTIONS = Path(__file__).with_name("exceptions.toml")


class Listed(NamedTuple):
    """A word that does not select what a library says, with the reason why that is right."""

    model: str
    word: str
    reason: str

    def covers(self, row: Row) -> bool:
        """Return whether this is about a row."""
        return row.word == self.word and fnmatchcase(row.model, self.model)


@dataclass(frozen=True)
class Verdict:
    """The rows of one library, and how long they took.

    Attributes:
        library: Its name.
        version: Its version.
        rows: What was judged and what was not.
        seconds: How long it took.
    """

    library: str
    version: str
    rows: Sequence[Row | Unbuilt]
    seconds: float

    @cached_property
    def judged(self) -> list[Row]:
        """The words judged."""
        return [row for row in self.rows if isinstance(row, Row)]

    @cached_property
    def not_judged(self) -> list[Unbuilt]:
        """The models that are not built, or of which the library does not say what is asked."""
        return [row for row in self.rows if isinstance(row, Unbuilt)]

    def exceptions(self, sort: str) -> list[Listed]:
        """Return the exceptions of this library: those "listed", or the "known" faults."""
        given = tomllib.loads(EXCEPTIONS.read_text(encoding="utf-8")).get(self.library, {})
        return [Listed(**entry) for entry in given.get(sort, [])]

    def sort_of(self, row: Row) -> str:
        """Return "right", "listed", "known" or "wrong"."""
        if not row.fault:
            return "right"
        for sort in ("listed", "known"):
            if any(entry.covers(row) for entry in self.exceptions(sort)):
                return sort
        return "wrong"

    def faults(self, limit: int) -> Iterator[str]:
        """Say what is wrong and not listed, what is listed and right, and if too much is listed."""
        wrong = [row for row in self.judged if self.sort_of(row) == "wrong"]
        yield from (f"{self.library} {row.model}, {row.word}: {row.fault}" for row in wrong)
        listed = self.exceptions("listed")
        for entry in [*listed, *self.exceptions("known")]:
            if not any(row.fault and entry.covers(row) for row in self.judged):
                yield f"{self.library} {entry.model}, {entry.word}: right, but listed as exception"
        if len(listed) > limit:
            yield f"{self.library}: {len(listed)} exceptions, of {limit} that are allowed"


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the table of all words, a line for each library, task and word."""
    lines = [
        "| library | models | word | right | of | listed | known | wrong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for verdict in verdicts:
        for task, word in dict.fromkeys((row.task, row.word) for row in verdict.judged):
            rows = [row for row in verdict.judged if (row.task, row.word) == (task, word)]
            sorts = [verdict.sort_of(row) for row in rows]
            counts = [sorts.count(sort) or "" for sort in ("listed", "known", "wrong")]
            name = f"{verdict.library} {verdict.version}"
            cells = [name, task, word, sorts.count("right"), len(rows), *counts]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    times = ", ".join(f"{verdict.library} {verdict.seconds:.0f} s" for verdict in verdicts)
    return [*lines, "", f"{times}."]


def page(verdicts: Sequence[Verdict]) -> str:
    """Return the page: the table, the exceptions with their reasons, and what is not judged."""
    lines = [INTRODUCTION, *table(verdicts)[:-2], "", "## Exceptions", ""]
    for verdict in verdicts:
        for sort in ("listed", "known"):
            for entry in verdict.exceptions(sort):
                model = "several models" if entry.model == "*" else entry.model
                lines.append(
                    f"- {verdict.library} ({sort}), {model}, {entry.word}: {entry.reason}."
                )
    for verdict in verdicts:
        lines += ["", f"## Not judged in {verdict.library}", ""]
        by_reason: dict[str, list[str]] = {}
        for row in verdict.not_judged:
            by_reason.setdefault(_short(row.reason), []).append(row.model)
        for reason, models in by_reason.items():
            lines.append(f"- {', '.join(dict.fromkeys(models))}: {reason}")
        if not by_reason:
            lines.append("Nothing.")
    return "\n".join([*lines, ""])


def _short(reason: str) -> str:
    text = " ".join(reason.split())
    return text if len(text) <= 120 else f"{text[:119].rstrip()}…"


INTRODUCTION = """# Words, judged by the libraries of models

What words of a plan select in the models of four libraries, against what the libraries themselves
say of their layers. No library says so in the same way:

- timm, one model of every family: `get_classifier()` is in `head`, and what `forward_features`
  runs is not; what of it is as long as the classes is `classifier`; `group_matcher()` numbers the
  layers.
- transformers, every class of ten tasks: `head` is what is registered outside `base_model`, or what
  `get_output_embeddings()` gives; `classifier` is what is as long as the labels;
  `get_input_embeddings()` is in `embeddings`; the configuration has the number of layers.
- PaddleClas, one network of every file: `classifier` is what is as long as the classes, and it is
  in `head`.
- PaddleNLP, every class: as for transformers.

In all of them `head` takes nothing from inside a module that also holds a block ("head beside
blocks"); the model itself, plain wrappers, and towers without a head beside them do not count. A
model counts for a word if its library says something about it. "listed" are exceptions, with the
reason below; "known" are faults. An auxiliary head is head, and not classifier. `make zoo`, which
CI runs, writes this page.

The number of layers is the most exact one that a configuration states: the blocks of its stages,
the groups whose layers share one block, the layers of a decoder alone.

PaddleFormers needs an environment of its own. `make formers` builds its Qwen2.5-VL, Qwen3-VL (dense
and with experts), ERNIE 4.5 VL, ERNIE 4.5 MoE, Qwen3-MoE and DeepSeek-V3 small, and holds `vision`,
`projector`, `text`, `experts`, `router` and `shared_experts` against the sums over the modules of
those names: all are equal. Not run there: Qwen2-VL and Whisper, of which the release has the
processors only, and PaddleOCR-VL and GLM-4 MoE, which import kernels of a GPU build.
"""
