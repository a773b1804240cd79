"""Batches, devices and settings as text on the command line."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import BATCH, MODELS
from unifreeze._cli.find_model import device_for, read_batch
from unifreeze.errors import TargetError

# Batches -----------------------------------------------------------------------------------


def test_floats_are_standard_normal():
    (array,) = read_batch(["float32[50,40]"]).args
    assert (array.shape, array.dtype) == ((50, 40), np.float32)
    assert abs(array.mean()) < 0.1
    assert abs(array.std() - 1) < 0.1


@pytest.mark.parametrize("spec", ["ids=int64[2,300]<3:6>", "ids=int64[2,300]<3:6"])
def test_whole_numbers_fill_their_range_with_or_without_the_closing_bracket(spec):
    batch = read_batch([spec])
    assert batch.args == ()
    assert batch.kwargs["ids"].dtype == np.int64
    assert set(batch.kwargs["ids"].flat) == {3, 4, 5}


def test_floats_take_a_range_too():
    (array,) = read_batch(["float64[1000]<2:2.5>"]).args
    assert array.min() >= 2
    assert array.max() < 2.5


def test_truth_values_need_no_range():
    (array,) = read_batch(["bool[100]"]).args
    assert set(array.flat) == {False, True}


def test_a_scalar_has_an_empty_shape():
    assert read_batch(["float32[]"]).args[0].shape == ()


def test_equal_seeds_give_equal_batches_and_names_differ():
    specs = ["float32[3]", "float32[3]", "x=float32[3]"]
    one, again = read_batch(specs, seed=5), read_batch(specs, seed=5)
    assert np.array_equal(one.args[0], again.args[0])
    assert not np.array_equal(one.args[0], one.args[1])
    assert not np.array_equal(one.args[0], one.kwargs["x"])
    assert not np.array_equal(one.args[0], read_batch(specs, seed=6).args[0])


def test_a_file_gives_arrays_by_position_and_by_name(tmp_path):
    path = tmp_path / "batch.npz"
    np.savez(path, np.ones(2), mask=np.zeros(3))
    batch = read_batch([str(path), "int64[1]<7:8>"])
    assert [array.tolist() for array in batch.args] == [[1, 1], [7]]
    assert batch.kwargs["mask"].tolist() == [0, 0, 0]


def test_no_batch_is_none():
    assert read_batch([]) is None


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (["float32[2,3"], "cannot be read"),
        (["float32"], "cannot be read"),
        (["float32[two]"], "cannot be read"),
        (["floot32[2]"], "data type 'floot32' not understood"),
        (["int64[2]"], "int64 needs a range, such as <0:1000>"),
        (["int64[2]<5:5>"], "low >= high"),
        (["int64[2]<1.5:3>"], "invalid literal"),
        (["int8[2]<0:200>"], "past what int8 can hold"),
        (["float32[2]<1:0>"], "1 is not below 0"),
        (["float32[2]<a:b>"], "could not convert"),
        (["float32[2]<0:inf>"], "cannot be read"),
        (["complex64[2]"], "not complex64"),
        (["x=float32[2]", "x=float32[2]"], "names 'x' twice"),
        (["nowhere.npz"], r"cannot read the batch nowhere\.npz"),
    ],
)
def test_a_batch_that_cannot_be_read_says_why(specs, said):
    with pytest.raises(TargetError, match=said):
        read_batch(specs)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "batch.npz").write_text("hello")
    with pytest.raises(TargetError, match=r"cannot read the batch batch\.npz"):
        read_batch(["batch.npz"])


# Devices and other settings ----------------------------------------------------------------


def test_devices_are_given_for_all_or_by_framework():
    assert device_for("", "torch") == ""
    assert device_for("gpu", "torch") == "gpu"
    assert device_for("torch=gpu,paddle=cpu", "torch") == "gpu"
    assert device_for("torch=gpu, paddle=cpu", "paddle") == "cpu"
    assert device_for("torch=gpu", "paddle") == ""


@pytest.mark.parametrize("text", ["tpu", "torch=tpu", "troch=cpu", "cpu=torch", "gpu;cpu"])
def test_a_device_that_cannot_be_read_lists_the_forms(text):
    with pytest.raises(TargetError, match="forms: gpu, or torch=gpu,paddle=cpu"):
        device_for(text, "torch")


@pytest.mark.parametrize("option", [["--steps", "0"], ["--seed", "-1"], ["--order", "sideways"]])
def test_settings_out_of_range_are_unusable(cli, head, option):
    code, _, err = cli("record", head, MODELS["torch"], "-o", "r.json", *BATCH, *option)
    assert code == 2
    assert option[0].lstrip("-") in err
    assert not Path("r.json").exists()
