"""Where in one model the layers of another are, as far as partners are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import takewhile


class Neighbourhoods:
    """Layers of two models, paired by the tensors in them.

    Args:
        pairs: For each pair of tensors, the native paths of their layers.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        found = sorted({pair for pair in pairs})
        self._partners: tuple[dict[str, set[str]], ...] = (defaultdict(set), defaultdict(set))
        for one, other in found:
            self._partners[0][one].add(other)
            self._partners[1][other].add(one)
        self.region = cache(self._region)

    def partner(self, layer: str) -> str | None:
        """Return which layer of the second model is one of the first; None if that is unclear."""
        found = self._partners[0].get(layer, set())
        return next(iter(found)) if len(found) == 1 else None

    def are_near(self, one: str, other: str) -> bool:
        """Tell whether each of two layers is where the other's neighbours have their partners."""
        there, here = self.region(one, 0), self.region(other, 1)
        if there is None or here is None:
            return False
        return is_under(other, there) and is_under(one, here)

    def _region(self, layer: str, side: int) -> str | None:
        """Return the module of the other model that holds the partners of a layer's neighbours.

        Neighbours are under the innermost module that holds this layer and any with a partner.
        """
        for module in above(layer):
            near = [path for path in self._partners[side] if is_under(path, module)]
            if near:
                partners = set().union(*(self._partners[side][path] for path in near))
                return _common(partners)
        return None


def _common(paths: Iterable[str]) -> str:
    """Return the innermost module that holds all of some paths, or is one.

    >>> _common(["a.b.c", "a.b.d", "a.bc"])
    'a'
    """
    columns = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(column[0] for column in takewhile(lambda c: len(set(c)) == 1, columns))


def above(path: str) -> Iterator[str]:
    """Give a module's path and those of the modules that hold it, but for the model itself.

    A part of a fused tensor is in the layer of that, were it the model itself.

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
    """Tell whether a path is a module's own, or of something in it."""
    return not module or path == module or path.startswith((f"{module}.", f"{module}["))
