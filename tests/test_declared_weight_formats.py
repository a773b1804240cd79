"""Weight files of backends: declared in their packages, opened without knowing any by name."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import numpy as np
import pytest

from unifreeze._ports.weights import Named, open_weights, save_weights
from unifreeze._protocol import registry
from unifreeze.backend import WeightFile, WeightFormat, make_entry, values_of
from unifreeze.errors import MissingFrameworkError, WeightFileError


def _open(path, key):
    values = np.frombuffer(path.read_bytes()[4:], "float32")
    entries = {"bias": make_entry(str(path), "bias", values.shape, "float32")}
    return WeightFile(str(path), entries, lambda name: values)


def _save(file, tensors, progress):
    (row,) = tensors
    file.write(b"FAKE" + values_of(row).tobytes())
    progress(row.name, 1, 1)


@pytest.fixture
def declare(monkeypatch):
    """Return what lets a package declare a format, as a backend's would."""

    def declare(weight_format):
        package = ModuleType("fakenet_files")
        package.WEIGHT_FORMATS = (weight_format,)
        monkeypatch.setitem(sys.modules, "fakenet_files", package)
        entry = EntryPoint("fakenet", "fakenet_files:backend", registry.ENTRY_POINTS)
        monkeypatch.setattr(registry, "_entries", lambda: {"fakenet": entry})
        registry.declared_by_backends.cache_clear()

    yield declare
    registry.declared_by_backends.cache_clear()


BIAS = [Named("bias", (2,), "float32", lambda: np.ones(2, "float32"))]


def test_a_declared_format_is_written_by_name_and_read_by_content(declare, tmp_path):
    declare(WeightFormat("fakenet", (".fake",), (b"FAKE",), _open, _save))
    save_weights(tmp_path / "small.fake", BIAS)
    renamed = (tmp_path / "small.fake").rename(tmp_path / "small.other")
    with open_weights(renamed) as weights:
        assert weights.read("bias").tolist() == [1, 1]


def test_an_undeclared_one_is_refused(tmp_path):
    (tmp_path / "small.fake").write_bytes(b"FAKE12345678")
    with pytest.raises(WeightFileError, match="is not a weight file"):
        open_weights(tmp_path / "small.fake")
    with pytest.raises(WeightFileError, match="does not say which format"):
        save_weights(tmp_path / "small.fake", BIAS)


def test_its_framework_is_asked_for_before_anything_is_written(declare, monkeypatch, tmp_path):
    declare(WeightFormat("fakenet", (".fake",), (b"FAKE",), _open, _save, framework="fakenet"))

    def load(name):
        raise MissingFrameworkError(f"{name} is not installed here")

    monkeypatch.setattr("unifreeze._ports.weights.formats.load_backend", load)
    with pytest.raises(MissingFrameworkError, match="fakenet is not installed"):
        save_weights(tmp_path / "small.fake", BIAS)
    assert not list(tmp_path.iterdir())


def test_a_package_that_cannot_be_imported_declares_nothing(monkeypatch):
    entry = EntryPoint("fakenet", "fakenet_nowhere:backend", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "_entries", lambda: {"fakenet": entry})
    registry.declared_by_backends.cache_clear()
    assert registry.declared_by_backends("WEIGHT_FORMATS") == ()
    registry.declared_by_backends.cache_clear()


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_declaring_imports_no_framework(framework):
    code = f"import sys, unifreeze_{framework}; print({{'torch', 'paddle'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
