"""Weight files as sources: which port they are of, and everything in them that does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from unifreeze._ports.carrying.transfers import Piece, Route, route
from unifreeze._ports.pairing import Pairing
from unifreeze._ports.weights import Array, WeightFile, meant_by
from unifreeze.errors import PortError, listing


def direction(pairing: Pairing, weights: WeightFile, reverse: bool | None) -> Route:
    """Choose the direction: the one in which the source's names, and then its shapes, fit.

    Raises:
        PortError: They fit neither model, or both alike.
    """
    if reverse is not None:
        return route(pairing, reverse=reverse)
    ways = [route(pairing, reverse=back) for back in (False, True)]
    fits = [_fits(way, weights) for way in ways]
    if not any(named for named, _ in fits):
        raise PortError(
            f"{weights.source} is of neither model: none of its {len(weights)} names is of one",
            context=f"names in the file: {listing(weights.names, limit=3)}\n"
            + "\n".join(_named(ways)),
            hint=next(filter(None, (prefix_hint(way, weights.names) for way in ways)), "")
            or "is it a file of one of the paired models?",
        )
    if fits[0] == fits[1]:
        raise PortError(
            f"{weights.source} could be of either model: {fits[0][1]} of {len(pairing.pairs)} "
            "tensors fit both ways",
            hint="say which with reverse=False or reverse=True (--direction)",
        )
    return ways[fits[1] > fits[0]]


def _named(ways: Iterable[Route]) -> list[str]:
    return [f"of {way.frameworks[0]}: {listing(sorted(way.names), limit=3)}" for way in ways]


def _fits(way: Route, weights: WeightFile) -> tuple[int, int]:
    """Count the pieces whose names the source has, and those whose shapes fit, too."""
    found = [(name_in(piece, weights), piece) for piece in way.pieces]
    shaped = [name for name, piece in found if name and weights.entry(name).shape == piece.shape]
    return sum(name is not None for name, _ in found), len(shaped)


def name_in(piece: Piece, weights: WeightFile) -> str | None:
    """Return the first name of a piece that the source has."""
    return next((name for name in piece.names if name in weights), None)


def prefix_hint(way: Route, names: Collection[str]) -> str:
    """Say what stands before the names that a route knows, if that is why they do not fit."""
    known = way.names
    before = Counter(start for name in names for start in _starts(name, known))
    if before:
        prefix = max(before, key=before.__getitem__)
        count = sum(name.startswith(prefix) for name in names)
        what = "all names begin" if count == len(names) else f"{count} of {len(names)} names begin"
        return f"{what} with {prefix!r}: strip_prefix={prefix!r} (--strip-prefix {prefix})"
    behind = Counter(start for name in known for start in _starts(name, frozenset(names)))
    if behind:
        prefix = max(behind, key=behind.__getitem__)
        return f"names of the paired model begin with {prefix!r}: pair what the file is of"
    return ""


def _starts(name: str, known: Collection[str]) -> Iterator[str]:
    """Give what a name begins with, where the rest is a known name."""
    at = name.find(".")
    while at >= 0:
        if name[at + 1 :] in known:
            yield name[: at + 1]
        at = name.find(".", at + 1)


def repeats(way: Route, weights: WeightFile) -> list[str]:
    """Find names under which the source holds a tensor of the route once more.

    Paddle lists the weights of a recurrent layer under those of its cells, too. Either the file
    says that both names are of one tensor, or all tensors of one module have the values of tensors
    of the route; one alone could be equal by chance.
    """
    known = way.names
    found = [name for name in weights.names if name not in known]
    tied = {name for name in found if _first(weights, name) in known}
    modules: dict[str, list[str]] = {}
    for name in found:
        if name not in tied and name not in way.source_left and name not in way.source_own:
            modules.setdefault(name.rpartition(".")[0], []).append(name)
    equal = _Equal(way, weights)
    for names in modules.values():
        if equal.all(names):
            tied |= set(names)
    return [name for name in found if name in tied]


def _first(weights: WeightFile, name: str) -> str:
    return weights.aliases.get(name, name)


class _Equal:
    """Finds out which tensors of a source hold what tensors of a route hold."""

    def __init__(self, way: Route, weights: WeightFile) -> None:
        self.weights = weights
        self.known: dict[object, list[str]] = {}
        for piece in way.pieces:
            name = name_in(piece, weights)
            if name is not None:
                self.known.setdefault(weights.entry(name), []).append(name)

    def all(self, names: Iterable[str]) -> bool:
        """Tell whether each holds what another does, and one of them more than one value."""
        told = False
        for name in names:
            rivals = self.known.get(self.weights.entry(name), ())
            bits = self.weights.read(name) if rivals else None
            if bits is None or not any(_same(bits, self.weights.read(one)) for one in rivals):
                return False
            flat = bits.reshape(-1)
            told = told or bool(flat.size > 1 and (flat != flat[0]).any())
        return told


def _same(one: Array, other: Array) -> bool:
    return one.tobytes() == other.tobytes()


def misfits(way: Route, weights: WeightFile) -> dict[str, str]:
    """Say of tensors that are of another shape or dtype than the route needs what they are."""
    wrong = {}
    for step in way.steps:
        found = [(n, piece) for piece in step.pieces if (n := name_in(piece, weights)) is not None]
        dtypes = {meant_by(way.frameworks[0], weights.entry(name).dtype) for name, _ in found}
        if len(dtypes) > 1:
            wrong[step.targets[0]] = f"its parts are of several dtypes: {', '.join(sorted(dtypes))}"
        for name, piece in found:
            entry = weights.entry(name)
            if entry.shape != piece.shape:
                wrong[name] = f"{list(entry.shape)} in the file, {list(piece.shape)} in the model"
            elif piece.trains and _is_integer(meant_by(way.frameworks[0], entry.dtype)):
                wrong[name] = f"{entry.dtype} in the file, which nothing trains as in the model"
    return wrong


def _is_integer(dtype: str) -> bool:
    return dtype == "bool" or dtype.lstrip("u").startswith("int")
