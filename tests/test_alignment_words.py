"""Every sentence of an acceptance report has its Chinese, whichever check it comes from."""

import ast
import copy
import json
import re
from pathlib import Path

import pytest

import unifreeze as uf
from tests.support.chinese import half_width
from tests.support.pairs import small
from unifreeze._evidence.alignment import AlignmentReport, Task, compare_alignment_sides
from unifreeze._evidence.alignment.alignment_side import AlignmentSide
from unifreeze._evidence.alignment.finding_words import (
    SENTENCES,
    TERMS,
    in_chinese,
    is_sentence,
)
from unifreeze._evidence.alignment.measuring import measure_first, measure_second
from unifreeze._evidence.step_values import carried_values
from unifreeze._ports.pairing import Pairing
from unifreeze._ports.pairing.layer_settings import EFFECTS
from unifreeze._protocol import Batch, backend_for
from unifreeze.errors import PairingError, RecordError

ROOT = Path(__file__).resolve().parent.parent / "unifreeze"
SOURCES = {
    "_evidence/step_clauses.py": (),
    "_evidence/parity_clauses.py": (),
    "_evidence/moments.py": (),
    "_evidence/gaps.py": ("_measured",),
    "_evidence/alignment/layer_differences.py": (),
    "_evidence/alignment/likeliest_tokens.py": (),
    "_evidence/alignment/weight_lines.py": (),
    "_evidence/alignment/placed_pairing.py": (),
    "_evidence/step.py": ("_check_comparable", "check_step", "compare_sides"),
    "_ports/pairing/divergence.py": (),
    "_ports/pairing/certificate.py": ("__str__",),
    "_ports/pairing/sketch_pairing.py": ("pair_sketches",),
    "_ports/pairing/pairing.py": (
        "__str__",
        "_cut_lines",
        "_fused_lines",
        "_is_possible",
        "_is_one_to_one",
    ),
    "_ports/pairing/port_differences.py": (),
}
"""Files whose sentences reach a report, with functions in them whose sentences do not."""
KEYS = ("tokens of random weights",)
"""Texts that are keys, and no sentences."""


def texts(file, skipped):
    """Every string in a file's functions, in pieces where something is filled in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        and isinstance(node.body[0], ast.Expr)
    }
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.name in skipped:
            continue
        inner = {
            id(part)
            for node in ast.walk(function)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node
        }
        for node in ast.walk(function):
            if id(node) in docs or id(node) in inner:
                continue
            if isinstance(node, ast.JoinedStr):
                yield from (part.value for part in node.values if isinstance(part, ast.Constant))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


EVERY = sorted(
    {
        line.strip(" :(),")
        for name, skipped in SOURCES.items()
        for text in texts(ROOT / name, skipped)
        for line in text.split("\n")
        if is_sentence(line.strip(" :(),")) and text not in KEYS
    }
)


def test_the_search_finds_sentences():
    assert len(EVERY) > 60
    assert "is trainable and has no gradient" in EVERY


@pytest.mark.parametrize("text", EVERY)
def test_a_sentence_of_a_check_is_in_the_table_of_translations(text):
    assert any(text in known for known in (*SENTENCES, *TERMS))


@pytest.mark.parametrize("effect", EFFECTS.values())
def test_an_effect_of_a_setting_has_its_chinese(effect):
    assert not is_english(in_chinese(effect))


def is_english(text):
    """Whether a text has an English sentence that is not translated."""
    return "英文原文" in text or is_sentence(re.sub(r"`[^`]*`", "", text))


@pytest.fixture(scope="module")
def sides():
    """Both sides of a correct port as plain data, and their pairing."""
    one, other = small.torch_image(), small.paddle_image()
    batch = ["float32[4,3,9,9]"]
    pairing = uf.pair(one, other, batch=batch)
    backends = backend_for(one), backend_for(other)
    task = Task(uf.FreezePlan().freeze("blocks[0]"), pairing, steps=1)
    inputs = Batch.of(batch)
    first = measure_first(task, one, backends[0], inputs)
    values = carried_values(pairing, backends, one, other)
    second = measure_second(task, other, backends[1], inputs, first, values)
    return [json.loads(side.model_dump_json()) for side in (first, second)], pairing


def report(sides, pairing, spoil, refusal=""):
    first, second = copy.deepcopy(sides)
    known = json.loads(pairing.model_dump_json())
    spoil(first, second, known)
    one = AlignmentSide(**first)
    other = AlignmentSide(**(second | {"like": one.digest}))
    return compare_alignment_sides(one, other, Pairing(**known), refusal=refusal)


def scaled(sketch):
    return [sketch[0] * 2, [n * -3 for n in sketch[1]], *sketch[2:]]


def spoil_sketches(first, second, known):
    for check in ("own", "double"):
        for run in ("run", "moved"):
            rows = second[check][run]
            if rows:
                rows["gradients"] = {k: scaled(v) for k, v in rows["gradients"].items()}
                for name, updates in rows["updates"].items():
                    rows["updates"][name] = {k: scaled(v) for k, v in updates.items()}
                rows["changed"] = [["first.weight", "sgd"]]
    for run in ("plain", "moved"):
        for row in second[run]["layers"]:
            row["sketch"] = scaled(row["sketch"])


def spoil_gradients(first, second, known):
    for side in (first, second):
        rows = side["double"]["run"]["gradients"]
        name = next(iter(rows))
        del rows[name]
        for row in rows.values():
            row[0] = float("nan") if side is second else row[0]


def spoil_weak(first, second, known):
    for side in (first, second):
        rows = side["double"]["run"]["gradients"]
        for name in list(rows)[:4]:
            rows[name] = [1e-30, [0.0] * len(rows[name][1]), *rows[name][2:]]


def spoil_noise(first, second, known):
    for side in (first, second):
        rows = side["own"]["moved"]["gradients"]
        for name in rows:
            rows[name] = scaled(rows[name])


def spoil_record(first, second, known):
    record = second["record"]
    for row in record["parameters"][:6]:
        row["trainable"] = not row["trainable"]
        row["ambiguous"] = True
    record["parameters"][6] |= {"rule": 3}
    record["parameters"][7] |= {"lr_scale": 2.0}
    record["parameters"][8] |= {"weight_decay": 0.5}
    record["parameters"][9] |= {"name": "nowhere", "reached": False}
    record["parameters"][10] |= {"name": record["parameters"][11]["name"]}
    record["parameters"][12] |= {"neutral_shape": [7, 7], "oriented": True, "by_execution": False}
    record["order"] = "execution"
    record["outputs"] = {"other": [4, 7], "more": [1]}
    for state in record["states"]:
        state["held"] = True
    for run in record["runs"]:
        run["live"] = ["dropout"]
        paths = list(run["after"])
        run["after"] = {path: run["before"][path] for path in paths}
        run["gradients"] |= {paths[0]: None, paths[1]: "nan", paths[2]: None}
        run["flags"].pop(next(iter(run["flags"])))
    for run in first["record"]["runs"]:
        run["after"] = {path: "moved" for path in run["after"]}
        run["gradients"] = {path: 1e-30 for path in run["gradients"]}


def spoil_settings(first, second, known):
    values = {"epsilon": 0.5, "statistics momentum": 0.3, "padding_mode": "reflect"}
    for check in ("own", "double"):
        for row in second[check]["layers"]:
            row[1] |= {name: values[name] for name in values.keys() & row[1].keys()}
        second[check]["layers"].append(["lost", {"layer": "dropout", "dropout": 0.5}])


def spoil_pairing(first, second, known):
    reasons = [
        "its module never ran on this batch",
        "nothing there has an equal gradient",
        "held once here, and twice there: a.b and c.d",
        "2 there have an equal gradient, interchangeable here: a.b, c.d",
    ]
    known["left"] = [{"side": n % 2, "path": "a.b", "reason": r} for n, r in enumerate(reasons)]
    row = known["pairs"][0]
    known["zeros"] = [{"one": row["one"], "other": row["other"], "row": 0, "side": 1}]
    known["certificate"]["cut"] = [[row["one"], 0]]
    first["filled_rows"] = [[row["one"], 0]]


def spoil_runs(first, second, known):
    text = "TargetError: the model does not run on this batch because of a shape", "  hint: no idea"
    second["failures"] = {"losses": text, "large": text, "double": text, "record": text}
    second["losses"] = None
    tokens = [[n, n + 1] for n in range(3)]
    for side, shift in ((first, 0), (second, 1)):
        side["tokens"] = {
            "tokens": [[a + shift for a in row] for row in tokens],
            "leads": [[0.5, 0.5]] * 3,
            "stopped": "RuntimeError with 41 tokens",
        }


def spoil_weights(first, second, known):
    details = (
        "first.weight: differs by 1.0e-01",
        "out.weight: is the transpose of the first model's",
        "out.bias: shape [3], and [4] carried over",
    )
    second["held"][-1] |= {"key": "some differ", "verdict": "BROKEN", "details": details}


SPOILS = [value for name, value in list(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_a_chinese_report_has_no_english_sentence(sides, spoil):
    made = report(*sides, spoil)
    assert not made.holds or spoil in (spoil_weak, spoil_noise)
    page = made.to_markdown("zh")
    lines = [line for line in page.splitlines() if is_sentence(re.sub(r"`[^`]*`", "", line))]
    assert not lines
    assert not half_width(page)
    marked = {line for line in page.splitlines() if "英文原文" in line}
    assert bool(marked) == (spoil is spoil_runs), marked


def test_an_unspoilt_report_holds_and_is_all_chinese(sides):
    made = report(*sides, lambda *_: None)
    assert made.holds, str(made)
    page = made.to_markdown("zh")
    assert not [line for line in page.splitlines() if is_english(line)]
    assert not half_width(page)


def test_two_precisions_are_a_line_in_both_languages(sides):
    def spoil(first, *_):
        first["plain"]["dtype"] = "bfloat16"

    made = report(*sides, spoil)
    assert "the first model computes in bfloat16" in made.to_markdown()
    assert "参考模型以 bfloat16 计算" in made.to_markdown("zh")


BROKEN_FILES = {
    "section": lambda data: data["lines"][0].update(section="pairings"),
    "sentence": lambda data: data["lines"][0].update(key="pairs"),
    "facts": lambda data: data["lines"][0].update(facts={}),
    "source": lambda data: data["lines"][0].update(source="hearsay"),
    "plan": lambda data: data.update(plan={"unifreeze": 1, "rules": [["x"]]}),
    "curves": lambda data: data["curves"]["one"].append(1.0),
    "loss": lambda data: data["curves"].update(kind="none"),
}


@pytest.mark.parametrize("spoil", BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_report_that_could_not_be_written_out_is_refused_when_it_is_read(sides, spoil, tmp_path):
    data = report(*sides, lambda *_: None).to_json()
    file = tmp_path / "report.json"
    file.write_text(json.dumps(data))
    assert AlignmentReport.load(file).holds
    spoil(data)
    file.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=r"report\.json"):
        AlignmentReport.load(file)


def test_a_refusal_is_chinese(sides):
    from tests.support.porting_errors import models

    one, other, batch = models("ERNIE")
    for layer in other.ernie.encoder.layers:
        layer.normalize_before = True
    with pytest.raises(PairingError) as refused:
        uf.pair(one, other, batch=batch)
    for line in str(refused.value).splitlines():
        assert not is_english(in_chinese(line)), line
