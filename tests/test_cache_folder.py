"""A folder of kept rows: damaged files, other models, full disks."""

import json
from pathlib import Path

import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze._cache import folder_store, shards
from unifreeze.errors import CacheError, UnifreezeWarning

PLAN = 'unifreeze: 1\nrules: [{only: "head | last"}]\n'


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def fill(fw, folder, *, seed=0, epochs=1):
    """Train on a folder; the same seed makes the same model."""
    fw.seed(seed)
    model = nets.residual_net(fw)
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    block = (lambda: handle.cached(folder)) if folder else None
    return nets.train(fw, model, handle, nets.image_batches, epochs=epochs, cached=block)


def files(folder):
    found = sorted(Path(folder).rglob("*.safetensors"))
    assert found
    return found


def refused(fw, folder, *said):
    with pytest.raises(CacheError) as error:
        fill(fw, folder)
    assert all(text in str(error.value) for text in said), str(error.value)
    assert "hint" in str(error.value)


def test_a_file_that_is_cut_short_is_named(fw, tmp_path):
    fill(fw, tmp_path)
    file = files(tmp_path)[0]
    file.write_bytes(file.read_bytes()[:-5])
    refused(fw, tmp_path, file.name, "is damaged")


def test_a_file_with_another_byte_is_named(fw, tmp_path):
    fill(fw, tmp_path)
    file = files(tmp_path)[0]
    data = bytearray(file.read_bytes())
    data[-7] ^= 1
    file.write_bytes(data)
    refused(fw, tmp_path, file.name, "its values are not those that were written")


def test_a_file_of_another_model_is_named(fw, tmp_path):
    fill(fw, tmp_path / "a")
    fill(fw, tmp_path / "b", seed=1)
    file = files(tmp_path / "b")[0]
    group = files(tmp_path / "a")[0].parent
    (group / "zz.safetensors").write_bytes(file.read_bytes())
    refused(fw, tmp_path / "a", "zz.safetensors", "another model")


def test_a_model_with_other_weights_has_rows_of_its_own(fw, tmp_path):
    fill(fw, tmp_path)
    run = fill(fw, tmp_path, seed=1)[3]
    assert run.counts.hits == 0
    assert len({file.parent for file in files(tmp_path)}) == 2


def test_rows_of_a_model_with_other_code_are_found(fw, tmp_path, monkeypatch):
    def leaky(x, *_args, **_how):
        return fw.nn.functional.leaky_relu(x, 0.5)

    fill(fw, tmp_path)
    monkeypatch.setattr(fw.nn.functional, "relu", leaky)
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    with pytest.raises(CacheError, match="of a model with other settings"):
        nets.train(fw, model, handle, nets.image_batches, cached=lambda: handle.cached(tmp_path))


def test_a_model_with_other_settings_has_rows_of_its_own(fw, tmp_path):
    for slope in (0.5, 0.6):
        fw.seed(0)
        model = nets.residual_net(fw)
        model.stages[0].relu = fw.nn.LeakyReLU(slope)
        handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
        block = lambda handle=handle: handle.cached(tmp_path)  # noqa: E731
        run = nets.train(fw, model, handle, nets.image_batches, epochs=1, cached=block)[3]
        assert run.counts.misses == 24


def test_the_manifest_says_what_the_rows_are_of(fw, tmp_path):
    fill(fw, tmp_path)
    manifest = json.loads((files(tmp_path)[0].parent / "manifest.json").read_text())
    assert manifest["model"] == "Net"
    assert manifest["outputs_of"] == ["stages.1"]
    assert manifest["plan"].startswith("unifreeze: 1")
    assert manifest["framework"].startswith(fw.name)


def test_a_damaged_manifest_is_named(fw, tmp_path):
    fill(fw, tmp_path)
    manifest = files(tmp_path)[0].parent / "manifest.json"
    manifest.write_text("{")
    refused(fw, tmp_path, "manifest.json")


def test_a_folder_that_cannot_be_made_is_refused_at_once(fw, tmp_path):
    (tmp_path / "file").write_text("")
    handle = uf.FreezePlan.from_yaml(PLAN).apply(nets.residual_net(fw))
    with pytest.raises(CacheError, match="cannot keep rows in"):
        handle.cached(tmp_path / "file" / "rows")


def test_a_full_disk_ends_the_filling_and_says_so(fw, tmp_path, monkeypatch):
    def full(*_args, **_how):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_store, "write_shard", full)
    monkeypatch.setattr(folder_store, "SHARD_BYTES", 1000)
    plain = fill(fw, None, epochs=3)
    with pytest.warns(UnifreezeWarning, match="No space left on device"):
        cached = fill(fw, tmp_path, epochs=3)
    assert nets.same(plain, cached)
    assert "stopped keeping rows: cannot write" in str(cached[3])


def test_small_files_give_the_same_bits(fw, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_store, "SHARD_BYTES", 3000)
    plain, cached = fill(fw, None, epochs=3), fill(fw, tmp_path, epochs=3)
    assert nets.same(plain, cached)
    assert len(files(tmp_path)) > 3


def test_a_shard_keeps_bfloat16_as_such(tmp_path):
    import numpy as np

    from unifreeze._ports.weights.safetensors_format import open_safetensors

    row = ((np.arange(4, dtype=np.uint16),),)
    shards.write_shard(tmp_path / "a.safetensors", "g", {"k": row}, bfloat16=True)
    with open_safetensors(tmp_path / "a.safetensors") as file:
        assert file.entry("0.0").dtype == "bfloat16"
    assert (shards.Shard(tmp_path / "a.safetensors", "g").row(0)[0][0] == row[0][0]).all()
