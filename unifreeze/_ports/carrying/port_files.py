"""`port_file`: weights from file to file, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial as bound
from pathlib import Path

from unifreeze._arguments import checked
from unifreeze._numerics.projections import Array
from unifreeze._ports.carrying.source_fit import direction, misfits, name_in, prefix_hint, repeats
from unifreeze._ports.carrying.transfers import (
    Piece,
    Ported,
    Route,
    check_route,
)
from unifreeze._ports.pairing import Pairing
from unifreeze._ports.weights import (
    Named,
    TensorProgress,
    WeightFile,
    files_of,
    metadata_format,
    neutral_dtype,
    open_weights,
    save_weights,
    stored_dtype,
)
from unifreeze.errors import PortError


@checked
def port_file(
    source: str | Path,
    target: str | Path,
    pairing: Pairing,
    *,
    reverse: bool | None = None,
    partial: bool = False,
    crop: bool = False,
    strip_prefix: str = "",
    key: str | None = None,
    progress: TensorProgress | None = None,
) -> Ported:
    """Write one port's weight file as the other port names and stores its tensors.

    Every tensor keeps its dtype and its bits; statistics are carried over with the parameters, and
    tied tensors stay tied. Of safetensors files one tensor is in memory at a time. Safetensors for
    Paddle hold bfloat16 as Paddle's libraries write and read it.

    Args:
        source: A weight file, or a folder or index of several.
        target: Where to write; the format follows from the name.
        pairing: The pairing of the two models.
        reverse: The source is the pairing's second model; None finds out by the names in it.
        partial: Leave out tensors without a partner.
        crop: Carry over the common rows of tables of unequal length.
        strip_prefix: Take only names that begin with this (`module.`, `Student.`), and remove it.
        key: In a checkpoint that holds several state dicts, the one to take.
        progress: Called after each tensor.

    Raises:
        WeightFileError: The source cannot be read, or the target not written.
        PortError: The source does not fit the pairing; everything that does not is listed. Or the
            target is the source.

    >>> pairing = pair(torch_model, paddle_model, batch=batch)
    >>> torch.save(torch_model.state_dict(), folder / "model.pt")
    >>> port_file(folder / "model.pt", folder / "model.pdparams", pairing)
    <unifreeze.Ported: 18 tensors with 237 values carried over>
    """
    with open_weights(source, key=key) as opened:
        weights = opened.under(strip_prefix) if strip_prefix else opened
        way = direction(pairing, weights, reverse)
        repeated = repeats(way, weights)
        passed = check_route(
            way,
            [name for name in weights.names if name not in set(repeated)],
            partial=partial,
            crop=crop,
            wrong=misfits(way, weights),
            into_file=True,
            source=str(weights.source),
            hint=prefix_hint(way, weights.names),
        )
        _check_apart(Path(source), Path(target))
        save_weights(
            target, _named(way, weights, target), metadata=_metadata(way, target), progress=progress
        )
        passed_over = (*passed, *(weights.ignored if strip_prefix else ()))
        return way.report(passed_over, bound(_read, weights), repeated)


def _check_apart(source: Path, target: Path) -> None:
    """Refuse to overwrite the source."""
    if target.exists() and any(target.samefile(file) for file in files_of(source)):
        raise PortError(
            f"{target} is the source itself, which would be lost",
            hint="give the target another name",
        )


def _named(way: Route, weights: WeightFile, target: str | Path) -> Iterator[Named]:
    plain = Path(target).suffix == ".safetensors"
    for step in way.steps:
        name = name_in(step.pieces[0], weights)
        assert name is not None
        read = bound(step.filled, bound(_read, weights), _no_values)
        dtype, first = neutral_dtype(way.frameworks[0], weights.entry(name).dtype), step.targets[0]
        dtype = stored_dtype(way.frameworks[1], dtype) if plain else dtype
        yield Named(first, step.shape, dtype, read)
        for alias in step.targets[1:]:
            yield Named(alias, step.shape, dtype, read, first)


def _no_values() -> Array:
    raise AssertionError("files have no values of their own for a target")


def _read(weights: WeightFile, piece: Piece) -> Array:
    name = name_in(piece, weights)
    assert name is not None
    array = weights.read(name)
    for alias in piece.names:
        if alias != name and alias in weights and array.tobytes() != weights.read(alias).tobytes():
            raise PortError(
                f"{name} and {alias} of {weights.source} differ, and the model ties them",
                hint="pair a model that does not tie them",
            )
    return array


def _metadata(way: Route, target: str | Path) -> dict[str, str] | None:
    if Path(target).suffix != ".safetensors":
        return None
    return {"format": metadata_format(way.frameworks[1])}
