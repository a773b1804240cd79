"""The command line as it looks: in any width and encoding, in a pipe; its help, its files."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from rich.cells import cell_len

import unifreeze
from unifreeze._cli import app, examples, main
from unifreeze._cli.find_model import load_model
from unifreeze._plan import FreezePlan
from unifreeze._tables import plain_table, wrap
from unifreeze.errors import TargetError

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands
NETS = """
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a_rather_long_name_of_a_layer, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.out = nn.Linear(4, 4)


class Inner(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.embeddings_of_words = nn.Embedding(9, 4)
        self.embeddings_of_positions = nn.Embedding(9, 4)
        self.encoder_layers = nn.ModuleList(Block() for _ in range(depth))


class Net(nn.Module):
    def __init__(self, depth=3):
        super().__init__()
        self.a_language_model = Inner(depth)
        self.classifier = nn.Linear(4, 2)

    def forward(self, ids):
        x = self.a_language_model.embeddings_of_words(ids)
        for block in self.a_language_model.encoder_layers:
            x = x + block.out(block.norm(block.a_rather_long_name_of_a_layer(x)))
        return self.classifier(x)


def net(depth=3):
    return Net(depth)
"""
PLAN = """
unifreeze: 1
rules:
  - only: "head | blocks[-2:]"
groups:
  - {match: all, layer_decay: 0.9}
  - {match: head, lr_scale: 10}
  - {match: "bias | norm", weight_decay: 0}
"""
PHASES = """
unifreeze: 1
phases:
  - {name: 先训练分类头, rules: [{only: head}], lr: 1e-3}
  - {name: everything, at: {epoch: 2}, add: [{train: all}], lr: 1e-4}
groups: [{match: all, layer_decay: 0.5}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("project")
    (made / "nets.py").write_text(NETS, encoding="utf-8")
    (made / "plan.yaml").write_text(PLAN, encoding="utf-8")
    (made / "phases.yaml").write_text(PHASES, encoding="utf-8")
    return made


@pytest.fixture
def run(folder, monkeypatch):
    """Run a command in this process, its output in a pipe of some encoding."""

    def ran(*words, columns=None, encoding="utf-8", text=True):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["unifreeze", *map(str, words)])
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            patch.setenv("COLUMNS", str(columns)) if columns else patch.delenv("COLUMNS", False)
            with pytest.raises(SystemExit) as exit_:
                main()
        for stream in streams:
            stream.flush()
        out, err = (stream.buffer.getvalue() for stream in streams)
        return (
            exit_.value.code or 0,
            *((out.decode(encoding), err.decode(encoding)) if text else (out, err)),
        )

    return ran


def alone(folder, *words, **environment):
    """Run a command in a process of its own."""
    plain = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "unifreeze", *words],
        cwd=folder,
        env={**plain, **environment},
        capture_output=True,
        check=False,
    )


# Width --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_line_is_wider_than_the_terminal(run, columns, encoding):
    for words in (
        ("show", "./nets.py:net"),
        ("explain", "plan.yaml", "./nets.py:net"),
        ("explain", "phases.yaml", "./nets.py:net"),
    ):
        code, out, err = run(*words, columns=columns, encoding=encoding)
        assert code == 0, err
        lines = out.splitlines()
        assert max(map(cell_len, lines)) <= columns, max(lines, key=cell_len)
        assert "blocks.2" in out


def test_paths_break_at_dots_and_never_within_a_name(run):
    out = run("explain", "plan.yaml", "./nets.py:net", columns=76)[1]
    table = out.partition("canonical")[2].partition("group ")[0]
    assert len(re.findall(r"a_language_model\. ", table)) == 4
    assert len(re.findall(r"^ +encoder_layers\.\d$", table, re.M)) == 3


def test_a_pipe_without_a_width_is_not_wrapped(run):
    out = run("explain", "plan.yaml", "./nets.py:net")[1]
    assert "blocks.1   a_language_model.encoder_layers.1" in out
    assert "optimizer state with Adam's two moments" in out.splitlines()[-1]


def test_a_narrow_terminal_has_a_few_lines_for_each_row(run):
    out = run("explain", "plan.yaml", "./nets.py:net", columns=40)[1]
    assert "blocks.2\n  native:" in out
    assert "  rate: x 0.9\n" in out


@pytest.mark.parametrize("width", [12, 20, 33, 47, 80, 200])
def test_tables_and_lines_fit_and_keep_every_letter(width):
    rows = [
        ("stem", "encoder.embeddings.word_embeddings, 先训练", "12 of 16 trainable", "1,234"),
        ("blocks.0", "encoder.layers.0", "frozen", "5"),
    ]
    header = ("unit", "native", "decision", "values")
    made = plain_table(header, rows, left=3, width=width)
    assert max(map(cell_len, made.splitlines())) <= width
    letters = re.sub(r"\s", "", made)
    for row in rows:
        for cell in row:
            for word in re.findall(r"\w+", cell):
                assert word in letters or width < 30
    line = "  rule 1  only: encoder.embeddings.word_embeddings | 先训练分类头: matches 3"
    wrapped = wrap(line, width)
    assert max(map(cell_len, wrapped)) <= width
    assert re.sub(r"\s", "", "".join(wrapped)) == re.sub(r"\s", "", line)


# Encodings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "cp1252", "utf-8"])
def test_every_encoding_is_printed_in(run, encoding):
    code, out, err = run("explain", "phases.yaml", "./nets.py:net", encoding=encoding)
    assert code == 0, err
    name = "先训练分类头" if encoding in ("gbk", "utf-8") else "\\u5148\\u8bad\\u7ec3"
    assert name in out
    code, out, _ = run("show", "./nets.py:net", encoding=encoding)
    assert code == 0
    assert ("├── " in out) == (encoding == "utf-8")
    assert "encoder_layers" in out
    code, _, err = run("explain", "nowhere_…_计划.yaml", "./nets.py:net", encoding=encoding)
    assert code == 2
    assert "cannot be read" in err


@pytest.mark.parametrize("words", [["--help"], ["explain", "phases.yaml", "./nets.py:net"]])
def test_a_locale_without_letters_is_printed_in(folder, words):
    done = alone(folder, *words, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_a_plan_that_is_redirected_into_a_file_can_be_read_again(run, folder, encoding):
    out = run("expand", "phases.yaml", "./nets.py:net", encoding=encoding, text=False)[1]
    file = folder / f"{encoding}.yaml"
    file.write_bytes(out)
    assert FreezePlan.load(file) == FreezePlan.load(folder / "phases.yaml")


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "utf-16", "big5", "shift_jis"])
def test_a_plan_file_in_another_encoding_is_told_to_be_saved_as_utf_8(run, folder, encoding):
    file = folder / "other.yaml"
    said = {"big5": "計畫", "shift_jis": "計画"}.get(encoding, "计划")
    file.write_bytes(f"unifreeze: 1\n# {said}\nrules: [{{only: head}}]\n".encode(encoding))
    code, _, err = run("explain", file, "./nets.py:net")
    assert code == 2
    assert "save it as UTF-8" in err
    assert ("UTF-16" in err) == (encoding == "utf-16")


def test_a_plan_file_with_a_byte_order_mark_is_read(folder):
    (folder / "bom.yaml").write_bytes("unifreeze: 1\nrules: [{only: head}]\n".encode("utf-8-sig"))
    assert FreezePlan.load(folder / "bom.yaml") == FreezePlan().only("head")


@pytest.mark.parametrize("command", ["compare", "map"])
def test_other_files_in_another_encoding_are_told_so_too(run, folder, command):
    (folder / "gbk.json").write_bytes('{"a": "计划"}'.encode("gbk"))
    words = ["compare", "gbk.json", "gbk.json"]
    if command == "map":
        words = ["pair", "./nets.py:net", "./nets.py:net", "--map", "gbk.json"]
        words += ["--batch", "int64[2,3]<0:9>"]
    code, _, err = run(*words)
    assert code == 2
    assert "save it as UTF-8" in err


# The program --------------------------------------------------------------------------------


def test_the_version_is_printed(run):
    assert run("--version") == (0, f"unifreeze {unifreeze.__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_that_parse(run, name):
    code, out, _ = run(name, "-h", columns=80)
    assert code == 0
    assert max(map(len, out.partition("For example")[0].splitlines())) <= 80
    assert out.isascii() or name in ("show",)
    assert examples.EXAMPLES[name]
    for example in examples.EXAMPLES[name]:
        assert example in out
        program, command, *words = shlex.split(example)
        assert (program, command) == ("unifreeze", name)
        COMMANDS[name].make_context(name, words, parent=click.Context(GROUP))


def test_every_command_writes_json():
    for command in COMMANDS.values():
        assert "--json" in [option for row in command.params for option in row.opts], command.name


def test_shells_can_complete(folder):
    words = {"COMP_WORDS": "unifreeze exp", "COMP_CWORD": "1"}
    done = alone(folder, **words, _UNIFREEZE_COMPLETE="complete_bash")
    assert done.stdout.split() == [b"explain", b"expand"]


def test_nobody_reads_any_more(run, folder):
    (folder / "large.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(*(nn.Linear(2, 2) for _ in range(5000)))\n"
    )
    command = f"{sys.executable} -W ignore -m unifreeze show ./large.py:net"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 141
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_a_plan_and_a_model_in_the_other_order_are_told(run):
    code, _, err = run("explain", "./nets.py:net", "plan.yaml")
    assert code == 2
    assert "the plan comes before the model: plan.yaml nets.py:net" in err


# JSON ---------------------------------------------------------------------------------------


def test_expand_writes_json(run, folder):
    code, out, _ = run("expand", "phases.yaml", "./nets.py:net", "--json", "-")
    assert code == 0
    found = json.loads(out)
    plan = FreezePlan.load(folder / "phases.yaml")
    assert FreezePlan.from_document(found["plan"]) == plan
    assert FreezePlan.from_yaml(found["text"]) == plan
    words = ("expand", "phases.yaml", "./nets.py:net", "-o", "e.yaml", "--json", "e.json")
    assert run(*words) == (0, "2 phases written to e.yaml\n", "")
    assert json.loads((folder / "e.json").read_text()) == found
    assert FreezePlan.load(folder / "e.yaml") == plan


def test_sketch_writes_json(run):
    words = ("sketch", "./nets.py:net", "--batch", "int64[2,3]<0:9>", "-o", "s.json", "--json", "-")
    code, out, err = run(*words)
    assert code == 0, err
    assert json.loads(out) == {
        "sketch": "s.json",
        "framework": "torch",
        "model": "./nets.py:net",
        "parameters": 22,
        "states": 0,
    }


def test_explain_tells_groups_and_rates(run):
    out = run("explain", "plan.yaml", "./nets.py:net")[1]
    table = out.partition("group ")[0].splitlines()
    rows = {row.split()[0]: re.split(r"\s{2,}", row.rstrip()) for row in table if row}
    assert rows["canonical"][3] == "rate"
    assert rows["blocks.1"][2:4] == ["trainable", "x 0.81"]
    assert rows["blocks.2"][2:4] == ["trainable", "x 0.9"]
    assert rows["head"][2:4] == ["trainable", "x 10"]
    groups = [re.split(r"\s{2,}", line) for line in out.partition("group ")[2].splitlines()]
    assert ["head, weights", "x 10", "as built", "1", "8"] in groups
    assert ["head, biases", "x 10", "0", "1", "2"] in groups
    assert ["blocks.1, weights", "x 0.81", "as built", "2", "32"] in groups
    assert ["blocks.1", "x 0.81", "0", "4", "16"] in groups  # the norm's weight, and biases
    found = json.loads(run("explain", "plan.yaml", "./nets.py:net", "--json", "-")[1])
    assert [group["lr_scale"] for group in found["groups"]] == [0.81, 0.81, 0.9, 0.9, 10, 10]
    assert sum(len(group["paths"]) for group in found["groups"]) == 14
    unit = next(unit for unit in found["units"] if unit["label"] == "head")
    assert (unit["lr_scales"], sorted(unit["weight_decays"], key=str)) == ([10], [0, None])


def test_explain_tells_the_rates_of_a_phase(run):
    words = ("explain", "phases.yaml", "./nets.py:net", "--phase", "everything")
    groups = run(*words)[1].partition("group ")[2]
    rates = [re.split(r"\s{2,}", line)[1] for line in groups.splitlines()[1:-1]]
    assert sorted(map(float, rates)) == [6.25e-06, 1.25e-05, 2.5e-05, 5e-05, 1e-04]


def test_explain_says_why_in_json(run):
    words = ("explain", "plan.yaml", "./nets.py:net", "--why", "classifier.*", "--json", "-")
    assert json.loads(run(*words)[1])["why"] == [
        "classifier.weight  head/linear.0/weight  trainable by rule 1 (only: head | blocks[-2:])",
        "classifier.bias  head/linear.0/bias  trainable by rule 1 (only: head | blocks[-2:])",
    ]


def test_a_unit_that_is_one_module_is_called_by_it(run, folder):
    found = json.loads(run("explain", "plan.yaml", "./nets.py:net", "--json", "-")[1])
    paths = {unit["label"]: unit["paths"] for unit in found["units"]}
    assert paths["blocks.0"] == ["a_language_model.encoder_layers.0"]
    assert paths["stem"] == [f"a_language_model.embeddings_of_{n}" for n in ("words", "positions")]


# Models in files ----------------------------------------------------------------------------


def test_a_file_is_imported_by_its_path(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for target in (f"{folder}/nets.py:net", f"{folder}/nets.py:net(depth=2)"):
        model, backend = load_model(target)
        assert (type(model).__name__, backend.name) == ("Net", "torch")
    assert len(model.a_language_model.encoder_layers) == 2


def test_a_file_finds_what_stands_beside_it_and_hides_nothing(monkeypatch, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "beside_it.py").write_text("from torch import nn\nwidth = 3\n")
    (tmp_path / "sub" / "json.py").write_text(
        "from beside_it import nn, width\ndef net(): return nn.Linear(width, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_model("sub/json.py:net")[0].in_features == 3
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("./netz.py:net", r"there is no file netz\.py(.|\n)*did you mean 'nets\.py'"),
        ("./nets.py:nett", "did you mean 'net'"),
        ("./nets.py", r"names no model(.|\n)*name a function in it: \./nets\.py:Block"),
        ("nets", r"names no model(.|\n)*\./nets\.py:Block"),
        ("./nets:net", r"there is no module(.|\n)*name the file: \./nets\.py:net"),
        ("sub/broken.py:net", "cannot be imported: ZeroDivisionError"),
        ("./nets.py:", "names no model"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(folder, monkeypatch, target, said):
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(TargetError, match=said):
        load_model(target)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("schema > /dev/full", 2, "Error: cannot write the result: No space left on device\n"),
        ("schema >&-", 2, "Error: standard output is closed\n"),
        ("schema | true", 141, ""),
        ("--help | true", 141, ""),
    ],
)
def test_an_output_that_takes_nothing_is_said_in_one_line(command, code, said):
    program = (
        f"{shlex.quote(sys.executable)} -W ignore -c 'from unifreeze._cli import main; main()'"
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} {command}"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (code, said)
