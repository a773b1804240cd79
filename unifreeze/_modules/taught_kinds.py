"""Kinds of layers that libraries teach: what classes are that no table of a backend knows.

A lesson says that a class of layers is of a kind, how it stores its matrix, and what its tensors
are called. It is given by a call, or by an entry point of the group `unifreeze.kinds` that is named
after the package of the classes; such an entry is loaded when a class of that package is first met.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from dataclasses import replace as replace_in
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Literal

from unifreeze._arguments import checked
from unifreeze._modules.lessons import CALL, Lesson, LessonKind, read_lesson, read_lessons
from unifreeze._protocol.registry import backend_names
from unifreeze.errors import KindError, brief, nearest

ENTRY_POINTS = "unifreeze.kinds"


@checked
def teach_kind(
    layer: type | str,
    kind: LessonKind,
    *,
    matrix: Literal["in x out", "out x in"] | None = None,
    roles: Mapping[str, str] | None = None,
    replace: bool = False,
) -> None:
    """Say which kind of layer a class is, if unifreeze cannot know it.

    It holds from the next use of a model on, for derived classes too, until the process ends. A
    library can say the same of its own layers with an entry point of the group `unifreeze.kinds`.

    Args:
        layer: The class, or its dotted name; its package need not be imported yet.
        kind: "linear", "conv", "norm", "embedding", "rnn", "activation" or "dropout".
        matrix: How a "linear" or "rnn" stores its matrices. Left out, sizes that the layer declares
            may tell.
        roles: For tensors with names of their own, what they are: "weight" or "bias"; and of a
            norm's running statistics "mean", "var" or "count". The only matrix, kernel or table of
            a layer is its weight, whatever its name.
        replace: It takes the place of what was taught of this class before.

    Raises:
        KindError: The lesson makes no sense, or contradicts another.

    >>> teach_kind("wide_library.layers.MLPLayer", "linear", matrix="in x out")
    >>> teach_kind("wide_library.layers.MLPLayer", "norm")
    Traceback (most recent call last):
    unifreeze.errors.KindError: wide_library.layers.MLPLayer was taught otherwise before
      it is: linear, matrix in x out (by a call); now: norm (by a call)
      hint: take one of them out; or replace the first: teach_kind(…, replace=True)
    """
    said: dict[str, Any] = {"kind": kind, "matrix": matrix, "roles": roles}
    given = {key: value for key, value in said.items() if value is not None}
    name = layer if isinstance(layer, str) else _name_of_class(layer)
    lesson = read_lesson(name, given, CALL)
    _LESSONS.learn(lesson, seen=isinstance(layer, type), replace=replace)


def _name_of_class(layer: type) -> str:
    roots = {base.__module__.partition(".")[0] for base in layer.__mro__}
    if not roots & set(backend_names()):
        raise KindError(
            f"{brief(layer)} is not a class of layers: it derives from no framework's class",
            context=f"frameworks: {', '.join(backend_names())}",
            hint="give the class that holds the layer's tensors",
        )
    return f"{layer.__module__}.{layer.__qualname__}"


def lesson_for(cls: type) -> Lesson | None:
    """Return what was taught of a class, or of the nearest of its bases; None for nothing.

    Raises:
        KindError: A lesson about a package of its bases cannot be right.
    """
    return _LESSONS.lesson_for(cls)


def latest_lesson() -> object:
    """Return an object that is another one whenever something new was taught."""
    return _LESSONS.latest


def lessons_unchanged(
    lesson: Callable[[type], Lesson | None], classes: Iterable[type]
) -> Callable[[], bool]:
    """Return a function that returns whether classes are still as taught as now.

    Args:
        lesson: Returns what was taught of a class.
        classes: The classes.
    """
    known = {cls: lesson(cls) for cls in classes}
    latest = latest_lesson()

    def unchanged() -> bool:
        return latest is latest_lesson() or all(lesson(c) == said for c, said in known.items())

    return unchanged


@dataclass(frozen=True)
class _Taught:
    """A lesson, and whether the class that it names has been seen."""

    lesson: Lesson
    seen: bool


class _Lessons:
    """Everything that has been taught in this process.

    Attributes:
        latest: Another object whenever something new was taught.
    """

    def __init__(self) -> None:
        self.latest = object()
        self._taught: dict[str, _Taught] = {}
        self._asked: set[str] = set()
        """Packages whose entry points have been loaded."""

    def learn(self, lesson: Lesson, *, seen: bool = False, replace: bool = False) -> None:
        """Take in a lesson under the real name of its class, as far as that is known.

        Args:
            lesson: The lesson.
            seen: It has the name that the class has where it is defined.
            replace: It takes the place of another about the class.
        """
        name, seen = (lesson.layer, True) if seen else _real_name(lesson.layer)
        known = self._taught.get(name)
        if known is not None and not replace:
            before = known.lesson
            if before.says == lesson.says or (before.by == CALL and lesson.by != CALL):
                return  # a user's call holds against what a package says
            if before.by == CALL or lesson.by != CALL:
                raise _contradiction(name, before, lesson)
        self._taught[name] = _Taught(replace_in(lesson, layer=name), seen)
        self.latest = object()

    def lesson_for(self, cls: type) -> Lesson | None:
        names = [f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__]
        packages = {name.partition(".")[0] for name in names}
        for package in sorted(packages - self._asked):
            self._load_entries(package)
        self._look_again(packages)
        return next((self._taught[name].lesson for name in names if name in self._taught), None)

    def _load_entries(self, package: str) -> None:
        for entry in _entries():
            for lesson in _lessons_of(entry) if entry.name == package else ():
                self.learn(lesson)
        self._asked.add(package)

    def _look_again(self, packages: set[str]) -> None:
        """Look for the classes of lessons that were given before their package was imported."""
        for name, taught in list(self._taught.items()):
            here = name.partition(".")[0] in packages
            if here and not taught.seen and _real_name(name)[1]:
                del self._taught[name]
                self.learn(taught.lesson)


_LESSONS = _Lessons()


@cache
def _entries() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


def _lessons_of(entry: EntryPoint) -> list[Lesson]:
    """Return what an entry point teaches."""
    by = f"{entry.name} = {entry.value}"
    try:
        data = entry.load()
    except Exception as error:
        raise KindError(
            f"the entry point {by!r} of {ENTRY_POINTS} cannot be loaded",
            context=f"{type(error).__name__}: {error}",
            hint="update or remove the package that declares it",
        ) from error
    lessons = read_lessons(data, by)
    for lesson in lessons:
        if lesson.layer.partition(".")[0] != entry.name:
            raise KindError(
                f"the entry point {by!r} of {ENTRY_POINTS} teaches {lesson.layer}",
                context=f"an entry called {entry.name} is loaded when a class of that package is "
                "met, so it teaches classes of that package",
                hint=f'an entry of its own: {lesson.layer.partition(".")[0]} = "…"',
            )
    return lessons


def _contradiction(name: str, before: Lesson, now: Lesson) -> KindError:
    return KindError(
        f"{name} was taught otherwise before",
        context=f"it is: {before}; now: {now}",
        hint="take one of them out; or replace the first: teach_kind(…, replace=True)",
    )


def _real_name(name: str) -> tuple[str, bool]:
    """Return the name that a class has where it is defined, and whether the class was seen.

    Many packages offer a class under a shorter name than that of the module that defines it.

    Raises:
        KindError: The package is imported, and there is no such class in it.
    """
    if "<locals>" in name:
        return name, True
    pieces = name.split(".")
    loaded = next((n for n in range(len(pieces) - 1, 0, -1) if _is_loaded(pieces[:n])), 0)
    if not loaded:
        return name, False
    module = ".".join(pieces[:loaded])
    value: Any = sys.modules[module]
    for number, piece in enumerate(pieces[loaded:], start=loaded):
        try:
            value = getattr(value, piece)
        except AttributeError:
            if number < len(pieces) - 1 and _is_module(".".join(pieces[: number + 1])):
                return name, False
            close = nearest(piece, [n for n in dir(value) if not n.startswith("_")], limit=1)
            raise KindError(
                f"{'.'.join(pieces[:number])} has no class {piece}, which was taught",
                hint=f"did you mean {'.'.join([*pieces[:number], *close])}?"
                if close
                else "give the class itself in place of its name",
            ) from None
        except Exception:  # a package that imports its parts when they are asked for
            return name, False
    if not isinstance(value, type):
        raise KindError(
            f"{name} is {brief(value)}, and not a class of layers",
            hint="give the class that holds the layer's tensors",
        )
    return f"{value.__module__}.{value.__qualname__}", True


def _is_loaded(pieces: list[str]) -> bool:
    """Return whether a module has been imported, and not only begun to be."""
    module = sys.modules.get(".".join(pieces))
    return module is not None and not getattr(
        getattr(module, "__spec__", None), "_initializing", False
    )


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
