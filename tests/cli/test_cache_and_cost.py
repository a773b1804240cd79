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


DATA = """
import numpy as np
from tests.support import cached_nets as nets

def net(framework):
    fw = nets.framework_of(framework)
    fw.seed(0)
    return nets.residual_net(fw)

def batches(size=8):
    return [nets.IMAGES[n : n + size] for n in range(0, 24, size)]

def fails():
    yield nets.IMAGES[:8]
    raise OSError("no more pictures")

def named():
    return [{"x": batch} for batch in batches()]

def wrong():
    return [{"pictures": batch} for batch in batches()]

def with_labels():
    return [(batch, np.zeros(8)) for batch in batches()]

def number():
    return 3

def empty():
    return []

ready = batches()
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    (tmp_path / "data.py").write_text(DATA)
    uf.FreezePlan().only("head | last").save(tmp_path / "plan.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filled(cli, framework, data="batches", *more):
    model, batches = f'./data.py:net("{framework}")', f"./data.py:{data}"
    return cli("cache", "fill", "plan.yaml", model, batches, "-o", "rows", *more)


@pytest.mark.parametrize("batches", ["batches", "ready", "named", "batches(size=8)"])
def test_after_fill_the_same_loop_is_given_back_every_row(cli, framework, data, batches):
    code, out, err = filled(cli, framework, batches)
    assert (code, err) == (0, "")
    assert "24 rows: 0 given back, 24 computed and kept" in out
    fw = nets.framework_of(framework)
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = uf.FreezePlan.load("plan.yaml").apply(model)
    run = nets.train(fw, model, handle, nets.image_batches, cached=lambda: handle.cached("rows"))[3]
    # A batch of each form is computed to learn its form, and one to compare rows of an earlier run.
    # Rows of a model that is called by name are other rows.
    assert run.counts.misses == (24 if batches == "named" else 8)
    assert run.counts.uncached == 8


def test_a_second_fill_finds_everything_there(cli, framework, data):
    filled(cli, framework)
    code, out, _ = filled(cli, framework, "batches", "--json", "-")
    assert code == 0
    assert json.loads(out)["known"] == 8


def test_rows_of_a_faster_prefix_are_kept_apart(cli, framework, data):
    prefix = "bfloat16" if framework == "torch" else "inference"
    code, out, _ = filled(cli, framework, "batches", "--prefix", prefix)
    assert code == 0
    assert f"prefix: {prefix}, " in out
    assert f"prefix: {prefix}\n" in cli("cache", "info", "rows")[1]
    code, out, _ = filled(cli, framework, "batches", "--json", "-")
    assert json.loads(out)["known"] == 0


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ("fails", "the data fails at batch 2: OSError: no more pictures"),
        ("wrong", "a dictionary of 'pictures'"),
        ("with_labels", "labels only if the model takes them"),
        ("number", "is 3, and should yield batches"),
        ("empty", "there is no batch"),
        ("batchs", "did you mean 'batches'"),
        ("batches(size=0)", "does not build"),
    ],
)
def test_data_that_does_not_fit_is_refused(cli, framework, data, batches, said):
    code, _, err = filled(cli, framework, batches)
    assert code == 2
    assert said in " ".join(err.split())


def test_fill_says_how_it_is_called(cli, data):
    code, _, err = cli("cache", "fill", "plan.yaml", "./data.py:net")
    assert code == 2
    assert "takes a plan, a model, data and a folder" in " ".join(err.split())
    code, _, err = cli("cache", "info", "rows", "more")
    assert code == 2
    assert "info takes one folder" in " ".join(err.split())


def test_where_the_budget_ends_fill_ends_with_1(cli, framework, data):
    with pytest.warns(uf.errors.UnifreezeWarning, match="used up"):
        code, out, err = filled(cli, framework, "batches", "--budget", "9KB")
    assert code == 1
    assert "stopped keeping rows" in out
    assert "could not be kept" in err


def test_rows_for_validation_are_kept_apart(cli, framework, data):
    assert filled(cli, framework, "batches", "--validation")[0] == 0
    fw = nets.framework_of(framework)
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = uf.FreezePlan.load("plan.yaml").apply(model)
    model.eval()
    with handle.cached("rows") as run, fw.no_grad():
        for _ in range(3):
            model(fw.tensor(nets.IMAGES[:8]))
    assert run.counts.hits == 8
