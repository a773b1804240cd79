"""Every reader and writer of files, at every place where no good file can be: a clear error.

Also two threads at once, and the deletion of kept rows, which deletes nothing else.
"""

from __future__ import annotations

import gc
import json
import threading

import pytest
import torch

import unifreeze as uf
from tests.support.fuzz.samples import keeping_best, small_model, write_samples
from unifreeze._cache.folder_store import FolderStore, Manifest
from unifreeze._cache.folders import clear, groups_in
from unifreeze._cli.import_by_name import import_target
from unifreeze._evidence import Record, StepSide
from unifreeze._ports.pairing import ModelSketch, Pairing
from unifreeze._ports.weights import open_weights
from unifreeze.errors import CacheError, TargetError, UnifreezeError
from unifreeze_paddle.trainers._run_state import RunState


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("good"))


def read_weights(path, files):
    with open_weights(path) as weights:
        for name in weights:
            weights.read(name)


def open_store(path, files):
    about = Manifest.load(files["manifest.json"]).model_dump(exclude={"unifreeze_cache", "group"})
    FolderStore(path, 100).open("rows", about)


def write_report(path, files):
    handle = uf.FreezePlan().train("all").apply(small_model())
    handle.step(epoch=0, metrics={"loss": 1.0})
    handle.report().to_csv(path)


def port_to(path, files):
    uf.port_file(files["w.safetensors"], path, pairing=Pairing.load(files["pairing.json"]))


READERS = {
    "plan": (".yaml", lambda path, files: uf.FreezePlan.load(path)),
    "record": (".json", lambda path, files: Record.load(path)),
    "side": (".json", lambda path, files: StepSide.load(path)),
    "sketch": (".json", lambda path, files: ModelSketch.load(path)),
    "pairing": (".json", lambda path, files: Pairing.load(path)),
    "run": (".json", lambda path, files: RunState.load_from(path)),
    "trained": (".safetensors", lambda path, files: uf.load_trained(small_model(), path)),
    "kept rows": ("", lambda path, files: list(groups_in(path, values=True))),
    "clear": ("", lambda path, files: clear(path)),
    **{
        suffix: (f".{suffix}", read_weights)
        for suffix in ("safetensors", "pdparams", "pt", "bin", "safetensors.index.json")
    },
}
WRITERS = {
    "plan": (".yaml", lambda path, files: uf.FreezePlan().freeze("all").save(path)),
    "record": (".json", lambda path, files: Record.load(files["record.json"]).save(path)),
    "run": (".json", lambda path, files: RunState.load(files["run.json"]).save_beside(path)),
    "trained": (
        ".safetensors",
        lambda path, files: uf.FreezePlan().train("all").apply(small_model()).save_trained(path),
    ),
    "report": (".csv", write_report),
    "ported": (".safetensors", port_to),
    "best values": ("", lambda path, files: keeping_best(path)),
    "kept rows": ("", open_store),
}


def hopeless_places(folder, suffix):
    """Paths at which no file or folder can be written or read."""
    (folder / "file").write_text("x")
    loop, one, other = (folder / f"{name}{suffix}" for name in ("loop", "one", "other"))
    loop.symlink_to(loop.name)
    one.symlink_to(other.name)
    other.symlink_to(one.name)
    yield from (loop, one)
    yield folder / "file" / f"below a file{suffix}"
    yield folder / ("long" * 100 + suffix)
    yield folder / f"nul\0{suffix}"
    yield folder / f"half of a character \ud800{suffix}"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("ignore:no more rows are kept")
def test_a_writer_says_where_it_cannot_write(name, files, tmp_path):
    suffix, write = WRITERS[name]
    for path in hopeless_places(tmp_path, suffix):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UnifreezeError) as caught:
            write(path, files)
        assert len(str(caught.value)) < 4000
        assert sorted(tmp_path.iterdir()) == before


def odd_files(folder, suffix):
    """Files that hold nothing good, and a folder where a file should be."""
    texts = {
        "empty": b"",
        "mark": b"\xef\xbb\xbf{}",
        "utf16": "{}".encode("utf-16"),
        "nan": b'{"unifreeze_record": NaN, "unifreeze": Infinity}',
        "twice": b'{"unifreeze_record": 2, "unifreeze_record": 2}',
        "deep": b"[" * 100_000,
        "deep objects": b'{"a":' * 100_000,
        "huge number": b"9" * 1_000_000,
        "huge exponent": b'{"unifreeze_record": 1e' + b"9" * 1000 + b"}",
        "half of a character": b'{"unifreeze_record": "\\ud800"}',
        "zeros": bytes(1000),
        "latin": b'{"unifreeze_record": "\xe9"}',
    }
    for name, data in texts.items():
        (folder / f"{name}{suffix}").write_bytes(data)
        yield folder / f"{name}{suffix}"
    (folder / f"folder{suffix}").mkdir()
    yield folder / f"folder{suffix}"
    (folder / f"gone{suffix}").symlink_to("nowhere")
    yield folder / f"gone{suffix}"
    yield folder / f"missing{suffix}"


@pytest.mark.parametrize("name", READERS)
def test_a_reader_says_what_it_cannot_read(name, files, tmp_path):
    suffix, read = READERS[name]
    for path in [*hopeless_places(tmp_path, suffix), *odd_files(tmp_path, suffix)]:
        with pytest.raises(UnifreezeError) as caught:
            read(path, files)
        assert len(str(caught.value)) < 4000


def test_clear_deletes_kept_rows_and_nothing_else(files, tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    for name in ("manifest.json", "rows.safetensors"):
        (rows / name).write_bytes(files[name].read_bytes())
    (rows / "notes.txt").write_text("mine")
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text(json.dumps({"name": "a page", "icons": []}))
    with pytest.raises(CacheError, match=r"site.manifest\.json is not a unifreeze cache"):
        clear(tmp_path)
    assert len(list(rows.iterdir())) == 3
    (site / "manifest.json").rename(site / "page.json")
    assert clear(tmp_path) > 0
    assert [file.name for file in rows.iterdir()] == ["notes.txt"]
    assert [file.name for file in site.iterdir()] == ["page.json"]


def test_a_group_that_was_moved_is_not_deleted(files, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_bytes(files["manifest.json"].read_bytes())
    with pytest.raises(CacheError, match="is of other rows than its folder"):
        clear(tmp_path)
    assert (other / "manifest.json").exists()


def test_two_threads_may_freeze_models_at_once():
    """Each its own; flags are as found in the end, and collections run again."""
    errors, start = [], threading.Barrier(4)

    def work():
        model = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(4)))
        try:
            start.wait(60)
            for _ in range(15):
                handle = uf.FreezePlan().freeze("0 | 1").apply(model)
                with uf.frozen(model):
                    assert not any(p.requires_grad for p in model.parameters())
                handle.verify()
                handle.remove()
                assert all(p.requires_grad for p in model.parameters())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert gc.isenabled()


@pytest.mark.parametrize("name", ["record", "side", "sketch", "pairing", "run"])
def test_a_key_that_stands_twice_is_refused(name, files, tmp_path):
    """A reader takes the first or the last, and two readers would not agree."""
    text = files[f"{name}.json"].read_text()
    (tmp_path / "twice.json").write_text(text.replace("{", '{"unifreeze": 1, "unifreeze": 1, ', 1))
    with pytest.raises(UnifreezeError, match="'unifreeze' stands there twice"):
        READERS[name][1](tmp_path / "twice.json", files)


def test_a_current_folder_that_was_deleted_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(TargetError, match="the current folder does not exist any more"):
        import_target("some_module", "some_module:net")


def test_a_file_that_exits_when_it_is_imported_is_named(tmp_path):
    (tmp_path / "ends.py").write_text("raise SystemExit(5)\n")
    with pytest.raises(TargetError, match="cannot be imported: SystemExit: 5"):
        import_target(str(tmp_path / "ends.py"), "ends.py:net")
