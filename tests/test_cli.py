"""Every command, with what people give it: exit codes, what is printed, what is written as JSON."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator

from unifreeze._cli import main
from unifreeze._cli.find_model import device_for, load_model, read_batch
from unifreeze._evidence import PARITY_CLAUSES, Record, make_record
from unifreeze._plan import FreezePlan
from unifreeze._protocol import ProbeConfig, registry
from unifreeze.errors import MissingFrameworkError, TargetError, UnknownFrameworkError

HERE = Path(__file__).parent
MODELS = {
    "torch": "tests.support.kits.torch_kit:Plain",
    "paddle": "tests.support.kits.paddle_kit:Plain",
}
BATCH = ("--batch", "float32[8,6]")
TOYS = ("toynet", "unifreeze_toynet", "toy_framework", "four_blocks")
TOY = "tests.support.toy_framework.toy_models:Plain"
TOY_BACKEND = ("--backend", "toynet=unifreeze_toynet:ToynetBackend")
FOUR = "four_blocks:net"
FOUR_BLOCKS = """
from torch import nn

class Block(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Linear(width, width), nn.Linear(width, width))

class Net(nn.Module):
    def __init__(self, width=4, *, blocks=4):
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 2)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = Net(), Net()

net, two_runs = Net, Two

def broken():
    raise RuntimeError("no weights today")

ready = net()
"""


@pytest.fixture(autouse=True)
def own_process(monkeypatch, tmp_path):
    """What a command leaves behind in its process ends with the test."""
    monkeypatch.setattr(registry, "_overrides", {})
    monkeypatch.setattr(sys, "path", [str(HERE / "support" / "toy_framework"), *sys.path])
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.removeprefix("tests.support.").partition(".")[0] in TOYS:
            del sys.modules[name]


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run a command in this process; gives its exit code, and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["unifreeze", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return run


@pytest.fixture
def plan(tmp_path):
    """Write a plan file of these rules."""

    def write(*rules, **more):
        path = tmp_path / "plan.yaml"
        document = {"unifreeze": 1, "rules": [dict([rule]) for rule in rules], **more}
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.fixture
def head(plan):
    return plan(("only", "head"))


@pytest.fixture
def four_blocks(tmp_path):
    (tmp_path / "four_blocks.py").write_text(FOUR_BLOCKS)


@pytest.fixture
def saved(tmp_path, kits):
    """Write a record of a framework's plain model."""

    def save(framework, plan=None, **how):
        kit, path = kits[framework], tmp_path / f"{framework}{len(how)}.json"
        config = ProbeConfig(kit.plain.batch, **how)
        made = make_record(
            plan or FreezePlan().only("head"),
            kit.plain.make(),
            kit.backend,
            config,
            device="cpu",
            name="plain",
        )
        made.save(path)
        return path

    return save


def alone(*arguments, cwd=HERE.parent, code=None, **environment):
    """Run a command in a process of its own."""
    command = ["-c", code] if code else ["-m", "unifreeze"]
    environment = {"PYTHONPATH": str(HERE / "support" / "toy_framework"), "PATH": "", **environment}
    if paths := os.environ.get("PYTHONPATH"):
        environment["PYTHONPATH"] += os.pathsep + paths
    return subprocess.run(
        [sys.executable, "-W", "ignore", *command, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


# show --------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", MODELS)
def test_show_prints_the_tree_with_roles_and_counts(cli, framework):
    code, out, _ = cli("show", MODELS[framework])
    assert code == 0
    assert f"{MODELS[framework]}: {framework}, 14 parameters, 213 values, 14 trainable" in out
    assert "0 Block  blocks.0  6 parameters, 96 values, trainable" in out
    assert "head Linear  head/linear.0  2 parameters, 21 values, trainable" in out
    assert out.rstrip().endswith("blocks: 2 blocks in 1 stage")
    assert "first Linear" not in out


def test_show_goes_into_blocks_when_asked(cli):
    _, out, _ = cli("show", MODELS["torch"], "--all")
    assert "norm BatchNorm1d  blocks.1/norm.0  2 parameters, 12 values" in out


def test_show_says_by_which_order_it_counted(cli):
    assert "by order of registration" in " ".join(cli("show", MODELS["torch"])[1].split())
    out = cli("show", MODELS["torch"], *BATCH)[1]
    assert "by order of execution" in " ".join(out.split())


def test_show_writes_json_to_a_file_or_to_the_output(cli, tmp_path):
    code, out, _ = cli("show", MODELS["paddle"], "--json", "-")
    assert code == 0
    shown = json.loads(out)
    assert list(shown) == ["framework", "order", "parameters", "states", "unused", "runs"]
    assert len(shown["parameters"]) == 14
    assert shown["parameters"][0]["name"] == "blocks.0/linear.0/weight"
    assert shown["runs"] == [
        {"label": "blocks", "blocks": ["blocks.0", "blocks.1"], "stages": [0, 0]}
    ]
    path = tmp_path / "shown.json"
    code, out, _ = cli("show", MODELS["paddle"], "--json", path)
    assert (code, out) == (0, "")
    assert json.loads(path.read_text()) == shown


def test_a_file_that_cannot_be_written_is_unusable(cli, tmp_path):
    code, _, err = cli("show", MODELS["torch"], "--json", tmp_path / "no" / "where.json")
    assert code == 2
    assert "TargetError: cannot write" in err


# explain -----------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", MODELS)
def test_explain_says_what_each_rule_takes_and_saves(cli, plan, framework):
    path = plan(("only", "head | blocks[-1]"), ("freeze", "norm"))
    code, out, _ = cli("explain", path, MODELS[framework])
    assert code == 0
    assert "trainable params: 105 || all params: 213 || trainable%: 49.2958" in out
    assert "rule 1  only: head | blocks[-1]: matches 8, decides 10" in out
    assert "rule 2  freeze: norm: matches 4, decides 4 (24 values)" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["blocks.0", "blocks.0", "frozen", "6", "96", "384", "B"] in rows
    assert ["blocks.1", "blocks.1", "4", "of", "6", "trainable", "6", "96", "384", "B"] in rows
    assert ["head", "head", "trainable", "2", "21", "84", "B"] in rows
    assert "memory saved: 432 B of gradients, 864 B of optimizer state" in out


def test_explain_says_why(cli, head):
    code, out, _ = cli("explain", head, MODELS["torch"], "--why", "head.*")
    assert code == 0
    assert out.splitlines() == [
        "head.weight  head/linear.0/weight  trainable by rule 1 (only: head)",
        "head.bias  head/linear.0/bias  trainable by rule 1 (only: head)",
    ]


def test_explain_says_why_by_canonical_name_too(cli, head):
    _, out, _ = cli("explain", head, MODELS["paddle"], "--why", "blocks.1/norm.0/*")
    assert [line.split()[0] for line in out.splitlines()] == [
        "blocks.1.norm.weight",
        "blocks.1.norm.bias",
    ]


def test_why_of_nothing_is_unusable(cli, head):
    code, out, err = cli("explain", head, MODELS["torch"], "--why", "heda.*")
    assert (code, out) == (2, "")
    assert "no parameter matches 'heda.*'" in err


def test_explain_writes_json(cli, head):
    code, out, _ = cli("explain", head, MODELS["torch"], "--json", "-")
    assert code == 0
    data = json.loads(out)
    assert (data["trainable_values"], data["all_values"]) == (21, 213)
    assert data["rules"] == [{"text": "only: head", "matched": 2, "decided": 14, "values": 213}]
    assert data["parameters"][-1] == {
        "name": "head/linear.0/bias",
        "path": "head.bias",
        "trainable": True,
        "reason": "trainable by rule 1 (only: head)",
    }
    assert data["held"] == ["blocks.0.norm", "blocks.1.norm"]
    assert data["saved_bytes"] == {"gradients": 768, "adam": 1536, "sgd_momentum": 768}


def test_explain_says_what_the_framework_would_refuse(cli, plan, tmp_path):
    (tmp_path / "four_blocks.py").write_text(
        "from torch import nn\n"
        "net = nn.Sequential(nn.Embedding(5, 4, max_norm=1.0), nn.Linear(4, 2))\n"
    )
    code, out, _ = cli("explain", plan(("freeze", "embedding")), FOUR)
    assert code == 0
    assert "torch would refuse: 0: max_norm rewrites the frozen table" in out


# Plans that do not fit ---------------------------------------------------------------------


def test_a_typo_in_a_role_names_the_word(cli, plan):
    code, _, err = cli("explain", plan(("only", "haed")), MODELS["torch"])
    assert code == 2
    assert 'UnmatchedSelectorError: rule 1 (only: "haed")' in err
    assert 'did you mean "head" (a word of the vocabulary, 2 parameters)?' in err


def test_a_slice_past_the_end_says_how_many_there_are(cli, plan, four_blocks):
    code, _, err = cli("explain", plan(("freeze", "blocks[:10]")), FOUR)
    assert code == 2
    assert "SelectorRangeError" in err
    assert "the model has 4 blocks" in err


def test_an_index_where_there_are_several_runs_lists_them(cli, plan, four_blocks):
    code, _, err = cli("explain", plan(("freeze", "blocks[:2]")), "four_blocks:two_runs")
    assert code == 2
    assert "SelectorScopeError" in err
    assert "4 blocks under left (left.blocks), 4 blocks under right (right.blocks)" in err
    assert "blocks[:2] in left or blocks[:2] in right" in err


def test_nothing_trainable_must_be_said(cli, plan):
    code, _, err = cli("explain", plan(("freeze", "backbone"), ("freeze", "head")), MODELS["torch"])
    assert code == 2
    assert "the plan leaves nothing trainable" in err
    assert "freeze: all" in err
    assert cli("explain", plan(("freeze", "all")), MODELS["torch"])[0] == 0


def test_nothing_frozen_must_be_said(cli, plan):
    code, _, err = cli("explain", plan(("train", "backbone"), ("train", "head")), MODELS["torch"])
    assert code == 2
    assert "the plan freezes nothing" in err
    assert "train: all" in err
    assert cli("explain", plan(("train", "all")), MODELS["torch"])[0] == 0


def test_all_mistakes_of_a_plan_file_are_listed(cli, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("unifreeze: 1\nrules:\n  - frezze: head\n  - train: [head]\nnorm_stat: hold\n")
    code, _, err = cli("explain", path, MODELS["torch"])
    assert code == 2
    assert "PlanFileError" in err
    assert "3 mistakes" in err
    assert "did you mean 'norm_stats'?" in err


def test_a_plan_file_that_is_not_there_is_unusable(cli):
    code, _, err = cli("explain", "nowhere.yaml", MODELS["torch"])
    assert code == 2
    assert "nowhere.yaml" in err


# Models as named ---------------------------------------------------------------------------


def test_a_factory_takes_literals(cli, four_blocks):
    code, out, _ = cli("show", "four_blocks:net(8, blocks=2)")
    assert code == 0
    assert f"{(1 + 2 * 2) * (8 * 8 + 8) + 8 * 2 + 2} values" in out
    assert "blocks: 2 blocks in 1 stage" in out


def test_a_module_in_the_current_folder_is_found(four_blocks):
    model, backend = load_model("four_blocks:net")
    assert type(model).__name__ == "Net"
    assert backend.name == "torch"


def test_a_model_that_is_there_already_is_not_called(four_blocks):
    model, _ = load_model("four_blocks:ready")
    assert model is sys.modules["four_blocks"].ready


def test_a_seed_decides_a_models_values(four_blocks):
    def weights(seed):
        return load_model("four_blocks:net", seed=seed)[0].head.weight.detach()

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nosuch:net", "there is no module 'nosuch'"),
        ("tests.support.kits.nosuch:net", "there is no module 'tests.support.kits.nosuch'"),
        ("torch.nosuch:net", "there is no module 'torch.nosuch'"),
        ("four_blocks:nett", "did you mean 'net'?"),
        ("four_blocks", "names no model"),
        ("four_blocks:", "names no model"),
        (":net", "names no model"),
        ("four_blocks:net(", "names no model"),
        ("four_blocks:net.left", "names no model"),
        ("four_blocks:net(width=open)", "are not literals"),
        ("four_blocks:net(**{'width': 2})", "are not literals"),
        ("four_blocks:net(height=2)", "does not build: TypeError"),
        ("four_blocks:broken", "does not build: RuntimeError: no weights today"),
    ],
)
def test_a_target_that_is_no_model_says_why(four_blocks, target, said):
    with pytest.raises(TargetError, match=said.replace("(", r"\(").replace("?", r"\?")):
        load_model(target)


def test_a_module_that_fails_on_import_says_why(tmp_path):
    (tmp_path / "four_blocks.py").write_text("1 / 0")
    with pytest.raises(TargetError, match="cannot be imported: ZeroDivisionError"):
        load_model(FOUR)


def test_what_is_no_model_lists_the_backends():
    with pytest.raises(UnknownFrameworkError, match=r"no backend claims a builtins\.dict"):
        load_model("builtins:dict")


def test_targets_end_a_command_with_exit_code_two(cli, head):
    code, out, err = cli("explain", head, "nosuch:net")
    assert (code, out) == (2, "")
    assert err.startswith("Error: TargetError: nosuch:net: there is no module 'nosuch'")


# Frameworks that are not installed ---------------------------------------------------------


def without(*frameworks):
    """Code that runs the command line where frameworks cannot be imported."""
    return f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {frameworks!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in {frameworks!r} else found(name)
sys.meta_path.insert(0, Missing())
from unifreeze._cli import main
main()
"""


def test_a_model_of_a_framework_that_is_not_installed_says_how_to_install_it(head):
    run = alone("explain", head, MODELS["paddle"], code=without("paddle"))
    assert run.returncode == 2
    assert "MissingFrameworkError: paddle is not installed here" in run.stderr
    assert "pip install 'unifreeze[paddle]'" in run.stderr


def test_backends_lists_what_is_not_installed():
    run = alone("backends", code=without("paddle", "torch"))
    assert run.returncode == 0
    assert run.stdout == "paddle: not installed\ntorch: not installed\n"


def test_compare_needs_neither_framework(saved):
    records = [saved("torch"), saved("paddle")]
    run = alone("compare", *records, code=without("torch", "paddle"))
    assert run.returncode == 0, run.stderr
    assert "parity holds" in run.stdout


def test_a_plan_is_read_before_anything_heavy():
    run = alone("parity", "nowhere.yaml", "a:b", "c:d", code=without("torch", "paddle"))
    assert run.returncode == 2
    assert "nowhere.yaml" in run.stderr


def test_a_backend_whose_framework_is_gone_is_listed_and_named(monkeypatch, cli):
    entry = importlib.metadata.EntryPoint("nonet", "unifreeze_nonet:backend", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "_entries", lambda: {"nonet": entry})
    assert cli("backends")[:2] == (0, "nonet: not installed\n")
    with pytest.raises(MissingFrameworkError, match="nonet is not installed here\n  hint: install"):
        raise registry.missing_framework("nonet")


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


# record and compare ------------------------------------------------------------------------


@pytest.mark.parametrize("framework", MODELS)
def test_record_writes_what_a_run_showed(cli, head, framework):
    code, out, _ = cli("record", head, MODELS[framework], "-o", "r.json", *BATCH, "--seed", "3")
    assert code == 0
    assert out == f"{framework} on cpu: 14 parameters, 2 trainable; written to r.json\n"
    record = Record.load("r.json")
    assert (record.framework, record.model, record.seed) == (framework, MODELS[framework], 3)
    assert record.plan == {"unifreeze": 1, "rules": [{"only": "head"}]}
    assert record.versions.keys() >= {"python", "unifreeze"}
    assert [run.optimizer for run in record.runs] == ["adamw", "sgd"]


def test_record_says_as_json_what_it_wrote(cli, head):
    code, out, _ = cli("record", head, MODELS["torch"], "-o", "r.json", *BATCH, "--json", "-")
    assert code == 0
    outputs = {"output": [8, 3]}
    assert json.loads(out) == {"record": "r.json", "side": "torch on cpu", "outputs": outputs}


def test_record_without_a_batch_says_what_for(cli, head):
    code, _, err = cli("record", head, MODELS["torch"], "-o", "r.json")
    assert code == 2
    assert "a batch is needed: the model is run on it" in err
    assert not Path("r.json").exists()


def test_record_into_a_folder_that_is_not_there_is_unusable(cli, head):
    code, _, err = cli("record", head, MODELS["torch"], "-o", "no/r.json", *BATCH)
    assert code == 2
    assert "RecordError: cannot write no/r.json" in err


def test_record_refuses_outputs_that_the_model_has_not(cli, head):
    code, _, err = cli(
        "record", head, MODELS["torch"], "-o", "r.json", *BATCH, "--outputs", "nowhere"
    )
    assert code == 2
    assert "it returns: output [8, 3]; asked for: nowhere" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_unusable(cli, head):
    code, _, err = cli(
        "record", head, MODELS["torch"], "-o", "r.json", *BATCH, "--device", "torch=gpu"
    )
    assert code == 2
    assert "torch sees no 'gpu' device here" in err


def test_a_batch_that_the_model_does_not_take_is_unusable(cli, head):
    code, _, err = cli("record", head, MODELS["torch"], "-o", "r.json", "--batch", "float32[2,5]")
    assert code == 2
    assert "the model does not run on this batch" in err
    assert "batch: float32[2, 5]" in err


def test_compare_holds_or_does_not(cli, saved, tmp_path):
    one, other = saved("torch"), saved("paddle")
    code, out, _ = cli("compare", one, other)
    assert code == 0
    assert "parity holds (2 steps each of adamw, sgd)" in out
    damaged = Record.load(other)
    flags = {**damaged.runs[0].flags, "head.bias": False}
    runs = (damaged.runs[0].model_copy(update={"flags": flags}), damaged.runs[1])
    damaged.model_copy(update={"runs": runs}).save(other)
    code, out, _ = cli("compare", one, other, "--json", tmp_path / "report.json")
    assert code == 1
    assert "parity does not hold" in out
    assert "BROKEN  flags" in out
    assert "head.bias: is decided trainable, reads frozen (paddle on cpu)" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [clause["name"] for clause in report["clauses"] if not clause["holds"]] == ["flags"]


def test_compare_prints_nothing_but_json_when_asked(cli, saved):
    path = saved("torch")
    code, out, _ = cli("compare", path, path, "--json", "-")
    assert code == 0
    report = json.loads(out)
    assert list(report) == ["holds", "clauses", "sides", "steps", "optimizers"]
    assert [clause["name"] for clause in report["clauses"]] == [row.name for row in PARITY_CLAUSES]


def test_a_record_cut_in_half_is_unusable(cli, saved):
    path = saved("torch")
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    code, _, err = cli("compare", path, path)
    assert code == 2
    assert "is not a complete record" in err
    assert "write it again with `unifreeze record`" in err


def test_a_record_of_another_version_is_unusable(cli, saved):
    path = saved("torch")
    path.write_text(json.dumps({**json.loads(path.read_text()), "unifreeze_record": 1}))
    code, _, err = cli("compare", path, path)
    assert code == 2
    assert "is of record format 1; this release reads 2" in err


def test_records_of_different_plans_are_unusable(cli, saved):
    code, _, err = cli("compare", saved("torch"), saved("paddle", FreezePlan().freeze("head")))
    assert code == 2
    assert "the records are of different plans" in err
    assert "record both sides with the same plan file" in err


def test_records_of_different_probes_are_unusable(cli, saved):
    code, _, err = cli("compare", saved("torch"), saved("paddle", steps=3))
    assert code == 2
    assert "the records are of different probes" in err


def test_a_record_that_is_not_there_is_unusable(cli):
    code, _, err = cli("compare", "one.json", "two.json")
    assert code == 2
    assert "RecordError: cannot read one.json" in err


# parity: in processes of its own, with a framework that imports in no time -----------------------


def toy_parity(plan, *sides, **how):
    json_file = plan.with_name("report.json")
    run = alone("parity", plan, *sides, *BATCH, *TOY_BACKEND, "--json", json_file, **how)
    return run, json.loads(json_file.read_text()) if json_file.exists() else None


def test_parity_holds(head):
    run, report = toy_parity(head, TOY, TOY)
    assert run.returncode == 0, run.stderr
    assert "parity holds" in run.stdout
    assert report["holds"] is True
    assert list(report) == ["holds", "clauses", "sides", "steps", "optimizers"]
    assert [clause["name"] for clause in report["clauses"]] == [row.name for row in PARITY_CLAUSES]
    assert report["sides"][0] == {
        "framework": "toynet",
        "device": "cpu",
        "parameters": 14,
        "values": 213,
        "frozen": 12,
        "trainable": 2,
    }


def test_parity_does_not_hold(head):
    run, report = toy_parity(head, TOY, "tests.support.toy_framework.toy_models:Forgetful")
    assert run.returncode == 1
    assert "parity does not hold" in run.stdout
    broken = [clause["name"] for clause in report["clauses"] if not clause["holds"]]
    assert broken == ["gradients", "trained"]


def test_a_side_that_cannot_be_recorded_speaks_for_itself(head):
    run, report = toy_parity(head, TOY, "tests.support.toy_framework.toy_models:Plian")
    assert run.returncode == 2
    assert report is None
    assert "tests.support.toy_framework.toy_models:Plian did not run to its end" in run.stderr
    assert "did you mean 'Plain'?" in run.stderr


def test_a_mistake_in_a_backend_is_told_as_a_bug(head, tmp_path):
    (tmp_path / "buggy.py").write_text(
        "from unifreeze_toynet import ToynetBackend\n"
        "class Buggy(ToynetBackend):\n"
        "    def get_guards(self, walk):\n"
        "        raise ZeroDivisionError('oops')\n"
    )
    paths = f"{HERE / 'toy_framework'}:{HERE}:{tmp_path}"
    arguments = ["--backend", "toynet=buggy:Buggy"]
    run = alone("parity", head, TOY, TOY, *BATCH, *arguments, PYTHONPATH=paths)
    assert run.returncode == 3
    assert "ZeroDivisionError: oops" in run.stderr
    assert "This is a bug in unifreeze or in a backend; please report it." in run.stderr


def test_an_interpreter_that_is_not_there_is_unusable(cli, head):
    code, _, err = cli(
        "parity", head, TOY, TOY, *BATCH, *TOY_BACKEND, "--other-python", "/no/python"
    )
    assert code == 2
    assert "cannot run /no/python" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a batch is needed"),
        (["--batch", "float32[8"], "cannot be read"),
        ([*BATCH, "--device", "tpu"], "device 'tpu' cannot be read"),
        ([*BATCH, "--order", "sideways"], "order 'sideways' cannot be read"),
        ([*BATCH, "--backend", "torch"], "backend 'torch' cannot be read"),
    ],
)
def test_what_parity_cannot_read_is_said_before_anything_runs(
    cli, head, monkeypatch, arguments, said
):
    monkeypatch.setattr(subprocess, "Popen", None)
    code, _, err = cli("parity", head, "a:b", "c:d", *arguments)
    assert code == 2
    assert said in err
    assert "did not run to its end" not in err


# Backends given by hand --------------------------------------------------------------------


def test_a_backend_is_tried_out_in_place_of_the_installed_one(cli):
    code, out, _ = cli("show", TOY, *TOY_BACKEND)
    assert code == 0
    assert f"{TOY}: toynet, 14 parameters" in out


def test_a_backend_that_no_model_calls_for_is_refused(cli):
    code, _, err = cli("show", MODELS["torch"], "--backend", "troch=nowhere:Backend")
    assert code == 2
    assert "--backend troch=nowhere:Backend was not used" in err


def test_a_backend_that_is_none_says_what_it_lacks(cli):
    code, _, err = cli("show", MODELS["torch"], "--backend", "torch=builtins:dict")
    assert code == 2
    assert "is not a backend: it lacks assign, base_rate, capabilities" in err


def test_a_backend_that_is_not_there_is_unusable(cli):
    code, _, err = cli("show", MODELS["torch"], "--backend", "torch=nowhere:Backend")
    assert code == 2
    assert "there is no module 'nowhere'" in err


# schema, backends, and the program itself --------------------------------------------------------


def test_the_schema_takes_good_plans_and_refuses_bad_ones(cli, tmp_path):
    code, out, _ = cli("schema")
    assert code == 0
    schema = json.loads(out)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    good = {"unifreeze": 1, "rules": [{"only": "head"}], "norm_stats": "hold"}
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, "norm_stat": "hold"})
    assert not validator.is_valid({**good, "unifreeze": 2})
    path = tmp_path / "schema.json"
    assert cli("schema", "--json", path)[:2] == (0, "")
    assert json.loads(path.read_text()) == schema


def test_backends_lists_both_with_version_and_devices(cli):
    code, out, _ = cli("backends", "--json", "-")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows.keys() == {"torch", "paddle"}
    assert rows["torch"]["version"] == torch.__version__
    assert all(row["installed"] and row["devices"][0] == "cpu" for row in rows.values())
    code, out, _ = cli("backends")
    assert f"torch: {torch.__version__}, devices: cpu" in out


def test_a_command_that_is_not_there_is_unusable(cli):
    code, _, err = cli("freeze")
    assert code == 2
    assert "freeze" in err


def test_the_module_runs_as_the_program_does():
    run = alone("--help")
    assert run.returncode == 0
    assert "Exit codes: 0 it holds, 1 it does not hold, 2 unusable input" in run.stdout
    for command in ("show", "explain", "parity", "record", "compare", "schema", "backends"):
        assert f" {command} " in run.stdout
