"""What a plan says of a model's structure, where the structure that is derived would be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from unifreeze._plan.selectors import Expression, Path, Word, parse
from unifreeze._plan.selectors.expression import Either, Segment
from unifreeze.errors import PlanError, SelectorSyntaxError, brief

PartName = Literal[
    "stem", "blocks", "head", "vision", "audio", "text", "projector", "action", "image_decoder"
]
PARTS: tuple[PartName, ...] = get_args(PartName)
PartPlaces: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]] | None
"""Native paths of a part of a model, as users write them."""
TOWER_PARTS = PARTS[3:]
"""The parts that are towers, or lie between towers."""
Places: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""Native paths as they are written, for each framework; for all of them under the name ""."""


@dataclass(frozen=True)
class Part:
    """Where one part of a model is.

    Attributes:
        name: `stem`, `blocks`, `head`, or the word of a tower.
        places: Native paths; each text of `blocks` is one run of them.
    """

    name: PartName
    places: Places

    def texts(self, framework: str) -> tuple[str, ...]:
        """Return the paths that hold for a framework.

        Raises:
            PlanError: There are paths for other frameworks, and none for this one.
        """
        by_name = dict(self.places)
        if framework not in by_name and "" not in by_name:
            raise PlanError(
                f"structure.{self.name}: has no path for {framework!r}",
                context=f"it has one for: {', '.join(by_name)}",
                hint=f'add "{framework}: …", or write one path for all',
            )
        return by_name.get(framework) or by_name[""]

    @property
    def plain(self) -> Any:
        """The places as plain data."""
        rows = {name: texts[0] if len(texts) == 1 else list(texts) for name, texts in self.places}
        return rows.get("", rows)

    def __str__(self) -> str:
        return f"{self.name}: {self.plain}"


Structure: TypeAlias = tuple[Part, ...]
"""All that a plan says of the structure; () where it is derived."""


def plain_structure(structure: Structure) -> dict[str, Any]:
    """Return what a plan says of the structure as plain data."""
    return {part.name: part.plain for part in structure}


def covers(structure: Structure, framework: str) -> bool:
    """Return whether everything that a plan says of the structure holds in a framework, too."""
    return all({framework, ""} & dict(part.places).keys() for part in structure)


def read_places(value: object) -> Places:
    """Check where a part is: one or several native paths, or those of each framework.

    Raises:
        SelectorSyntaxError: It is something else.
    """
    named = isinstance(value, Mapping) and all(isinstance(n, str) and n for n in value)
    if isinstance(value, Mapping) and value and named:
        return tuple(sorted((name, _read_texts(texts)) for name, texts in value.items()))
    return (("", _read_texts(value)),)


def _read_texts(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not texts or not all(isinstance(t, str) for t in texts):
        raise SelectorSyntaxError(
            f"should be a native path, a list of paths, or one per framework, not {brief(value)}",
            hint='for example "trunk.cells[*]"',
        )
    for text in texts:
        read_paths(text)
    return tuple(texts)


def read_paths(text: str) -> list[Path]:
    """Read native paths that are joined by |; `[*]` stands for all children of a module.

    Words of the selector language are read as names, because the words are what is corrected.

    Raises:
        SelectorSyntaxError: It is not made of native paths.

    >>> [str(path) for path in read_paths("trunk.cells[*] | head")]
    ['trunk.cells[:]', 'head']
    """
    return list(_paths_in(parse(text.replace("[*]", "[:]")), text))


def _paths_in(expression: Expression, text: str) -> Iterator[Path]:
    match expression:
        case Path():
            yield expression
        case Word(name, index):
            yield Path((Segment(name, index),))
        case Either(left, right):
            yield from _paths_in(left, text)
            yield from _paths_in(right, text)
        case _:
            raise SelectorSyntaxError(
                f"{text!r} is not a native path",
                hint="a structure names modules: trunk.cells[*], several of them joined by |",
            )
