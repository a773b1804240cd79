"""Writing `.pdparams` files: the pickle that `paddle.load` reads, tensor by tensor.

Python's own pickler keeps all that it has written until it ends, so the whole model would be in
memory; this module writes the same instructions itself.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from unifreeze._ports.weights.contents import DTYPES, Named, TensorProgress, values_of
from unifreeze._ports.weights.paddle_format import OWN_NAMES, SLICES
from unifreeze.errors import WeightFileError, listing

UNREADABLE = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")
"""Dtypes that `paddle.load` refuses, or takes for another dtype."""


def write_pdparams(file: BinaryIO, tensors: Sequence[Named], progress: TensorProgress) -> None:
    """Write tensors as `paddle.save` would a state dict, one in memory at a time.

    A tied tensor is in the file once; `paddle.load` returns it under each of its names.

    Raises:
        WeightFileError: `paddle.load` would read a name or dtype as something else.
    """
    _check(tensors)
    sources = {tensor.alias_of for tensor in tensors}
    places: dict[str, int] = {}
    file.write(b"\x80\x04}(")
    for done, tensor in enumerate(tensors, start=1):
        file.write(_text(tensor.name))
        if tensor.alias_of is not None:
            file.write(b"j" + struct.pack("<I", places[tensor.alias_of]))
        else:
            _write_array(file, tensor)
        if tensor.name in sources:
            places[tensor.name] = len(places)
            file.write(b"r" + struct.pack("<I", places[tensor.name]))
        progress(tensor.name, done, len(tensors))
    file.write(b"u.")


def _check(tensors: Sequence[Named]) -> None:
    odd = [f"{t.name!r} ({t.dtype})" for t in tensors if t.dtype in UNREADABLE]
    odd += [repr(t.name) for t in tensors if t.name in (SLICES, OWN_NAMES)]
    if odd:
        raise WeightFileError(
            f"paddle.load would not give back {listing(odd)}",
            hint="write a .safetensors file",
        )


def _write_array(file: BinaryIO, tensor: Named) -> None:
    """Write an array as NumPy pickles it: an empty array, then its state."""
    data = values_of(tensor).reshape(-1).view(np.uint8).data
    code = DTYPES[tensor.dtype]
    file.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(K\x00tC\x01b\x87R")
    file.write(b"(K\x01(" + b"".join(map(_integer, tensor.shape)) + b"t")
    file.write(b"cnumpy\ndtype\n" + _text(code[1:]) + b"\x89\x88\x87R")
    file.write(b"(K\x03" + _text(code[0]) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    file.write(b"\x89\x8e" + struct.pack("<Q", len(data)))
    file.write(data)
    file.write(b"tb")


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(number: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", number)
