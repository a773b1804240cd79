"""How a weight file fits a pairing: which port it is of, and what in it does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from unifreeze._numerics.projections import Array
from unifreeze._ports.carrying.transfers import Piece, Route, route
from unifreeze._ports.pairing import Pairing
from unifreeze._ports.weights import TensorEntry, WeightFile, neutral_dtype
from unifreeze.errors import PortError, listing


def direction(pairing: Pairing, weights: WeightFile, reverse: bool | None) -> Route:
    """Choose the direction in which more of the source's names, or else its shapes, fit.

    Raises:
        PortError: It fits neither model, or both equally.
    """
    if reverse is not None:
        return route(pairing, reverse=reverse)
    ways = [route(pairing, reverse=reverse) for reverse in (False, True)]
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
    """Count the pieces whose names are in the source, and those whose shapes fit as well."""
    names = [(name_in(piece, weights), piece) for piece in way.pieces]
    shaped = [name for name, piece in names if name and weights.entry(name).shape == piece.shape]
    return sum(name is not None for name, _ in names), len(shaped)


def name_in(piece: Piece, weights: WeightFile) -> str | None:
    """Return the first name of a piece that is in the source."""
    return next((name for name in piece.names if name in weights), None)


def prefix_hint(way: Route, names: Collection[str]) -> str:
    """Return a hint at the prefix, if names do not fit because of a prefix; else ""."""
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
    """Yield the prefixes of a name after which the rest is a known name."""
    at = name.find(".")
    while at >= 0:
        if name[at + 1 :] in known:
            yield name[: at + 1]
        at = name.find(".", at + 1)


def repeats(way: Route, weights: WeightFile) -> list[str]:
    """Return further names in the source for tensors of the route.

    Paddle lists the weights of a recurrent layer once more under its cells. Either the file says
    that both names are one tensor, or all tensors of a module are equal to tensors of the route; a
    single tensor could be equal by chance.
    """
    known = way.names
    unknown = [name for name in weights.names if name not in known]
    repeated = {name for name in unknown if weights.aliases.get(name, name) in known}
    modules: dict[str, list[str]] = {}
    for name in unknown:
        if name not in repeated and name not in way.source_left and name not in way.source_own:
            modules.setdefault(name.rpartition(".")[0], []).append(name)
    of_route: dict[TensorEntry, list[str]] = {}
    for piece in way.pieces:
        if (piece_name := name_in(piece, weights)) is not None:
            of_route.setdefault(weights.entry(piece_name), []).append(piece_name)
    for names in modules.values():
        if _all_equal(weights, names, of_route):
            repeated |= set(names)
    return [name for name in unknown if name in repeated]


def _all_equal(
    weights: WeightFile, names: Iterable[str], of_route: Mapping[TensorEntry, list[str]]
) -> bool:
    """Return whether each tensor is equal to one of the route, and one has unlike values."""
    varies = False
    for name in names:
        rivals = of_route.get(weights.entry(name), ())
        array = weights.read(name) if rivals else None
        if array is None or not any(_same(array, weights.read(rival)) for rival in rivals):
            return False
        flat = array.reshape(-1)
        varies = varies or bool(flat.size > 1 and (flat != flat[0]).any())
    return varies


def _same(one: Array, other: Array) -> bool:
    return one.tobytes() == other.tobytes()


def misfits(way: Route, weights: WeightFile) -> dict[str, str]:
    """Describe each tensor that has another shape or dtype than the route needs, by its name."""
    wrong = {}
    for step in way.steps:
        named = [(n, piece) for piece in step.pieces if (n := name_in(piece, weights)) is not None]
        dtypes = {neutral_dtype(way.frameworks[0], weights.entry(name).dtype) for name, _ in named}
        if len(dtypes) > 1:
            wrong[step.targets[0]] = f"its parts are of several dtypes: {', '.join(sorted(dtypes))}"
        for name, piece in named:
            entry = weights.entry(name)
            if entry.shape != piece.shape:
                wrong[name] = f"{list(entry.shape)} in the file, {list(piece.shape)} in the model"
            elif piece.trains and _is_integer(neutral_dtype(way.frameworks[0], entry.dtype)):
                wrong[name] = f"{entry.dtype} in the file, which nothing trains as in the model"
    return wrong


def _is_integer(dtype: str) -> bool:
    return dtype == "bool" or dtype.lstrip("u").startswith("int")
