"""`cache` and `explain --cost` on the command line."""

import json

import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from tests.support.command_line import BATCH, MODELS


@pytest.fixture
def folder(framework, tmp_path):
    fw = nets.framework_of(framework)
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = uf.FreezePlan().only("head | last").apply(model)
    nets.train(
        fw, model, handle, nets.image_batches, epochs=1, cached=lambda: handle.cached(tmp_path)
    )
    return tmp_path


def test_info_lists_what_is_kept(cli, folder):
    _, shown, _ = cli("cache", "info", folder)
    assert "24 rows in 1 file, 24.0 KiB, as float32" in shown
    assert "outputs of stages.1" in shown
    (row,) = json.loads(cli("cache", "info", folder, "--json", "-")[1])
    assert (row["rows"], row["bytes"], row["model"]) == (24, 24576, "Net")


def test_check_finds_a_damaged_file(cli, folder):
    assert "all files are whole" in cli("cache", "check", folder)[1]
    (file,) = folder.rglob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert cli("cache", "info", folder)[0] == 0
    code, _, err = cli("cache", "check", folder)
    assert code == 2
    assert file.name in err


def test_clear_deletes_the_rows_alone(cli, folder):
    (folder / "mine.txt").write_text("mine")
    assert "deleted" in cli("cache", "clear", folder)[1]
    assert [file.name for file in folder.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("action", "place", "said"),
    [
        ("info", "nowhere", "there is no folder"),
        ("clear", "", "holds no kept rows"),
        ("delete", "", "one of info, check, clear"),
    ],
)
def test_what_cannot_be_done_is_said(cli, tmp_path, action, place, said):
    code, _, err = cli("cache", action, tmp_path / place)
    assert code == 2
    assert said in " ".join(err.split())


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.yaml"
    uf.FreezePlan().only("head").save(path)
    return path


@pytest.mark.parametrize("framework", MODELS)
def test_explain_says_what_a_plan_saves_in_a_step(cli, framework, plan_file):
    code, out, _ = cli("explain", plan_file, MODELS[framework], "--cost", *BATCH)
    assert code == 0
    assert "trainable from head.weight on" in out
    assert "the cache: 23.4 KiB for 1,000 examples" in out
    assert "84 B of gradients, 168 B of AdamW's moments" in out
    args = ("--cost", "--examples", 10, "--epochs", 5, "--json", "-")
    code, out, _ = cli("explain", plan_file, MODELS[framework], *BATCH, *args)
    shown = json.loads(out)
    assert (shown["cache_bytes"], shown["examples"], shown["epochs"]) == (240, 10, 5)


def test_the_cost_needs_a_batch(cli, plan_file):
    code, _, err = cli("explain", plan_file, MODELS["torch"], "--cost")
    assert code == 2
    assert "hint: for example --batch" in " ".join(err.split())
