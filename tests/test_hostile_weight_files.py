"""Nothing in a weight file is ever run, and a file that breaks a rule is refused with the rule."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from tests.support.weight_arrays import ONES, named, tied_rows
from unifreeze._ports.weights import open_weights, save_weights
from unifreeze.errors import WeightFileError


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
    "invalid offset for tensor `b`": ({"a": row([2], 0, 8), "b": row([2], 4, 12)}, 12),
    "invalid offset for tensor `b` ": ({"a": row([2], 0, 8), "b": row([2], 12, 20)}, 20),
    "invalid offset for tensor `a`": ({"a": row([2], 4, 12)}, 12),
    "file not fully covered": ({"a": row([2], 0, 8)}, 12),
    "file not fully covered ": ({"a": row([2], 0, 8)}, 4),
    "invalid shape": ({"a": row([3], 0, 8)}, 8),
    "invalid offset": ({"a": row([2], 8, 0)}, 8),
    "overflow": ({"a": row([2**40, 2**40], 0, 8)}, 8),
    "integer `-2`": ({"a": row([-2, -1], 0, 8)}, 8),
    "floating point `2.0`": ({"a": row([2.0], 0, 8)}, 8),
    "impossible shape: \\(0, 9": ({"a": row([0, 2**63], 0, 0)}, 0),
    "invalid type: floating point `0.0`": ({"a": row([2], 0.0, 8)}, 8),
    "invalid type: string": ({"a": row("2", 0, 8)}, 8),
    "invalid": ({"a": row([2], 0, 8, dtype=3)}, 8),
    "invalid ": ({"a": row([2], 0, 8, dtype="F4")}, 8),
    "of dtype F8_E4M3FNUZ": ({"a": row([2], 0, 2, dtype="F8_E4M3FNUZ")}, 2),
    "missing field": ({"a": {"dtype": "F32"}}, 0),
    "stands there twice": (
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
        b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        0,
    ),
    "type: sequence, expected": (b"[]     ", 0),
    "EOF while parsing": (b'{"a":', 0),
    "invalid UTF-8": (b'{"\xff\xfe":1}', 0),
    "recursion limit exceeded": (b'{"a":' + b"[" * 200_000, 0),
    "expected a string": ({"__metadata__": {"a": 1}}, 0),
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
    reason = "EOF while parsing" if length < 8 else "header (too large|length)"
    with pytest.raises(WeightFileError, match=rf"not a valid safetensors file\n.*{reason}"):
        open_weights(path)


def test_a_header_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 200_000_000) + b"{")
        file.truncate(300_000_000)
    with pytest.raises(WeightFileError, match="header too large"):
        open_weights(path)


def test_what_the_reference_library_refuses_is_refused_here_too(tmp_path):
    path = tmp_path / "w.safetensors"
    for message, (rows, size) in HEADERS.items():
        header_file(path, rows, bytes(size))
        ours = ("twice", "tied", "JSON object", "0, 9", "FNUZ")
        if not any(word in message for word in ours):
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
