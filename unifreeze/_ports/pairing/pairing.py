"""The pairing of two models, as a file: which tensor is which, and the evidence for it."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import prod
from typing import Any, ClassVar

from pydantic import model_validator

from unifreeze._arguments import checked
from unifreeze._files import Format, Row, Saved
from unifreeze._ports.pairing.layer_settings import SettingDifference
from unifreeze._ports.pairing.layout import Part, are_one
from unifreeze._tables import one_line
from unifreeze.errors import PairingError, counted, listing

PAIRING_FORMAT = 2


class SideRow(Row):
    """One model of a pairing.

    Attributes:
        framework: Its framework.
        model: Name of the model in messages.
        own_state: State that needs no partner: counters, tables of positions.
    """

    framework: str
    model: str
    own_state: tuple[str, ...] = ()


class PairRow(Row):
    """One tensor in both models.

    Attributes:
        one: Native path in the first model.
        other: Native path in the second.
        one_shape: As the first stores it.
        other_shape: As the second stores it.
        transposed: The second model stores it transposed.
        by: What decided: `gradient`, `owner` (other tensors of its layer, or layers beside it),
            `result` (what its layer returns), `name`, or `hint` (a table of names).
        state: It is a statistic, or other state that is saved.
        one_aliases: Its other paths in the first model.
        other_aliases: Its other paths in the second.
        one_part: The part of a fused tensor that it is in the first model; None if it is not fused.
        other_part: The same in the second model.
    """

    one: str
    other: str
    one_shape: tuple[int, ...]
    other_shape: tuple[int, ...]
    transposed: bool
    by: str
    state: bool
    one_aliases: tuple[str, ...] = ()
    other_aliases: tuple[str, ...] = ()
    one_part: Part | None = None
    other_part: Part | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> PairRow:
        for part, path, shape in (
            (self.one_part, self.one, self.one_shape),
            (self.other_part, self.other, self.other_shape),
        ):
            if part is not None and (mistake := part.mistake(path, shape)):
                raise ValueError(mistake)
        here, there = self.one_shape, self.other_shape
        tables = len(here) == len(there) == 2 and here[1:] == there[1:] and not self.transposed
        if not tables and not are_one(here, there, transposed=self.transposed):
            shapes = f"{list(self.one_shape)} and {list(self.other_shape)}"
            raise ValueError(f"{self.one} and {self.other} cannot be one tensor: {shapes}")
        return self

    @property
    def one_tensor(self) -> str:
        """Native path of the tensor that holds it in the first model."""
        return self.one_part.of if self.one_part else self.one

    @property
    def other_tensor(self) -> str:
        """Native path of the tensor that holds it in the second model."""
        return self.other_part.of if self.other_part else self.other

    def turned(self) -> PairRow:
        """Return the same seen from the second model."""
        swapped = {
            f"{side}{what}": getattr(self, f"{back}{what}")
            for side, back in (("one", "other"), ("other", "one"))
            for what in ("", "_shape", "_aliases", "_part")
        }
        return self.model_copy(update=swapped)

    @property
    def cropped(self) -> bool:
        """Whether the two are tables of unequal length."""
        return prod(self.one_shape) != prod(self.other_shape)


class LeftRow(Row):
    """A tensor without a partner, and why."""

    side: int
    path: str
    reason: str


class ZerosRow(Row):
    """A row of a table that one port reads as zeros, whatever it holds, and the other as it is.

    Attributes:
        one: Native path of the table in the first model.
        other: The same in the second.
        row: Number of the row.
        side: Which model reads zeros: 0 or 1.
    """

    one: str
    other: str
    row: int
    side: int


class Certificate(Row):
    """The evidence for a pairing: a run of both models on values carried over by it.

    Attributes:
        dtype: The precision of the run.
        outputs: Largest relative difference of an output.
        gradients: Largest relative difference of a gradient.
        worst: Native path, in the first model, of the tensor with that gradient.
        compared: Number of gradients compared.
        unproven: Paired tensors that this batch does not check: they have no gradient, or only
            rounding error. Their layer's other tensors are checked, or neither model ran them, or a
            hint paired them.
        by_results: Paired tensors without a gradient, whose layers return the same, or whose effect
            on the outputs is the same.
        cut: Such tensors that have a gradient in one port, with the side that cuts it off.
    """

    dtype: str
    outputs: float
    gradients: float
    worst: str
    compared: int
    unproven: tuple[str, ...] = ()
    by_results: tuple[str, ...] = ()
    cut: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        text = (
            f"{self.dtype}: outputs differ by {self.outputs:.1e}, "
            f"{counted(self.compared, 'gradient')} by {self.gradients:.1e} at most ({self.worst})"
        )
        if self.by_results:
            names = listing(self.by_results)
            text += f"\nwithout a gradient, told by what their layers return: {names}"
        if self.unproven:
            text += f"\nthis batch says nothing of {listing(self.unproven)}"
        return text


class Pairing(Saved):
    """Which tensor of one model is which of another.

    Attributes:
        unifreeze_pairing: Version of the format.
        one: The first model.
        other: The second.
        pairs: Parameters, then statistics, in the order of the model that was sketched first.
        left: Tensors without a partner, each with the reason.
        outputs: Keys of each output in both models.
        left_out: Key-value caches that are not compared: side and key.
        layers: Layers without tensors that return the same, by their native paths in both.
        differences: Settings that differ although this batch may not show it.
        zeros: Rows of tables that one port reads as zeros.
        certificate: The evidence; None where the second model was never run on the first's values.

    >>> pairing = pair(torch_model, paddle_model, batch=batch)
    >>> pairing.save(folder / "pairing.json")
    >>> Pairing.load(folder / "pairing.json")
    <unifreeze.Pairing: 18 tensors of torch with paddle, 0 without partner>
    """

    format: ClassVar[Format] = Format(
        what="pairing",
        key="unifreeze_pairing",
        version=PAIRING_FORMAT,
        error=PairingError,
        hint="write it again with `unifreeze pair -o FILE`",
    )

    unifreeze_pairing: int
    one: SideRow
    other: SideRow
    pairs: tuple[PairRow, ...]
    left: tuple[LeftRow, ...]
    outputs: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[int, str], ...] = ()
    layers: tuple[tuple[str, str], ...] = ()
    differences: tuple[SettingDifference, ...] = ()
    zeros: tuple[ZerosRow, ...] = ()
    certificate: Certificate | None

    @model_validator(mode="after")
    def _is_one_to_one(self) -> Pairing:
        for rows in (self.pairs, [row.turned() for row in self.pairs]):
            layouts: dict[str, tuple[Any, ...] | None] = {}
            seen: set[str] = set()
            for row in rows:
                layout = None if row.other_part is None else row.other_part[1:-1]
                if row.other in seen or layouts.setdefault(row.other_tensor, layout) != layout:
                    raise ValueError(f"{row.other_tensor} is paired twice, or in two layouts")
                seen.add(row.other)
        known = {row.one for row in self.pairs}
        named = self.certificate and (*self.certificate.unproven, *self.certificate.by_results)
        if not known.issuperset(named or ()):
            raise ValueError("the certificate is of other pairs")
        return self

    @checked
    def turned(self) -> Pairing:
        """Return the same seen from the second model.

        >>> pair(torch_model, paddle_model, batch=batch).turned()
        <unifreeze.Pairing: 18 tensors of paddle with torch, 0 without partner>
        """
        return self.model_copy(
            update={
                "one": self.other,
                "other": self.one,
                "pairs": tuple(row.turned() for row in self.pairs),
                "left": tuple(r.model_copy(update={"side": 1 - r.side}) for r in self.left),
                "outputs": tuple((other, one) for one, other in self.outputs),
                "left_out": tuple((1 - side, key) for side, key in self.left_out),
                "layers": tuple((other, one) for one, other in self.layers),
                "differences": tuple(row.turned() for row in self.differences),
                "zeros": tuple(
                    ZerosRow(one=row.other, other=row.one, row=row.row, side=1 - row.side)
                    for row in self.zeros
                ),
                "certificate": self._turned_certificate(),
            }
        )

    def _turned_certificate(self) -> Certificate | None:
        partner = {row.one: row.other for row in self.pairs}
        known = self.certificate
        return known and known.model_copy(
            update={
                "worst": partner.get(known.worst, ""),
                "unproven": tuple(partner[path] for path in known.unproven),
                "by_results": tuple(partner[path] for path in known.by_results),
                "cut": tuple((partner[path], 1 - side) for path, side in known.cut),
            }
        )

    def __repr__(self) -> str:
        tensors = counted(len(self.pairs), "tensor")
        paired = f"{tensors} of {self.one.framework} with {self.other.framework}"
        return one_line(self, f"{paired}, {len(self.left)} without partner")

    def __str__(self) -> str:
        parameters = [pair for pair in self.pairs if not pair.state]
        by = Counter(pair.by for pair in parameters)
        lines = [
            f"{counted(len(parameters), 'parameter')} and "
            f"{counted(len(self.pairs) - len(parameters), 'statistic')} of "
            f"{self.one.framework} paired with {self.other.framework}",
            "decided by " + ", ".join(f"{what} {count}" for what, count in by.most_common()),
            f"certificate: {self.certificate or 'none'}",
        ]
        for pair in self.pairs:
            if pair.cropped:
                shapes = f"{list(pair.one_shape)} and {list(pair.other_shape)}"
                lines.append(f"tables of unequal length: {pair.one} and {pair.other}, {shapes}")
        sides = self.one.framework, self.other.framework
        lines += self._fused_lines()
        lines += self._cut_lines(sides)
        lines += [f"not compared: output {key} of {sides[side]}" for side, key in self.left_out]
        lines += [zeros_line(row, sides) for row in self.zeros]
        lines += [f"settings differ: {row}" for row in self.differences]
        lines += [f"without partner in {sides[r.side]}: {r.path}: {r.reason}" for r in self.left]
        return "\n".join(lines)

    def _cut_lines(self, sides: tuple[str, str]) -> list[str]:
        """Return a line for the tensors that get a gradient in one port only."""
        rows = self.certificate.cut if self.certificate else ()
        cut = [[path for path, side in rows if side == number] for number in (0, 1)]
        return [
            f"{sides[n]} cuts off the gradient of {counted(len(paths), 'tensor')}, and "
            f"{sides[1 - n]} does not: {listing(paths)}"
            for n, paths in enumerate(cut)
            if paths
        ]

    def _fused_lines(self) -> list[str]:
        """Return a line for each sort of fused tensors: the first one, and how many there are."""
        lines = []
        for side, rows in ((self.one, [r.turned() for r in self.pairs]), (self.other, self.pairs)):
            held: dict[Part, list[str]] = defaultdict(list)
            for row in rows:
                if row.other_part is not None:
                    held[row.other_part._replace(number=0)].append(row.one)
            sorts: dict[tuple[str, int], list[Part]] = defaultdict(list)
            for whole in held:
                sorts[".".join(whole.of.split(".")[-2:]), whole.groups].append(whole)
            for (_, groups), wholes in sorts.items():
                names = listing(held[wholes[0]])
                how = f" in {groups} groups" if groups > 1 else ""
                more = f" (and {len(wholes) - 1} more like it)" if len(wholes) > 1 else ""
                lines.append(f"fused in {side.framework}: {wholes[0].of} is {names}{how}{more}")
        return lines


def zeros_line(row: ZerosRow, sides: tuple[str, str]) -> str:
    """Say what it means that one port reads a row as zeros."""
    table = row.other if row.side else row.one
    return (
        f"row {row.row} of {table} is zeros in {sides[row.side]} whatever it holds, and read as it "
        f"is in {sides[1 - row.side]}: outputs differ on inputs that hold {row.row}, unless that "
        "row is zero"
    )
