"""Which way round two models store a matrix: out x in, or in x out."""

from __future__ import annotations

from unifreeze._numerics.projections import squeezed
from unifreeze._ports.pairing.model_sketch import ModelSketch, TensorRow
from unifreeze._ports.pairing.one_sided_ties import SAME
from unifreeze._ports.pairing.pair_evidence import PairEvidence


class Orientation:
    """How two models store their matrices."""

    def __init__(self, sides: tuple[ModelSketch, ModelSketch], evidence: PairEvidence) -> None:
        self._evidence = evidence
        self._settings = [{row.path: row.settings for row in side.settings} for side in sides]

    def is_transposed(self, one: TensorRow, other: TensorRow) -> bool | None:
        """Return whether the second side stores a tensor transposed; None if unknown.

        Shapes decide, or the gradient of a square matrix, or that both layers are of a framework.
        """
        shapes = squeezed(one.shape), squeezed(other.shape)
        tables = one.kind == other.kind == "embedding"
        if len(shapes[0]) == len(shapes[1]) == 1 and not one.state:
            return False if self._are_along_one_axis(one, other) else None
        if len(shapes[0]) != 2 or tables or one.state:
            return False
        if shapes[0] != shapes[1] or shapes[0] != shapes[0][::-1]:
            return shapes[0] != shapes[1]
        a, b = self._evidence.gradients(one, other)
        if a and b:
            straight, turned = a.distance(b), a.distance(b, transposed=True)
            if min(straight, turned) < SAME <= max(straight, turned):
                return turned < straight
        stored = self._stored_by(0, one), self._stored_by(1, other)
        return None if "" in stored else stored[0] != stored[1]

    def _stored_by(self, side: int, row: TensorRow) -> str:
        """Return which way round a layer stores its matrix; "" if its class does not say."""
        is_table = row.kind != "conv" and row.shape[:1] == (1,)
        if is_table or row.kind == "rnn":
            return "out x in"
        return str(self._setting(side, row, "stored") or "")

    def _setting(self, side: int, row: TensorRow, name: str) -> object:
        return self._settings[side].get(row.owner.partition("[")[0], {}).get(name)

    def _are_along_one_axis(self, one: TensorRow, other: TensorRow) -> bool:
        """Return whether the norms in two weight-normed layers are of the same axis.

        Gradients decide, or the settings of the layers.
        """
        axes = [self._setting(side, row, "normed") for side, row in enumerate((one, other))]
        roles = {row.role.rpartition(".")[2] for row in (one, other)}
        if None in axes or not any(role.endswith(("_g", "original0")) for role in roles):
            return True
        if all(self._evidence.gradients(one, other)):
            return True
        ways = [self._stored_by(side, row) for side, row in enumerate((one, other))]
        turned = ways[0] != ways[1]
        return axes[0] == (axes[1] if not turned else _TURNED.get(str(axes[1]), axes[1]))


_TURNED = {"0": "1", "1": "0"}
