"""Weight files made to take memory or time, or cut while they are open: an error, and soon."""

from __future__ import annotations

import json
import os
import pickle
import struct
import threading
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from tests.support.weight_arrays import ONES, named
from unifreeze._ports.weights import open_weights, save_weights
from unifreeze.errors import WeightFileError

SUFFIXES = (".safetensors", ".pdparams", ".pt")


def rezipped(path, change):
    """Write a file of torch.save again; `change` gives each record its new bytes, None drops it."""
    with zipfile.ZipFile(path) as archive:
        records = [(row.filename, archive.read(row)) for row in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records:
            if (data := change(name, data)) is not None:
                archive.writestr(name, data)


def torch_file(path, pickled, **records):
    """Write a file as torch writes it, with any pickle and records."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("w/data.pkl", pickled)
        for name, data in records.items():
            archive.writestr(f"w/data/{name}", data)


@pytest.mark.parametrize("size", [0, 4, 7, 9, 16])
def test_a_record_that_is_not_as_large_as_its_storage_is_refused(tmp_path, size):
    path = tmp_path / "w.pt"
    torch.save({"w": torch.ones(2), "v": torch.zeros(3)}, path)
    rezipped(path, lambda name, data: bytes(size) if name.endswith("data/0") else data)
    with pytest.raises(WeightFileError, match=f"'w' needs 8 bytes, and has {size}"):
        open_weights(path)
    rezipped(path, lambda name, data: None if name.endswith("data/0") else data)
    with pytest.raises(WeightFileError, match="'w' needs 8 bytes, and has none"):
        open_weights(path)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "complex64", "float8_e4m3fn"])
def test_views_that_share_a_storage_are_read_bit_for_bit(tmp_path, new, dtype):
    base = torch.arange(24).to(getattr(torch, dtype))
    views = {"a": base, "b": base[3:9], "c": base.reshape(4, 6).t(), "d": base[::5], "e": base[:0]}
    views["f"], views["g"] = base[2], torch.nn.Parameter(base.float(), requires_grad=False)
    torch.save(views, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    with open_weights(tmp_path / "w.pt") as weights:
        for name, view in views.items():
            wanted = view.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            assert weights.read(name).tobytes() == wanted, name
            assert weights.read(name).shape == tuple(view.shape)


def test_values_that_torch_conjugates_or_negates_when_it_reads_them(tmp_path):
    base = torch.tensor([1 + 2j, 3 - 4j])
    torch.save({"conj": base.conj()}, tmp_path / "w.pt")
    torch.save({"neg": base.conj().imag}, tmp_path / "v.pt")
    with open_weights(tmp_path / "w.pt") as weights:
        assert weights.read("conj").tolist() == [1 - 2j, 3 + 4j]
    with open_weights(tmp_path / "v.pt") as weights:
        assert weights.read("neg").tolist() == [-2, 4]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickles_is_read(tmp_path, protocol):
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt", pickle_protocol=protocol)
    with open_weights(tmp_path / "w.pt") as weights:
        assert weights.read("w").tolist() == [1, 1]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".bin"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_file_that_is_cut_while_it_is_open_is_an_error(tmp_path, suffix, dtype):
    path = tmp_path / f"w{suffix}"
    values = np.zeros(300_000, "float32" if dtype == "float32" else "uint16")
    if suffix == ".bin":
        torch.save({"w": torch.zeros(300_000)}, path, _use_new_zipfile_serialization=False)
    else:
        save_weights(path, [named("w", values, dtype=dtype)])
    with open_weights(path) as weights:
        os.truncate(path, 5000)
        with pytest.raises(WeightFileError):
            weights.read("w")


@pytest.mark.parametrize(
    "name", ["w.pt", "w.safetensors", "w.pdparams", "model.safetensors.index.json"]
)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    caught = []

    def open_pipe():
        try:
            open_weights(tmp_path / name)
        except WeightFileError as error:
            caught.append(str(error))

    thread = threading.Thread(target=open_pipe, daemon=True)
    thread.start()
    thread.join(60)
    assert caught
    assert "not an ordinary file" in caught[0]
    with pytest.raises(WeightFileError, match="not an ordinary file"):
        open_weights("/dev/zero")


def doubled(times):
    """Instructions for a tuple of two of a tuple of two …: `times` steps stand for 2**times."""
    return b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(times))


def deep(times):
    """Instructions for tuples inside each other."""
    return b")" + b"\x85" * times


ARRAY = pickle.dumps(np.ones(2, "float32"), protocol=2)[2:-1]
HOSTILE = {
    "a key that is hashed for ever": b"}" + doubled(60) + b"K\x01s",
    "a name that is hashed for ever": doubled(60) + doubled(60) + b"\x93",
    "a dtype that is hashed for ever": b"cnumpy\ndtype\n" + doubled(60) + b"\x85R",
    "a shape that is printed for ever": ARRAY[:-1] + b"(K\x01" + doubled(60) + b"NNNtb",
    "an encoding that is printed for ever": b"c_codecs\nencode\n" + b"X\x01\0\0\0a" + doubled(60)
    + b"\x86R",
    "bytes that are printed for ever": b"c_codecs\nencode\n" + doubled(60)
    + b"X\x06\0\0\0latin1\x86R",
    "a key as deep as the file": b"}" + deep(100_000) + b"K\x01s",
    "a value as deep as the file": b"}X\x01\0\0\0w" + deep(100_000) + b"s",
    "lists as deep as the file": b"}X\x01\0\0\0w" + b"]" * 100_000 + b"a" * 99_999 + b"s",
    "one text copied very often": b"c_codecs\nencode\nq\x00X\x00\x04\0\0" + b"a" * 1024
    + b"q\x01X\x06\0\0\0latin1q\x02" + b"h\x00h\x01h\x02\x86R" * 20_000 + b"t.",
    "one list copied very often": b"c__builtin__\ntuple\nq\x00(" + b"N" * 10_000 + b"lq\x01"
    .replace(b"l", b"t") + b"h\x00h\x01\x85R" * 20_000,
    "slices with a shape of no numbers": pickle.dumps(
        {"UnpackBigParamInfor@@": {"w": {"OriginShape": [10**300] * 20_000, "slices": ["a"]}},
         "a": np.ones(2, "float32")}, protocol=2)[2:-1],
    "slices with names that are hashed for ever": b"}X\x15\0\0\0UnpackBigParamInfor@@}X\x01\0\0\0w}"
    b"X\x06\0\0\0slices]" + doubled(60) + b"assX\x01\0\0\0bK\x01s",
    "steps without an end": b"N0" * 6_000_000,
}  # fmt: skip


@pytest.mark.parametrize("sort", HOSTILE)
@pytest.mark.parametrize("form", ["pdparams", "pt"])
def test_a_crafted_pickle_is_refused_before_it_takes_memory(tmp_path, sort, form):
    path, data = tmp_path / f"w.{form}", b"\x80\x02" + HOSTILE[sort] + b"."
    if form == "pt":
        torch_file(path, data)
    else:
        path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(WeightFileError) as caught:
        open_weights(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20 + len(data)
    assert len(str(caught.value)) < 2000


def storage(kind="FloatStorage", key="0", count=2):
    """Instructions for a storage."""
    text = b"X" + struct.pack("<I", len(key)) + key.encode()
    number = b"\x8a\x09" + count.to_bytes(9, "little", signed=True)
    return (
        b"(X\x07\0\0\0storagectorch\n"
        + kind.encode()
        + b"\n"
        + text
        + b"X\x03\0\0\0cpu"
        + number
        + b"tQ"
    )


def tensor(inner, offset=b"K\x00", shape=b"K\x02\x85", strides=b"K\x01\x85"):
    """Instructions for a tensor of that storage."""
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + inner + offset + shape + strides + b"\x89NtR"


TENSORS = {
    "past the end": tensor(storage(), offset=b"K\x01"),
    "past the end ": tensor(storage(), strides=b"K\x02\x85"),
    "past the end  ": tensor(storage(), shape=b"K\x03\x85"),
    "impossible shape": tensor(storage(), shape=b"J\xff\xff\xff\xff\x85"),
    "impossible shape ": tensor(storage(), strides=b"J\xff\xff\xff\xff\x85"),
    "impossible shape  ": tensor(storage(), offset=b"J\xff\xff\xff\xff"),
    "impossible shape   ": tensor(storage(), shape=b"X\x01\0\0\x002\x85"),
    "without a storage": tensor(b"K\x01"),
    "impossible storage": tensor(storage(count=2**70)),
    "impossible storage ": tensor(storage(count=-1)),
    "needs 4,611,686,018,427,387,904 bytes": tensor(storage("ByteStorage", count=2**62)),
    "needs 8 bytes, and has none": tensor(storage(key="1")),
    "needs 16 bytes, and has 8": tensor(storage("DoubleStorage")),
    "not that of a storage": b"K\x01Q",
    "asks to run os.system": b"cos\nsystem\nX\x04\0\0\0true\x85R",
    "not an ordinary tensor": b"ctorch._utils\n_rebuild_sparse_tensor\n)R",
}


@pytest.mark.parametrize("message", TENSORS)
def test_a_tensor_that_its_file_cannot_hold_is_refused(tmp_path, message):
    torch_file(
        tmp_path / "w.pt", b"\x80\x02}X\x01\0\0\0w" + TENSORS[message] + b"s.", **{"0": bytes(8)}
    )
    with pytest.raises(WeightFileError, match=message.strip()):
        open_weights(tmp_path / "w.pt")


def test_a_tensor_written_by_hand_is_read(tmp_path):
    pickled = b"\x80\x02}X\x01\0\0\0w" + tensor(storage()) + b"s."
    torch_file(tmp_path / "w.pt", pickled, **{"0": np.array([1, 2], "f4").tobytes()})
    with open_weights(tmp_path / "w.pt") as weights:
        assert weights.read("w").tolist() == [1, 2]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("new", [True, False])
def test_a_file_of_torch_that_is_cut_anywhere_is_refused(tmp_path, share, new):
    path = tmp_path / "w.bin"
    state = {f"w{n}": torch.ones(50) for n in range(20)}
    torch.save(state, path, _use_new_zipfile_serialization=new)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(WeightFileError, match="is not a"):
        open_weights(path)


def test_an_old_file_whose_storage_lies_about_its_size_is_refused(tmp_path):
    path = tmp_path / "w.bin"
    torch.save({"w": torch.ones(50)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    at = raw.rindex(struct.pack("<q", 50))
    path.write_bytes(raw[:at] + struct.pack("<q", 2**40) + raw[at + 8 :])
    with pytest.raises(WeightFileError, match="not of the size"):
        open_weights(path)


def test_a_program_of_torch_is_not_weights(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "w.pt"))
    with pytest.raises(WeightFileError, match=r"TorchScript|compressed"):
        open_weights(tmp_path / "w.pt")


def test_a_header_of_many_equal_names_is_refused_in_time(tmp_path):
    row = '"n":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    raw = ("{" + ",".join([row] * 30_000) + "}").encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(WeightFileError, match="'n' stands there twice"):
        open_weights(tmp_path / "w.safetensors")
    many = json.dumps([f"n{n}" for n in range(100_000)])
    index = '{"weight_map": {' + ",".join(
        f"{n}: 1" for n in json.loads(many) for n in [json.dumps(n)]
    )
    (tmp_path / "model.safetensors.index.json").write_text(index + ', "n5": 1}}')
    with pytest.raises(WeightFileError, match="'n5' stands there twice"):
        open_weights(tmp_path / "model.safetensors.index.json")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_records_of_one_name_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("w/data/0", bytes(8))
    with pytest.raises(WeightFileError, match="two of its records have one name"):
        open_weights(path)


def test_a_full_disk_is_named_whatever_the_format_is(tmp_path):
    for suffix in SUFFIXES:
        with pytest.raises(WeightFileError, match="cannot write"):
            save_weights(f"/dev/full/w{suffix}", [named("w", ONES)])
