"""A reader that knows modules by their classes, from tables of layers and of wrappers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter, eq, itemgetter
from typing import Any

from unifreeze._modules.lessons import MATRIX_KINDS, Lesson
from unifreeze._modules.orientation import computes_otherwise, declared_turned, turned_in_subclass
from unifreeze._modules.reader import DictColumns, Dicts, Reader
from unifreeze._modules.taught_kinds import latest_lesson, lesson_for
from unifreeze._protocol.live import Layer, LiveTensor
from unifreeze._structure import Tensor
from unifreeze._structure.words_in_names import CONTAINER
from unifreeze.errors import KindError


def qualified_bases(cls: type) -> tuple[str, ...]:
    """Return the dotted names of a class and its bases, the class first."""
    return tuple(f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__)


class ClassTableReader(Reader):
    """Reads modules of a framework whose layers and wrappers are known by their classes.

    Attributes:
        module_class: The framework's class of modules.
        children: Name of a module's dictionary of children.
        unsaved: Name of a module's set of buffers that its state dict leaves out.
        listing: Attributes of `module_class` that a class must not override, or the framework lists
            other parameters than the modules' dictionaries hold, or a module twice.
        containers: Classes that only hold other modules.
        kinds: Each class with its kind, which derived classes share; the first that fits counts.
        kinds_by_name: The same for classes of libraries that need not be installed.
        wrapped: For each wrapper class, by name, the path of the module that it wraps.
        sort: Returns what tells parameters of one name and one class of layers apart.
    """

    module_class: type
    children: str
    unsaved: str
    listing: tuple[str, ...]
    containers: tuple[type, ...]
    kinds: tuple[tuple[type, str], ...]
    kinds_by_name: Mapping[str, str] = {}
    wrapped: Mapping[str, str]
    sort: Callable[[LiveTensor], Any]

    def __init__(self) -> None:
        self._kinds: dict[type, str] = {}
        self._lessons: dict[type, Lesson | None] = {}
        self._learned = latest_lesson()
        self._wrapped: dict[type, str] = {}
        self._bases: dict[type, tuple[str, ...]] = {}

    def dicts(self, module: Layer) -> Dicts:
        """Return the module's own dictionaries of children, parameters and buffers."""
        attributes = module.__dict__
        if self.children not in attributes:  # its constructor has not run yet
            return {}, {}, {}
        return attributes[self.children], attributes["_parameters"], attributes["_buffers"]

    def dicts_of(self, modules: Sequence[Layer]) -> DictColumns:
        """Return what `dicts` returns, for many modules of a regular class."""
        attributes = [*map(attrgetter("__dict__"), modules)]
        children, *others = map(itemgetter, (self.children, "_parameters", "_buffers"))
        try:
            parameters, buffers = ([*map(part, attributes)] for part in others)
            return [*map(children, attributes)], parameters, buffers
        except KeyError:  # the constructor of one has not run yet
            return super().dicts_of(modules)

    def listed(self, module: Layer) -> Iterable[tuple[str, LiveTensor]]:
        """Return the parameters of a module and all under it, as the framework lists them.

        The module's own method is not called: some classes override it to list only some.
        """
        named: Iterable[tuple[str, LiveTensor]] = self.module_class.named_parameters(module)  # type: ignore[attr-defined]
        return named

    def plain(self, module: Layer) -> bool:
        """Return whether the framework lists modules of a class by what `dicts` returns."""
        cls, attributes = type(module), module.__dict__
        children, parameters, _ = self.dicts(module)
        return (
            children is attributes.get(self.children)
            and parameters is attributes.get("_parameters")
            and all(getattr(cls, name) is getattr(self.module_class, name) for name in self.listing)
        )

    def kind(self, module: Layer) -> str:
        """Return the module's kind as taught, or from the tables; "" if it is unknown."""
        lesson = self.lesson(type(module))
        return self.known_kind(module) if lesson is None else lesson.kind

    def lesson(self, cls: type) -> Lesson | None:
        """Return what was taught of a class of modules, None for nothing.

        Raises:
            KindError: The class is one of the framework's own, in the tables.
        """
        if self._learned is not latest_lesson():
            self._learned = latest_lesson()
            self._lessons.clear()
        if cls not in self._lessons:
            lesson = lesson_for(cls)
            kinds = {qualified_bases(base)[0]: kind for base, kind in self.kinds}
            known = (kinds | dict(self.kinds_by_name)).get(lesson.layer) if lesson else None
            if lesson is not None and known is not None:
                raise KindError(
                    f"{lesson.layer} was taught, and it is known: {known}",
                    context=f"taught: {lesson}",
                    hint="teach a class of your own that derives from it",
                )
            self._lessons[cls] = lesson
        return self._lessons[cls]

    def roles(self, module: Layer) -> Mapping[str, str]:
        """Return what tensors of a module are, for those whose names were taught.

        Raises:
            KindError: The module does not hold what was taught.
        """
        lesson = self.lesson(type(module))
        if lesson is None:
            return {}
        children, parameters, _ = self.dicts(module)
        shapes = {n: self.shape_of(t)[0] for n, t in parameters.items() if t is not None}
        return lesson.roles_in(shapes, whole=not children)

    def known_kind(self, module: Layer) -> str:
        """Return the module's kind from the tables alone."""
        cls = type(module)
        if cls not in self._kinds:
            self._kinds[cls] = self._kind_of(cls)
        return self._kinds[cls]

    def _kind_of(self, cls: type) -> str:
        if cls in self.containers:
            return CONTAINER
        for base, kind in self.kinds:
            if issubclass(cls, base):
                return kind
        return _first(self.kinds_by_name, qualified_bases(cls))

    def inner(self, module: Layer) -> str:
        """Return the path, below a wrapper, of the module it wraps; "" if it is not a wrapper."""
        cls = type(module)
        if cls not in self._wrapped:
            self._wrapped[cls] = _first(self.wrapped, self.bases(module))
        return self._wrapped[cls]

    def bases(self, module: Layer) -> tuple[str, ...]:
        """Return the dotted names of a module's class and its bases, the class first."""
        cls = type(module)
        if cls not in self._bases:
            self._bases[cls] = qualified_bases(cls)
        return self._bases[cls]

    def persistent(self, module: Layer, leaf: str) -> bool:
        """Return whether a module's state dict holds a buffer."""
        return leaf not in getattr(module, self.unsaved)

    def tensor(self, module: Layer, leaf: str, tensor: LiveTensor) -> Tensor:
        """Describe a parameter; a matrix in neutral layout is output by input."""
        shape, dtype = self.shape_of(tensor)
        turned = self.turned(module, leaf, shape)
        neutral = shape[::-1] if turned else shape
        fixed, impossible = self.fixed(module, tensor, dtype)
        return Tensor(shape, neutral, dtype, fixed, impossible, turned is not None)

    def regular(self, module: Layer) -> bool:
        """Return whether the class of a module says all of it but for its children and tensors."""
        wraps = _first(self.wrapped, self.bases(module))
        # Of a table of positions, the flag says whether it is fixed; see `fixed`.
        return not wraps and self.lesson(type(module)) is None and not _sinusoidal(module)

    def all_alike(self, leaf: str, modules: Sequence[Layer], tensors: Sequence[LiveTensor]) -> bool:
        """Return whether parameters of one name, of modules of one class, are described alike."""
        first, tensor = modules[0], tensors[0]
        if self.alike(first, leaf, tensor) is None:
            return False
        if not self.same_sort(tensors):
            return False
        shape, _ = self.shape_of(tensor)
        if len(shape) != 2 or shape[0] == shape[1] or self.turned_by_class(first):
            return True
        return len({self.turned(module, leaf, shape) for module in modules}) == 1

    def same_sort(self, tensors: Sequence[LiveTensor]) -> bool:
        """Return whether parameters of one class have the same `sort`."""
        return all(map(eq, map(self.sort, tensors), repeat(self.sort(tensors[0]))))

    def turned_by_class(self, module: Layer) -> bool:
        """Return whether all layers of a class store matrices the same way round."""
        otherwise = self.is_linear(module) and computes_otherwise(module, self.framework)
        return self.usually_turned(module) is not None and not otherwise

    def turned(self, module: Layer, leaf: str, shape: tuple[int, ...]) -> bool | None:
        """Return whether a matrix is stored input by output; None if unknown."""
        if len(shape) != 2 or shape[0] == shape[1]:
            return False
        lesson = self.lesson(type(module))
        if lesson is not None and (lesson.matrix or lesson.kind not in MATRIX_KINDS):
            return lesson.matrix == "in x out" and lesson.turns(leaf)
        usual = self.usually_turned(module)
        if usual is None:
            return declared_turned(module, shape)
        if (
            leaf == "weight"
            and self.is_linear(module)
            and computes_otherwise(module, self.framework)
        ):
            bias = module._parameters.get("bias")
            sizes = None if bias is None else tuple(bias.shape)
            declared = turned_in_subclass(module, shape, sizes)
            return usual if declared is None else declared
        return usual

    @abstractmethod
    def usually_turned(self, module: Layer) -> bool | None:
        """Return whether layers of a class store matrices input by output; None if unknown."""

    @abstractmethod
    def is_linear(self, module: Layer) -> bool:
        """Return whether a layer is derived from a linear layer of the framework.

        That layer itself may be left out: it is known to store its matrix as usual.
        """

    def fixed(self, module: Layer, tensor: LiveTensor, dtype: str) -> tuple[str, bool]:
        """Say why a parameter is never trained, "" if it may be; and whether it cannot be."""
        if "float" not in dtype and "complex" not in dtype:
            return f"a {dtype} tensor has no gradient", True
        if _sinusoidal(module) and self.frozen(tensor):
            return "a fixed position table", False
        return "", False

    @abstractmethod
    def frozen(self, tensor: LiveTensor) -> bool:
        """Return whether a parameter's flag says that it is frozen."""


def _sinusoidal(module: Layer) -> bool:
    return "sinusoidal" in type(module).__name__.lower()


def _first(table: Mapping[str, str], names: Sequence[str]) -> str:
    """Return what a table holds for the first name that it knows, "" if it knows none."""
    return next((table[name] for name in names if name in table), "")
