"""A file that is not there, or of another kind, in every place that reads one."""

import gzip
import io
import pickle
import re
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import unifreeze as uf
from tests.support.command_line import FOUR
from unifreeze._cache.folders import groups_in
from unifreeze._cli.find_model import load_model
from unifreeze._files import Saved
from unifreeze._ports.weights import open_weights
from unifreeze._protocol import Batch
from unifreeze.errors import UnifreezeError

for door in ("_evidence.alignment", "_evidence.step_side", "_cache.stored_replays"):
    import_module(f"unifreeze.{door}")


def formats():
    """Every class of values that are saved as a file."""
    waiting, known = [Saved], []
    while waiting:
        waiting += (below := waiting.pop().__subclasses__())
        known += [kind for kind in below if kind.__module__.startswith("unifreeze.")]
    return sorted(set(known), key=lambda kind: kind.__name__)


def zipped(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "x")
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"))
    return file.getvalue()


READERS = {
    "plan": (uf.FreezePlan.load, ".yaml"),
    "weights": (open_weights, ".safetensors"),
    "trained": (lambda path: uf.load_trained(load_model(FOUR)[0], path), ".safetensors"),
    "batch": (lambda path: Batch.of(str(path)), ".npz"),
    "model": (lambda path: load_model(f"{path}:net"), ".py"),
    **{kind.__name__: (kind.load, ".json") for kind in formats()},
}
KINDS = {
    "a PNG picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a PDF document": b"%PDF-1.4\n",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n\0",
    "a gzip archive": gzip.compress(b"weights"),
    "a tar archive": tarred(),
    "zeros, which a copy": bytes(4000),
    "text, which starts with 'rules:'": "\n\nrules:\n- only: head # 训练头部\n".encode(),
    "text, which starts with '冻结主干'": ("冻结主干\n" * 200).encode(),
    "text, which starts with 'import torch'": b"import torch\r\n",
    "a GGUF file": b"GGUF\3\0\0\0",
}
BINARY = [kind for kind in KINDS if not kind.startswith("text")]
SPELLINGS = [("mien{0}", "mine{0}"), ("MINE{0}", "mine{0}"), ("mine{0}", "mine{0}.txt")]
"""How a name was written, and the name of the file that is there; {0} is the usual suffix."""
FREE = [reader for name, reader in READERS.items() if name not in ("batch", "model")]
"""What takes any name for a file: a batch may be a text, and a model's module needs no suffix."""


@pytest.fixture(autouse=True)
def model(four_blocks):
    """Every test may build the model of four blocks."""


def refusal(call, *arguments):
    with pytest.raises(UnifreezeError) as caught:
        call(*arguments)
    assert caught.value.hint, caught.value
    return caught.value


def check_meant(reader, given, there):
    read, suffix = reader
    given, there = Path(given.format(suffix)), Path(there.format(suffix))
    there.parent.mkdir(exist_ok=True)
    there.write_text("")
    (there.parent / "quite_another.thing").write_text("")
    assert refusal(read, given).hint.endswith(f"did you mean {there.as_posix()!r}?")


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("given", "there"), SPELLINGS)
def test_a_file_that_is_not_there_is_named_as_it_was_likely_meant(reader, given, there):
    check_meant(reader, given, there)
    check_meant(reader, f"sub/{given}", f"sub/{there}")


@pytest.mark.parametrize("reader", FREE)
@pytest.mark.parametrize("given", ["mine", "mine.ymal", "mine.old"])
def test_a_name_with_another_suffix_or_none_is_understood(reader, given):
    check_meant(reader, given, "mine{0}")


def test_both_suffixes_of_yaml_are_taken_for_each_other():
    check_meant(READERS["plan"], "mine.yml", "mine.yaml")
    Path("mine.yaml").rename("mine.yml")
    check_meant(READERS["plan"], "mine.yaml", "mine.yml")


@pytest.mark.parametrize("reader", FREE)
def test_a_folder_that_is_not_there_is_named_too(reader):
    read, suffix = reader
    Path("plans").mkdir()
    assert "did you mean 'plans'?" in refusal(read, f"plnas/a{suffix}").hint
    Path(f"plans/a{suffix}").write_text("")
    hint = refusal(read, f"plnas/a{suffix}").hint
    assert hint == f"there is no folder plnas, did you mean 'plans/a{suffix}'?"
    assert refusal(read, f"elsewhere/a{suffix}").hint == "there is no folder elsewhere"


@pytest.mark.parametrize("reader", FREE)
def test_a_name_that_is_like_nothing_suggests_nothing(reader):
    Path("quite_another.thing").write_text("")
    assert "did you mean" not in refusal(reader[0], f"zzz{reader[1]}").hint


def test_the_index_of_weights_in_several_files_is_suggested():
    Path("model.safetensors.index.json").write_text("{}")
    hint = refusal(open_weights, "model.safetensors").hint
    assert hint == "did you mean 'model.safetensors.index.json'?"


def test_a_folder_in_place_of_a_plan_names_the_plans_in_it():
    Path("plans").mkdir()
    Path("plans/b.yaml").write_text("")
    assert "name a file in it: plans/b.yaml" in refusal(uf.FreezePlan.load, "plans").hint


def test_a_folder_of_kept_rows_is_named_as_it_was_likely_meant():
    Path("cache").mkdir()
    assert "'cache'" in refusal(lambda: list(groups_in(Path("cahce")))).hint


def test_a_module_that_is_misspelt_is_named_as_a_file():
    assert "./four_blocks.py:net" in refusal(load_model, "four_block:net").hint


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pdparams", ".txt"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_file_of_another_kind_is_said_to_be_what_it_looks_like(kind, suffix):
    place = Path(f"odd{suffix}")
    place.write_bytes(KINDS[kind])
    error = refusal(open_weights, place)
    assert f"looks like {kind}" in error.context
    assert ".safetensors" in error.hint
    assert not re.search(r"(\b[0-9a-f]{2} ){3}|\\x", str(error))


@pytest.mark.parametrize("name", ["plan", "batch", *(kind.__name__ for kind in formats())])
@pytest.mark.parametrize("kind", BINARY)
def test_every_other_file_is_said_to_be_what_it_looks_like(name, kind):
    read, suffix = READERS[name]
    Path(f"odd{suffix}").write_bytes(KINDS[kind])
    error = refusal(read, f"odd{suffix}")
    assert f"looks like {kind}" in str(error)
    assert "in an editor" not in str(error)


@pytest.mark.parametrize("name", ["batch", *(kind.__name__ for kind in formats())])
def test_text_in_place_of_values_is_shown(name):
    read, suffix = READERS[name]
    Path(f"odd{suffix}").write_text("rules:\n- only: head\n")
    assert "looks like text, which starts with 'rules:'" in str(refusal(read, f"odd{suffix}"))


def test_text_in_another_encoding_is_still_to_be_saved_again():
    for encoding in ("gbk", "utf-16"):
        Path("plan.yaml").write_bytes("rules: # 冻结".encode(encoding))
        with pytest.raises(UnifreezeError) as error:
            uf.FreezePlan.load("plan.yaml")
        assert "save it as UTF-8" in str(error.value)


@pytest.mark.parametrize(("name", "said"), [("a.npy", "np.savez"), ("a.txt", "unpack")])
def test_a_zip_archive_of_other_things_is_not_to_be_copied_again(name, said):
    Path("weights.pt").write_bytes(zipped(name))
    error = refusal(open_weights, "weights.pt")
    assert name in error.context
    assert said in error.hint


def test_a_pickle_without_weights_says_what_to_save():
    Path("weights.pdparams").write_bytes(pickle.dumps({"epoch": 3}, 4))
    assert "state_dict" in refusal(open_weights, "weights.pdparams").hint


def test_a_file_of_another_format_of_ours_is_named():
    Path("one.json").write_text('{"unifreeze_pairing": 1}')
    assert "a unifreeze pairing" in refusal(uf.Record.load, "one.json").context


def test_an_array_in_place_of_a_batch_is_told():
    np.save("one.npy", np.ones(3))
    assert "a NumPy array" in refusal(Batch.of, "one.npy").context


def test_the_command_line_says_it_too(cli, head):
    head.rename("plan.yml")
    code, _, err = cli("explain", "plan.yaml", FOUR)
    assert code == 2
    assert "did you mean 'plan.yml'?" in err
    Path("weights.safetensors").write_text("rules:\n- only: head\n")
    Path("pairing.json").write_text("{}")
    code, _, err = cli("port", "weights.safetensors", "out.pt", "-p", "pairing.jsn")
    assert "did you mean 'pairing.json'?" in err
