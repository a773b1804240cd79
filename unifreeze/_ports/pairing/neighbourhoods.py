"""Where in one model the layers of another are, by the pairs known so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import takewhile


class Neighbourhoods:
    """The layers of two models, paired by the tensors in them.

    Args:
        pairs: For each pair of tensors, the native paths of their layers.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._partners: tuple[dict[str, set[str]], ...] = (defaultdict(set), defaultdict(set))
        for one, other in sorted({*pairs}):
            self._partners[0][one].add(other)
            self._partners[1][other].add(one)
        self.region = cache(self._region)

    def partner(self, layer: str) -> str | None:
        """Return the layer of the second model that a layer of the first is; None if unclear."""
        partners = self._partners[0].get(layer, set())
        return next(iter(partners)) if len(partners) == 1 else None

    def are_near(self, one: str, other: str) -> bool:
        """Return whether each of two layers is among the partners of the other's neighbours."""
        there, here = self.region(one, 0), self.region(other, 1)
        if there is None or here is None:
            return False
        return is_under(other, there) and is_under(one, here)

    def _region(self, layer: str, side: int) -> str | None:
        """Return the module of the other model that holds the partners of a layer's neighbours.

        Neighbours are the layers in the innermost module that holds this layer and has any partner.
        """
        for module in above(layer):
            near = [path for path in self._partners[side] if is_under(path, module)]
            if near:
                partners = set().union(*(self._partners[side][path] for path in near))
                return _common(partners)
        return None


def _common(paths: Iterable[str]) -> str:
    """Return the innermost module that holds all paths.

    >>> _common(["a.b.c", "a.b.d", "a.bc"])
    'a'
    """
    columns = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(column[0] for column in takewhile(lambda c: len(set(c)) == 1, columns))


def above(path: str) -> Iterator[str]:
    """Yield a module's path and those of the modules that hold it, without the model itself.

    A part of a fused tensor is held by the fused tensor's layer, even if that is the model itself.

    >>> list(above("a.b.c")), list(above("a.b[1]")), list(above("[1]"))
    (['a.b.c', 'a.b', 'a'], ['a.b[1]', 'a.b', 'a'], ['[1]', ''])
    """
    yield from [path] if path else []
    if path.endswith("]"):
        path = path.rpartition("[")[0]
        yield path
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def is_under(path: str, module: str) -> bool:
    """Return whether a path is that of a module, or of something in it."""
    return not module or path == module or path.startswith((f"{module}.", f"{module}["))
