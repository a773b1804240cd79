"""What can be taught of a class of layers: its kind, its matrix, and what its tensors are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from unifreeze._structure import STATISTICS
from unifreeze._structure.words_in_names import role_of
from unifreeze.errors import KindError, brief, listing, nearest

LessonKind = Literal["linear", "conv", "norm", "embedding", "rnn", "activation", "dropout"]
CALL = "a call"
"""Who taught a lesson that came by a call of `teach_kind`."""

_KINDS: tuple[str, ...] = get_args(LessonKind)
_WAYS = ("in x out", "out x in")
_KEYS = ("kind", "matrix", "roles")
MATRIX_KINDS = ("linear", "rnn")
"""Kinds of layers that store a matrix either way round."""
_AXES = {"linear": 2, "embedding": 2, "conv": 3}
"""Kinds whose layers have one large tensor, and the least number of axes it has."""
_EXAMPLE = '{"kind": "linear", "matrix": "in x out"}'


@dataclass(frozen=True)
class Lesson:
    """What was taught of one class of layers.

    Attributes:
        layer: Dotted name of the class, as it was given.
        kind: Its kind of layer.
        matrix: "in x out" or "out x in", how it stores matrices; "" where that was left out.
        roles: For tensors by their own names, what they are.
        by: Who taught it.
    """

    layer: str
    kind: str
    matrix: str
    roles: tuple[tuple[str, str], ...]
    by: str

    @property
    def says(self) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """What it says of the class, whoever taught it."""
        return self.kind, self.matrix, self.roles

    @property
    def settings(self) -> dict[str, str]:
        """What it says of a layer's settings, in neutral terms."""
        return {"stored": self.matrix} if self.matrix else {}

    def __str__(self) -> str:
        matrix = f", matrix {self.matrix}" if self.matrix else ""
        roles = "".join(f", {name} is its {role}" for name, role in self.roles)
        return f"{self.kind}{matrix}{roles} (by {self.by})"

    def roles_in(self, shapes: Mapping[str, tuple[int, ...]], *, whole: bool) -> dict[str, str]:
        """Return what the tensors of one layer are, for those whose own names do not say it.

        Args:
            shapes: Shape of each of its own parameters; () for a lazy one.
            whole: It has no modules inside that could hold the rest.

        Raises:
            KindError: The layer does not hold what was taught.
        """
        roles = dict(self.roles)
        weight = next((name for name, role in roles.items() if role == "weight"), "")
        if whole and shapes and weight and weight not in shapes:
            raise self._unlike(f"there is no {weight!r} in it", shapes)
        known = whole and shapes and () not in shapes.values()
        if known and self.matrix and not self._matrices(shapes):
            raise self._unlike("it has no matrix of two axes", shapes)
        large = [name for name, shape in shapes.items() if len(shape) >= _AXES.get(self.kind, 99)]
        if len(large) == 1 and not weight and large[0] not in roles and "weight" not in shapes:
            roles[large[0]] = "weight"
        return roles

    def _matrices(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        return [name for name, shape in shapes.items() if len(shape) == 2 and self.turns(name)]

    def turns(self, leaf: str) -> bool:
        """Return whether a tensor of that name or role is a matrix, and not a bias."""
        return role_of(dict(self.roles).get(leaf, leaf), self.kind)[1] != "bias"

    def _unlike(self, why: str, shapes: Mapping[str, tuple[int, ...]]) -> KindError:
        held = listing(f"{name} {list(shape)}" for name, shape in shapes.items())
        return KindError(
            f"{self.layer} is not as it was taught: {why}",
            context=f"taught: {self}\nit holds: {held}",
            hint="teach it as it is: uf.teach_kind(…, replace=True)",
        )


def read_lessons(data: Any, by: str) -> list[Lesson]:
    """Read what an entry point holds: for each class, what `teach_kind` would be told.

    Args:
        data: A mapping from dotted names of classes.
        by: The entry, for messages.

    Raises:
        KindError: It holds something else.
    """
    if not isinstance(data, Mapping):
        raise KindError(
            f"{by} holds {brief(data)}, and should be a mapping from classes",
            hint=f'for example {{"package.module.MLPLayer": {_EXAMPLE}}}',
        )
    return [read_lesson(layer, said, by) for layer, said in data.items()]


def read_lesson(layer: Any, said: Any, by: str) -> Lesson:
    """Check what is taught of one class.

    Args:
        layer: Dotted name of the class.
        said: What is said of it: kind, and perhaps matrix and roles.
        by: Who says it.

    Raises:
        KindError: It makes no sense.
    """
    if not (isinstance(layer, str) and all(map(_is_name, layer.split("."))) and "." in layer):
        raise KindError(
            f"{brief(layer)} is not the dotted name of a class",
            hint='for example "package.module.MLPLayer"; or give the class itself',
        )
    if not isinstance(said, Mapping):
        raise KindError(f"{layer}: {brief(said)} is not a lesson", hint=f"for example {_EXAMPLE}")
    for key in said:
        _check_word(layer, "says", key, _KEYS)
    kind, matrix = said.get("kind"), said.get("matrix")
    _check_word(layer, "kind", kind, _KINDS)
    if matrix is not None:
        matrix = matrix.replace("×", "x") if isinstance(matrix, str) else matrix  # noqa: RUF001
        _check_word(layer, "matrix", matrix, _WAYS)
        if kind not in MATRIX_KINDS:
            raise KindError(
                f"{layer}: the matrix of {kind} layers cannot be taught",
                context=f"kinds that store a matrix either way: {', '.join(MATRIX_KINDS)}; kernels"
                " are out x in, and tables hold a row for each index, in every framework",
                hint="leave matrix out",
            )
    return Lesson(layer, str(kind), matrix or "", _read_roles(layer, str(kind), said), by)


def _read_roles(layer: str, kind: str, said: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    roles = said.get("roles") or {}
    if not isinstance(roles, Mapping):
        raise KindError(
            f"{layer}: roles is {brief(roles)}, and should be a mapping from names of tensors",
            hint='for example roles={"kernel": "weight", "offset": "bias"}',
        )
    known = _roles_of(kind)
    for name, role in roles.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise KindError(
                f"{layer}: {brief(name)} in roles is not the name of a tensor",
                hint='the attribute that holds it: roles={"kernel": "weight"}',
            )
        if not known:
            raise KindError(
                f"{layer}: {kind} layers hold no tensors whose roles could be taught",
                hint="leave roles out",
            )
        _check_word(layer, f"roles[{name!r}]", role, known)
    taken = list(roles.values())
    twice = next((role for role in taken if taken.count(role) > 1), None)
    if twice is not None:
        names = [name for name, role in roles.items() if role == twice]
        raise KindError(
            f"{layer}: {' and '.join(names)} are both taught as its {twice}",
            hint="leave out of roles what keeps its own name",
        )
    return tuple(sorted(roles.items()))


def _roles_of(kind: str) -> tuple[str, ...]:
    """Return what the tensors of a kind of layer can be."""
    if kind == "dropout":
        return ()
    if kind == "rnn":
        return tuple(f"{part}_{of}_l0" for part in ("weight", "bias") for of in ("ih", "hh"))
    return ("weight", "bias", *sorted(STATISTICS)) if kind == "norm" else ("weight", "bias")


def _check_word(layer: str, place: str, word: Any, known: Iterable[str]) -> None:
    words = list(known)
    if word in words:
        return
    close = nearest(word, words, limit=1) if isinstance(word, str) else []
    raise KindError(
        f"{layer}: {place} {brief(word)} is not known",
        context=f"known: {', '.join(words)}",
        hint=f"did you mean {close[0]!r}?" if close else f"for example {_EXAMPLE}",
    )


def _is_name(piece: str) -> bool:
    return piece.isidentifier() or piece == "<locals>"
