"""Weight files: bit for bit in and out, one tensor at a time, all or nothing."""

from __future__ import annotations

import json
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import paddle
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from tests.support.weight_arrays import ONES, named, tied_rows
from unifreeze._ports.weights import DTYPES, Named, TensorEntry, open_weights, save_weights
from unifreeze.errors import WeightFileError

SUFFIXES = (".safetensors", ".pdparams", ".pt", ".bin")
DTYPES_TRIED = ("float32", "float64", "float16", "bfloat16", "int64", "bool")
SHAPES = {"matrix": (3, 4), "scalar": (), "nothing": (0, 3), "row": (1,)}


def arrays():
    """One array for each dtype and shape, special values among them, keyed by name."""
    random = np.random.default_rng(0)
    for dtype in DTYPES_TRIED:
        code = np.dtype(DTYPES[dtype])
        for label, shape in SHAPES.items():
            raw = random.integers(0, 2 if dtype == "bool" else 256, 100 * code.itemsize, "uint8")
            count = int(np.prod(shape))
            yield f"{dtype}.{label}", dtype, raw.view(code)[:count].reshape(shape).copy()


def torch_tensors():
    state = {}
    for name, dtype, array in arrays():
        state[name] = torch.empty(array.shape, dtype=getattr(torch, dtype))
        state[name].reshape(-1).view(torch.uint8).numpy()[:] = np.frombuffer(
            array.tobytes(), np.uint8
        )
    state["turned"] = torch.arange(12.0).reshape(3, 4).t()
    state["strided"] = torch.arange(20.0)[::3]
    return state


def paddle_tensors():
    state = {}
    for name, dtype, array in arrays():
        tensor = paddle.to_tensor(array)  # Paddle takes uint16 for bfloat16 itself
        assert dtype in str(tensor.dtype)
        state[name] = tensor
    state["turned"] = paddle.arange(12, dtype="float32").reshape([3, 4]).t()
    return state


def torch_bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def all_named():
    return [named(name, array, dtype=dtype) for name, dtype, array in arrays()]


def check_torch(path, state):
    with open_weights(path) as weights:
        assert set(weights.names) == set(state)
        for name, tensor in state.items():
            assert weights.entry(name) == TensorEntry(
                tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
            )
            array = weights.read(name)
            assert (array.shape, array.dtype) == (tuple(tensor.shape), array.dtype)
            assert array.tobytes() == torch_bits(tensor), name


# --- what the frameworks write is read ---------------------------------------------------------


@pytest.mark.parametrize("new", [True, False])
def test_what_torch_saves_is_read_bit_for_bit(tmp_path, new):
    state = torch_tensors()
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    check_torch(tmp_path / "w.pt", state)


def test_what_safetensors_saves_is_read_bit_for_bit(tmp_path):
    state = {name: tensor.contiguous() for name, tensor in torch_tensors().items()}
    state["tiny"] = torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", {"format": "pt"})
    check_torch(tmp_path / "w.safetensors", state)
    with open_weights(tmp_path / "w.safetensors") as weights:
        assert weights.metadata == {"format": "pt"}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_is_read_bit_for_bit(tmp_path, protocol):
    state = paddle_tensors()
    state["large"] = paddle.arange(5000, dtype="float32") - 2500  # beyond what is kept in memory
    paddle.save(state, str(tmp_path / "w.pdparams"), protocol=protocol)
    with open_weights(tmp_path / "w.pdparams") as weights:
        assert weights.names == tuple(state)
        for name, tensor in state.items():
            assert weights.read(name).tobytes() == tensor.numpy().tobytes(), name
            assert weights.entry(name).dtype == str(tensor.dtype).removeprefix("paddle.")
            assert weights.entry(name).shape == tuple(tensor.shape)


def test_large_parameters_that_paddle_cut_in_slices_are_put_together(tmp_path, monkeypatch):
    from paddle.framework import io_utils

    array = np.arange(10, dtype="float32").reshape(2, 5)
    shrunk = {"part": array, "rest": np.ones(2, "float32")}
    monkeypatch.setattr(io_utils.math, "ceil", lambda value: 3)
    source = Path(io_utils.__file__).read_text(encoding="utf-8").replace("2**30 - 1", "16")
    spaces = {}
    exec(compile(source, io_utils.__file__, "exec"), spaces)
    saved = spaces["_unpack_saved_dict"](shrunk, 2)
    assert sum("@@." in key for key in saved) == 3
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(saved, protocol=2))
    with open_weights(tmp_path / "w.pdparams") as weights:
        assert set(weights.names) == {"part", "rest"}
        np.testing.assert_array_equal(weights.read("part"), array)


def test_arrays_in_fortran_order_keep_their_values(tmp_path):
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps({"w": array}, protocol=4))
    with open_weights(tmp_path / "w.pdparams") as weights:
        np.testing.assert_array_equal(weights.read("w"), array)


def test_the_format_is_told_by_content_and_not_by_name(tmp_path):
    safetensors.numpy.save_file({"w": np.ones(2, "float32")}, tmp_path / "w.bin")
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pdparams")
    paddle.save({"w": paddle.ones([2])}, str(tmp_path / "w.ckpt"))
    for name in ("w.bin", "w.pdparams", "w.ckpt"):
        with open_weights(tmp_path / name) as weights:
            assert weights.read("w").tolist() == [1, 1]


def test_a_header_length_that_looks_like_a_pickle_is_still_a_header(tmp_path):
    wanted = 0x0480  # its first two bytes are those of a pickle of protocol 4
    header = json.dumps({"__metadata__": {"fill": ""}})
    header = json.dumps({"__metadata__": {"fill": "x" * (wanted - len(header))}})
    raw = struct.pack("<Q", wanted) + header.encode()
    (tmp_path / "w.safetensors").write_bytes(raw)
    assert raw[:2] == b"\x80\x04"
    with open_weights(tmp_path / "w.safetensors") as weights:
        assert weights.names == ()


# --- what is written here, the frameworks read -------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_again_bit_for_bit(tmp_path, suffix):
    save_weights(tmp_path / f"w{suffix}", all_named())
    with open_weights(tmp_path / f"w{suffix}") as weights:
        assert set(weights) == {name for name, _, _ in arrays()}
        for name, dtype, array in arrays():
            assert weights.entry(name) == TensorEntry(array.shape, dtype)
            assert weights.read(name).dtype == array.dtype
            assert weights.read(name).tobytes() == array.tobytes()


def test_torch_loads_what_is_written(tmp_path):
    save_weights(tmp_path / "w.safetensors", all_named())
    save_weights(tmp_path / "w.pt", all_named())
    for state in (
        safetensors.torch.load_file(tmp_path / "w.safetensors"),
        torch.load(tmp_path / "w.pt", weights_only=True),
    ):
        for name, dtype, array in arrays():
            assert state[name].dtype == getattr(torch, dtype)
            assert tuple(state[name].shape) == array.shape
            assert torch_bits(state[name]) == array.tobytes()


def test_paddle_loads_what_is_written(tmp_path):
    save_weights(tmp_path / "w.pdparams", all_named())
    state = paddle.load(str(tmp_path / "w.pdparams"))
    for name, dtype, array in arrays():
        assert str(state[name].dtype) == f"paddle.{dtype}"
        assert state[name].numpy().tobytes() == array.tobytes()
        assert tuple(state[name].shape) == array.shape


def test_an_array_that_is_not_contiguous_is_written_by_its_values(tmp_path):
    array = np.arange(12.0).reshape(3, 4).T[::2]
    for suffix in SUFFIXES:
        save_weights(tmp_path / f"w{suffix}", [named("w", array)])
        with open_weights(tmp_path / f"w{suffix}") as weights:
            np.testing.assert_array_equal(weights.read("w"), array)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tied_names_stay_tied_and_each_is_there(tmp_path, suffix):
    save_weights(tmp_path / f"w{suffix}", tied_rows())
    with open_weights(tmp_path / f"w{suffix}") as weights:
        assert weights.aliases == {"second": "first"}
        np.testing.assert_array_equal(weights.read("second"), weights.read("first"))
        save_weights(tmp_path / "again.safetensors", weights.named())
    with open_weights(tmp_path / "again.safetensors") as weights:
        assert weights.aliases == {"second": "first"}


def test_a_strict_load_finds_every_tied_name(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Parameter(torch.zeros(2, 3))
            self.bias = torch.nn.Parameter(torch.zeros(2))
            self.second = self.first

    class PaddleTied(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.first = self.create_parameter([2, 3])
            self.bias = self.create_parameter([2])
            self.second = self.first

    for suffix in (".safetensors", ".pt", ".pdparams"):
        save_weights(tmp_path / f"w{suffix}", tied_rows())
    model = Tied()
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "w.safetensors"), strict=True)
    loaded = torch.load(tmp_path / "w.pt", weights_only=True)
    model.load_state_dict(loaded, strict=True)
    assert loaded["first"].data_ptr() == loaded["second"].data_ptr()
    missing, unexpected = PaddleTied().set_state_dict(paddle.load(str(tmp_path / "w.pdparams")))
    assert not missing
    assert not unexpected


def test_aliases_that_are_only_in_the_metadata_are_expanded(tmp_path):
    file = tmp_path / "w.safetensors"
    metadata = {"unifreeze.aliases": json.dumps({"second": "first"})}
    safetensors.numpy.save_file({"first": np.ones(2, "float32")}, file, metadata)
    with open_weights(file) as weights:
        assert weights.names == ("first", "second")
        assert weights.read("second").tolist() == [1, 1]


def test_ties_of_the_frameworks_are_seen(tmp_path):
    one, other = torch.ones(2), torch.ones(2)
    torch.save({"a": one, "b": one, "c": other, "part": one[:1]}, tmp_path / "w.pt")
    tensor, twin = paddle.ones([2]), paddle.ones([2])
    twin.name = tensor.name + "_else"
    paddle.save({"a": tensor, "b": tensor, "c": twin}, str(tmp_path / "w.pdparams"))
    for name in ("w.pt", "w.pdparams"):
        with open_weights(tmp_path / name) as weights:
            assert weights.aliases == {"b": "a"}


def test_one_name_for_two_unlike_tensors_is_no_tie(tmp_path):
    one, other = paddle.ones([2]), paddle.zeros([2])
    other.name = one.name
    paddle.save({"a": one, "b": other}, str(tmp_path / "w.pdparams"))
    with open_weights(tmp_path / "w.pdparams") as weights:
        assert weights.aliases == {}


# --- memory, progress, all or nothing ----------------------------------------------------------


@pytest.mark.parametrize("target", ["copy.safetensors", "copy.pdparams"])
@pytest.mark.parametrize("source", ["w.safetensors", "w.pdparams"])
def test_a_copy_holds_one_tensor_at_a_time(tmp_path, source, target):
    each = 4_000_000
    rows = [
        Named(f"w{n}", (each // 4,), "float32", lambda n=n: np.full(each // 4, n, "float32"))
        for n in range(8)
    ]
    save_weights(tmp_path / source, rows)
    tracemalloc.start()
    try:
        with open_weights(tmp_path / source) as weights:
            save_weights(tmp_path / target, weights.named())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert each <= peak < 2.5 * each


def test_progress_names_every_tensor_once(tmp_path):
    for suffix in SUFFIXES:
        calls = []
        rows = tied_rows()
        save_weights(tmp_path / f"w{suffix}", rows, progress=lambda *call: calls.append(call))  # noqa: B023
        assert [(done, total) for _, done, total in calls] == [(1, 3), (2, 3), (3, 3)]
        assert {name for name, _, _ in calls} == {row.name for row in rows}


class Stop(BaseException):
    pass


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [Stop, RuntimeError, OSError])
def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path, suffix, error):
    path = tmp_path / f"w{suffix}"
    save_weights(path, tied_rows())
    before = path.read_bytes()

    def fail():
        raise error("half-way")

    rows = [*tied_rows(), Named("last", (2,), "float32", fail)]
    with pytest.raises((Stop, RuntimeError, WeightFileError), match="half-way"):
        save_weights(path, rows)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_may_be_written_in_place_of_the_one_being_read(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, tied_rows())
    with open_weights(path) as weights:
        save_weights(path, weights.named())
    with open_weights(path) as weights:
        assert len(weights) == 3


REFUSED = {
    "announced as": ("w.safetensors", [Named("w", (3,), "float32", lambda: ONES)]),
    "announced as float64": ("w.pdparams", [Named("w", (2,), "float64", lambda: ONES)]),
    "given twice": ("w.safetensors", [named("w", ONES), named("w", ONES)]),
    "not Unicode": ("w.safetensors", [named("\ud800", ONES)]),
    "no array is": ("w.safetensors", [Named("w", (-1,), "float32", lambda: ONES)]),
    "no array is float33": ("w.pt", [Named("w", (2,), "float33", lambda: ONES)]),
    "not a tensor before it": ("w.pt", [named("w", ONES, alias_of="v")]),
    "tied to 'v', float32": ("w.pt", [named("v", ONES), named("w", ONES[:1], alias_of="v")]),
    "cannot hold '__metadata__'": ("w.safetensors", [named("__metadata__", ONES)]),
    "cannot hold 'w' as complex128": ("w.safetensors", [named("w", ONES.astype("complex128"))]),
    "paddle.load would not": ("w.pdparams", [named("w", ONES.astype("uint16"))]),
    "would not give back 'Unpack": ("w.pdparams", [named("UnpackBigParamInfor@@", ONES)]),
    "which format": ("w.weights", [named("w", ONES)]),
    "cannot write": ("no/folder/w.pt", [named("w", ONES)]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_written(tmp_path, message):
    name, rows = REFUSED[message]
    with pytest.raises(WeightFileError, match=message):
        save_weights(tmp_path / name, rows)
    assert list(tmp_path.iterdir()) == []


def test_only_safetensors_carry_metadata(tmp_path):
    save_weights(tmp_path / "w.safetensors", [named("w", ONES)], metadata={"format": "pt"})
    with safetensors.safe_open(tmp_path / "w.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    with pytest.raises(WeightFileError, match="cannot carry metadata"):
        save_weights(tmp_path / "w.pt", [named("w", ONES)], metadata={"format": "pt"})


# --- using a file ------------------------------------------------------------------------------


def test_a_wrong_name_is_answered_with_the_nearest(tmp_path):
    save_weights(tmp_path / "w.safetensors", tied_rows())
    with open_weights(tmp_path / "w.safetensors") as weights:
        with pytest.raises(WeightFileError, match="did you mean 'first'"):
            weights.read("frist")
        assert "first" in weights
        assert "frist" not in weights
    with pytest.raises(WeightFileError, match="is closed"):
        weights.read("first")


def test_what_is_read_is_the_callers_own(tmp_path):
    for suffix in SUFFIXES:
        save_weights(tmp_path / f"w{suffix}", tied_rows())
        with open_weights(tmp_path / f"w{suffix}") as weights:
            weights.read("bias")[:] = 7
            assert weights.read("bias").tolist() == [1, 1]
