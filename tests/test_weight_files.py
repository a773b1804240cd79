"""Weight files: bit for bit in and out, one tensor at a time, and nothing in them is ever run."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

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


def named(name, array, *, dtype=None, alias_of=None):
    return Named(name, array.shape, dtype or str(array.dtype), lambda: array, alias_of)


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


def tied_rows():
    weight, bias = np.arange(6, dtype="float32").reshape(2, 3), np.ones(2, "float32")
    return [
        named("first", weight),
        named("bias", bias),
        named("second", weight, alias_of="first"),
    ]


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


ONES = np.ones(2, "float32")
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


# --- checkpoints with more in them -------------------------------------------------------------


def checkpoint(**more):
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 3, "optimizer": optimizer, **more}


def test_the_state_dict_is_found_in_a_checkpoint(tmp_path):
    state = OrderedDict(w=torch.ones(2), version=2)
    for key in ("state_dict", "model", "anything"):
        torch.save(checkpoint(**{key: state}), tmp_path / "w.pt")
        with open_weights(tmp_path / "w.pt") as weights:
            assert weights.names == ("w",)
            assert weights.ignored == ("epoch", "optimizer", f"{key}.version")
    paddle.save({"model": {"w": paddle.ones([2])}, "epoch": 3}, str(tmp_path / "w.pdparams"))
    with open_weights(tmp_path / "w.pdparams") as weights:
        assert weights.names == ("w",)


def test_of_several_state_dicts_one_is_asked_for(tmp_path):
    states = {"model": {"w": torch.ones(2)}, "average": {"w": torch.zeros(2)}}
    torch.save(checkpoint(**states), tmp_path / "w.pt")
    with pytest.raises(WeightFileError, match="2 state dicts: model, average"):
        open_weights(tmp_path / "w.pt")
    with open_weights(tmp_path / "w.pt", key="average") as weights:
        assert weights.read("w").tolist() == [0, 0]
    with pytest.raises(WeightFileError, match="did you mean 'average'"):
        open_weights(tmp_path / "w.pt", key="avrage")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": torch.ones(2), "extra": [1, 2]}, r"neither a tensor.*\n.*'extra' \(list\)"),
        ({3: torch.ones(2)}, "no text as name"),
        ({"epoch": 3}, r"no state dict\n  its keys: epoch"),
        ([torch.ones(2)], "holds a list"),
        ({"w": torch.ones(2).to_sparse()}, "not an ordinary tensor"),
        ({"w": torch.ones(2, device="meta")}, "not an ordinary tensor"),
        ({"w": torch.ones(1).expand(10**12)}, "and the file has"),
    ],
)
def test_what_is_no_state_dict_is_listed(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightFileError, match=message):
        open_weights(tmp_path / "w.pt")


# --- several files -----------------------------------------------------------------------------


def shards(folder, suffix=".safetensors", **changes):
    """Two files and their index; `changes` are made to the weight map."""
    stem = {".safetensors": "model", ".bin": "pytorch_model", ".pdparams": "model_state"}[suffix]
    placed = {}
    for number, name in enumerate(["a", "b"]):
        file = f"{stem}-{number}{suffix}"
        save_weights(folder / file, [named(name, ONES * number)])
        placed[name] = file
    index = folder / f"{stem}{suffix}.index.json"
    content = {"metadata": {"total_size": 16}, "weight_map": {**placed, **changes}}
    index.write_text(json.dumps(content), encoding="utf-8")
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pdparams"])
def test_an_index_or_its_folder_opens_all_its_files(tmp_path, suffix):
    for path in (shards(tmp_path, suffix), tmp_path):
        with open_weights(path) as weights:
            assert weights.names == ("a", "b")
            assert weights.read("b").tolist() == [1, 1]


@pytest.mark.parametrize("file", ["../x", "/etc/hosts", "sub/x", "..", "", "..\\x", "c:x", "x\0"])
def test_an_index_that_leaves_its_folder_is_refused(tmp_path, file):
    with pytest.raises(WeightFileError, match="outside its folder"):
        open_weights(shards(tmp_path, b=file))


def test_an_index_and_its_files_must_agree(tmp_path):
    with pytest.raises(WeightFileError, match="not there: model-9"):
        open_weights(shards(tmp_path, b="model-9.safetensors"))
    with pytest.raises(WeightFileError, match="missing: c in model-0"):
        open_weights(shards(tmp_path, c="model-0.safetensors"))
    with pytest.raises(WeightFileError, match="not in the index: a in model-0"):
        open_weights(shards(tmp_path, b="model-0.safetensors", a="model-1.safetensors"))


def test_a_tensor_that_the_index_does_not_list_is_refused(tmp_path):
    index = shards(tmp_path)
    save_weights(tmp_path / "model-1.safetensors", [named("b", ONES), named("c", ONES)])
    with pytest.raises(WeightFileError, match=r"agree\n  not in the index: c in model-1"):
        open_weights(index)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {"a":"x","a":"y"}}']
)
def test_a_broken_index_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightFileError, match="not an index of weights"):
        open_weights(tmp_path)


# --- hostile files -----------------------------------------------------------------------------


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


class Reduced:
    """Pickles as a call of one's choice."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("name", ["w.pt", "w.pdparams", "w.bin", "w.unknown"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_that_would_run_code_runs_none(tmp_path, name, protocol):
    sentinel = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps({"w": Touch(sentinel)}, protocol=protocol))
    with pytest.raises(WeightFileError, match=r"asks to run (pathlib|\w+\.getattr)"):
        open_weights(tmp_path / name)
    assert not sentinel.exists()
    pickle.loads((tmp_path / name).read_bytes())
    assert sentinel.exists()  # it would have


@pytest.mark.parametrize("new", [True, False])
def test_a_torch_file_that_would_run_code_runs_none(tmp_path, new, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    sentinel, path = tmp_path / "ran", tmp_path / "w.pt"
    state = {"w": torch.ones(2), "x": Touch(sentinel)}
    torch.save(state, path, _use_new_zipfile_serialization=new)
    with pytest.raises(WeightFileError, match="asks for more than weights need") as caught:
        open_weights(path)
    assert "Path" in str(caught.value) or "getattr" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not sentinel.exists()
    torch.load(path, weights_only=False)
    assert sentinel.exists()


def instruction(module, name):
    return f"c{module}\n{name}\n".encode()


PICKLES = {
    "asks to run posix.system": b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "asks to run os.system": b"\x80\x02(X\x04\x00\x00\x00trueios\nsystem\n.",
    "asks to run builtins.eval": pickle.dumps(Reduced(eval, ("1",))),
    "asks to run numpy.load": pickle.dumps(Reduced(np.load, ("x",))),
    "numpy.ndarray itself": pickle.dumps(Reduced(np.ndarray, ((2**40,),))),
    "dtype 'O8'": pickle.dumps({"w": np.array([print, 1], dtype=object)}),
    "another class": b"\x80\x02" + instruction("numpy.core.multiarray", "_reconstruct")
    + instruction("collections", "OrderedDict") + b"K\x00\x85C\x01b\x87R.",
    "fields": pickle.dumps({"w": np.zeros(2, ">f4")}),
    "dtype 'V8'": pickle.dumps({"w": np.zeros(2, [("a", "f4"), ("b", "f4")])}),
    "dtype 'U3'": pickle.dumps({"w": np.array(["abc"])}),
    "dtype 'M8'": pickle.dumps({"w": np.array(["2020"], "datetime64[s]")}),
    "the key 'w' twice": b"\x80\x04}(X\x01\x00\x00\x00wK\x01X\x01\x00\x00\x00wK\x02u.",
    "bytes are announced": b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b"x.",
    "bytes are announced ": b"\x80\x04X\xff\xff\xff\xffx.",
    "EXT1": b"\x80\x02\x82\x01.",
    "BINPERSID": b"\x80\x02K\x01Q.",
    "sets the attributes of a dict": b"\x80\x02}}b.",
    "calls what is not a function": b"\x80\x02K\x01)R.",
    "end where it should": b"\x80\x02}.more",
    "decode": b"\x80\x04}X\x02\x00\x00\x00\xff\xfeK\x01s.",
    "the byte ff": b"\x80\x04\xff",
    "holds a int": b"\x80\x02K\x01.",
}  # fmt: skip


@pytest.mark.parametrize("message", PICKLES)
def test_a_hostile_pickle_is_refused_with_what_it_wanted(tmp_path, message):
    path = tmp_path / "w.pdparams"
    path.write_bytes(PICKLES[message])
    with pytest.raises(WeightFileError, match=message.strip()) as caught:
        open_weights(path)
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def array_state(shape, data, dtype="f4"):
    """A pickle of one array with any shape and bytes."""
    kind = Reduced(np.dtype, (dtype, False, True), (3, "<", None, None, None, -1, -1, 0))
    array = Reduced(
        np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, shape, kind, False, data)
    )
    return pickle.dumps({"w": array}, protocol=4)


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ((2**40,), b"1234"),
        ((2,), b"1234"),
        ((2,), b"x" * 5000),
        ((2**62, 2**62), b""),
        ((0, 2**63), b""),
        ((-1, -1), b"1234"),
        ((1,) * 40, b"1234"),
        (("1",), b"1234"),
        ((True,), b"1234"),
        ([1], b"1234"),
        ((1,), [1]),
    ],
)
def test_an_array_must_be_as_large_as_its_bytes(tmp_path, shape, data):
    path = tmp_path / "w.pdparams"
    path.write_bytes(array_state(shape, data))
    with pytest.raises(WeightFileError, match="is not a pickle of weights"):
        open_weights(path)


def test_a_text_that_stands_for_too_many_or_too_few_bytes_is_refused(tmp_path):
    path = tmp_path / "w.pdparams"
    raw = pickle.dumps({"w": np.full(2000, 0x41, "uint8")}, protocol=2)
    path.write_bytes(raw.replace(b"AA", "\xe9".encode(), 1))
    with open_weights(path) as weights, pytest.raises(WeightFileError, match="1999 bytes"):
        weights.read("w")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pdparams", "w.pt"])
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    whole, path = tmp_path / name, tmp_path / f"cut-{name}"
    save_weights(whole, [named("w", np.arange(600, dtype="float32")), named("b", ONES)])
    raw = whole.read_bytes()
    for size in [*range(40), *range(40, len(raw), 97), len(raw) - 1]:
        path.write_bytes(raw[:size])
        with pytest.raises(WeightFileError):
            open_weights(path)


def test_a_torch_file_that_is_compressed_is_refused(tmp_path):
    torch.save({"w": torch.zeros(10_000)}, tmp_path / "w.pt")
    packed = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "w.pt") as source, zipfile.ZipFile(packed, "w", 8) as target:
        for row in source.infolist():
            target.writestr(row.filename, source.read(row), 8)
    (tmp_path / "w.pt").write_bytes(packed.getvalue())
    with pytest.raises(WeightFileError, match="compressed"):
        open_weights(tmp_path / "w.pt")


def header_file(path, rows, data=b"", *, length=None):
    raw = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def row(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "overlaps": ({"a": row([2], 0, 8), "b": row([2], 4, 12)}, 12),
    "leaves a hole": ({"a": row([2], 0, 8), "b": row([2], 12, 20)}, 20),
    "leaves a hole: it starts at 4": ({"a": row([2], 4, 12)}, 12),
    "take 8 bytes, and 12": ({"a": row([2], 0, 8)}, 12),
    "take 8 bytes, and 4": ({"a": row([2], 0, 8)}, 4),
    "does not fill": ({"a": row([3], 0, 8)}, 8),
    "does not fill ": ({"a": row([2], 8, 0)}, 8),
    "impossible shape": ({"a": row([2**40, 2**40], 0, 8)}, 8),
    "impossible shape: \\(-2": ({"a": row([-2, -1], 0, 8)}, 8),
    "impossible shape: \\(2.0": ({"a": row([2.0], 0, 8)}, 8),
    "impossible shape: \\(0, 9": ({"a": row([0, 2**63], 0, 0)}, 0),
    "wrong type": ({"a": row([2], 0.0, 8)}, 8),
    "wrong type ": ({"a": row("2", 0, 8)}, 8),
    "wrong type  ": ({"a": row([2], 0, 8, dtype=3)}, 8),
    "of dtype F4": ({"a": row([2], 0, 8, dtype="F4")}, 8),
    "lacks dtype": ({"a": {"dtype": "F32"}}, 0),
    "or has more": ({"a": {**row([2], 0, 8), "x": 1}}, 8),
    "stands there twice": (b'{"a":1,"a":2}', 0),
    "not a JSON object": (b"[]     ", 0),
    "cannot be read": (b'{"a":', 0),
    "cannot be read: 'utf-8'": (b'{"\xff\xfe":1}', 0),
    "cannot be read: .*recursion": (b'{"a":' + b"[" * 200_000, 0),
    "text to text": ({"__metadata__": {"a": 1}}, 0),
    "cannot be tied to 'b'": ({"__metadata__": {"unifreeze.aliases": '{"a":"b"}'}}, 0),
    "not a JSON object ": ({"__metadata__": {"unifreeze.aliases": "["}}, 0),
}


@pytest.mark.parametrize("message", HEADERS)
def test_a_header_that_breaks_a_rule_is_refused_with_the_rule(tmp_path, message):
    rows, size = HEADERS[message]
    path = tmp_path / "w.safetensors"
    header_file(path, rows, bytes(size))
    with pytest.raises(WeightFileError, match=message.strip()) as caught:
        open_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [0, 3, 10**6, 2**40, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_refused(tmp_path, length):
    path = tmp_path / "w.safetensors"
    header_file(path, {"a": row([2], 0, 8)}, bytes(8), length=length)
    reason = "cannot be read" if length < 8 else f"claims {length} bytes"
    with pytest.raises(WeightFileError, match=rf"not a valid safetensors file\n.*{reason}"):
        open_weights(path)


def test_a_header_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 200_000_000) + b"{")
        file.truncate(300_000_000)
    with pytest.raises(WeightFileError, match="header claims 200000000"):
        open_weights(path)


def test_what_the_reference_library_refuses_is_refused_here_too(tmp_path):
    path = tmp_path / "w.safetensors"
    for message, (rows, size) in HEADERS.items():
        if isinstance(rows, bytes) or "__metadata__" in rows or "dtype" in message:
            continue
        header_file(path, rows, bytes(size))
        if "or has more" not in message and "0, 9" not in message:
            with pytest.raises(safetensors.SafetensorError):
                safetensors.safe_open(path, "np")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pdparams", "w.pt", "w.bin", "w.txt"])
@pytest.mark.parametrize("content", [b"", b"PK", b"hello, this is not a weight file", bytes(100)])
def test_what_is_no_weight_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightFileError, match=r"is not a (valid safetensors|weight) file"):
        open_weights(tmp_path / name)


def test_a_folder_without_weights_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(WeightFileError, match=r"without weights(.|\n)*found notes.txt"):
        open_weights(tmp_path)
    with pytest.raises(WeightFileError, match="No such file"):
        open_weights(tmp_path / "absent.pt")
    (tmp_path / "w.pt").mkdir()
    with pytest.raises(WeightFileError, match="is a folder"):
        save_weights(tmp_path / "w.pt", [named("w", ONES)])


def test_no_framework_is_loaded_for_files_that_need_none(tmp_path):
    save_weights(tmp_path / "w.safetensors", tied_rows())
    save_weights(tmp_path / "w.pdparams", tied_rows())
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    script = (
        "import sys; sys.modules['torch'] = sys.modules['paddle'] = None\n"
        "from unifreeze._ports.weights import *\n"
        "from unifreeze.errors import MissingFrameworkError\n"
        "for name in ('w.safetensors', 'w.pdparams'):\n"
        "    with open_weights(name) as weights:\n"
        "        save_weights('copy-' + name, weights.named())\n"
        "for act in (lambda: open_weights('w.pt'), lambda: save_weights('x.pt', [])):\n"
        "    try: act()\n"
        "    except MissingFrameworkError as error: print(error.fact)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == ["torch is not installed here"] * 2
    assert not (tmp_path / "x.pt").exists()


NESTED = {"model": {"state_dict": {"w": torch.ones(2)}, "epoch": 3}, "optimizer": {"lr": 0.1}}


@pytest.mark.parametrize("key", [None, "model", "model.state_dict"])
def test_a_state_dict_in_a_part_of_a_checkpoint_is_found(tmp_path, key):
    torch.save(NESTED, tmp_path / "w.pt")
    with open_weights(tmp_path / "w.pt", key=key) as weights:
        assert list(weights.names) == ["w"]


def test_which_of_two_such_parts_is_meant_has_to_be_said(tmp_path):
    state = {"state_dict": {"w": torch.ones(2)}}
    torch.save({"student": state, "teacher": state}, tmp_path / "w.pt")
    with pytest.raises(WeightFileError, match=r"2 state dicts") as error:
        open_weights(tmp_path / "w.pt")
    assert "key='student.state_dict' (--key student.state_dict)" in str(error.value)
    with open_weights(tmp_path / "w.pt", key="teacher") as weights:
        assert list(weights.names) == ["w"]
