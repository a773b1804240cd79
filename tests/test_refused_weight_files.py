"""Files that are not weights, or only the beginning of some: what they are said to be."""

import numpy as np
import pytest

from unifreeze._ports.weights import Named, open_weights, save_weights
from unifreeze.errors import WeightFileError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SUFFIXES = ("safetensors", "pt", "pdparams")


def refused(path):
    with pytest.raises(WeightFileError) as caught:
        open_weights(path)
    return caught.value


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("content", "fact", "hint"),
    [
        (POINTER, "is a pointer", "git lfs pull"),
        (b"", "it is empty", "again"),
        (b"<!DOCTYPE html>", "is a web page", "download the file itself"),
    ],
)
def test_what_stands_in_place_of_a_weight_file_is_named(tmp_path, suffix, content, fact, hint):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(content)
    error = refused(path)
    assert fact in error.fact
    assert hint in error.hint


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_that_ends_early_is_to_be_copied_again(tmp_path, suffix, share):
    path = tmp_path / f"model.{suffix}"
    save_weights(path, [Named("w", (50,), "float32", lambda: np.ones(50, "float32"))])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    error = refused(path)
    assert "is not a" in error.fact
    assert "again" in error.hint


def test_a_file_of_another_kind_is_not_a_weight_file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    assert refused(path).fact == f"{path} is not a weight file"
