"""State dicts inside checkpoints, and weights in several files."""

from __future__ import annotations

import json
from collections import OrderedDict

import paddle
import pytest
import torch

from tests.support.weight_arrays import ONES, named
from unifreeze._ports.weights import open_weights, save_weights
from unifreeze.errors import WeightFileError

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
