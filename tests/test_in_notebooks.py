"""What a notebook shows: short text, tables that fold, plans as YAML, errors without our frames."""

import re
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unifreeze as uf
from tests.support.pages import HOSTILE, PHASES, hostile_model, read
from tests.support.public_names import public_classes
from tests.support.random_models import models
from tests.support.trees import conv_net, linear, module, spec, stack
from unifreeze._drawing.notebook import html_of
from unifreeze._drawing.notebook_table import LAYERS
from unifreeze._handle.history import History, run_report
from unifreeze._resolution import Resolution, resolve_spec
from unifreeze.errors import UnifreezeError

HEAD = uf.FreezePlan().only("head | blocks[-2:]")
OPTIMIZERS = {"torch": ("torch.optim", "SGD"), "paddle": ("paddle.optimizer", "SGD")}


def shown(value):
    return read(value._repr_html_())


def test_a_resolution_is_a_short_text_and_a_table_that_folds():
    resolution = resolve_spec(HEAD, spec(conv_net()))
    assert len(repr(resolution)) < 200
    table = shown(resolution)
    assert len(table.words()) < 6000
    outer = [e for e in table.all("details") if e not in _inner(table)]
    labels = [e.children[0].children[0].words().strip() for e in outer]
    assert labels == ["stem", "blocks.0 … blocks.5 (6)", "blocks.6 … blocks.7 (2)", "head"]
    assert not [e for e in table.all("details") if "open" in e.attributes]
    folded = " ".join(e.children[0].words() for e in outer)
    assert len(folded) < 400
    assert "41,792" in folded.split()


def _inner(table):
    return [inner for outer in table.all("details") for inner in outer.all("details")]


def test_every_layer_is_in_the_table_with_the_rule_that_decided():
    table = shown(resolve_spec(HEAD, spec(conv_net())))
    rows = [row.words() for row in table.all("div") if row.attributes.get("class") == "uf-row"]
    assert len(rows) == len([1 for owner in set(spec(conv_net()).tree.owners)])
    assert any(re.match(r"fc Linear trainable 330 rule 1", " ".join(row.split())) for row in rows)
    held = next(row for row in rows if row.startswith("bn1"))
    assert "BatchNorm2d, holds still" in " ".join(held.split())


@given(models(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_any_model_is_html_that_closes(root, seed):
    made = spec(root)
    mask = np.random.default_rng(seed).random(len(made)) < 0.5
    read(html_of(replace(Resolution.without_plan(made), trainable=mask)))


def test_a_model_of_many_layers_keeps_the_notebook_light():
    layers = stack(*(module("Block", a=linear(2, 2), b=linear(2, 2)) for _ in range(2000)))
    made = spec(module("Net", layers=layers, head=linear(2, 2)))
    html = html_of(resolve_spec(uf.FreezePlan().only("head"), made))
    assert html.count('class="uf-row"') < 2 * LAYERS + 2100
    assert "layers more: resolution.why(…)" in html


def test_a_plan_shows_as_yaml():
    assert shown(PHASES).words() == str(PHASES)
    assert shown(PHASES).all("pre")


def test_nothing_that_users_name_is_markup():
    resolution = resolve_spec(uf.FreezePlan().only("head"), hostile_model())
    plan = uf.FreezePlan().phase(HOSTILE, rules={"only": "head"})
    history = History()
    history.note(trainable=1, total=2, epoch=0, phase=HOSTILE)
    history.measured({HOSTILE: 1.0})
    for value in (resolution, plan, run_report(history)):
        page = shown(value)
        assert not page.all("script")
        assert not page.all("title") or HOSTILE not in page.all("title")[0].attributes
        assert "window.hurt=1" in page.words()


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_a_handle_shows_its_phase_and_what_is_new_in_it(kits, framework):
    kit = kits[framework]
    model = kit.plain.make()
    plan = uf.FreezePlan().phase("head", rules={"only": "head"})
    handle = plan.phase("all", at={"epoch": 1}, add={"train": "all"}).apply(model)
    module, name = OPTIMIZERS[framework]
    handle.optimizer(getattr(import_module(module), name), lr=0.1)
    assert "phase head, 1 of 2" in shown(handle).words()
    assert 'class="uf-n' not in re.sub("uf-num", "", handle._repr_html_())
    handle.step(epoch=1)
    assert "phase all, 2 of 2" in shown(handle).words()
    assert 'class="uf-n"' in handle._repr_html_()
    handle.remove()
    assert "no longer in force" in shown(handle).words()


def test_every_result_with_a_text_for_people_shows_itself():
    """A class that `print` shows in several lines has HTML for notebooks, too."""
    for kind in public_classes():
        is_text = issubclass(kind, BaseException | str)
        if "__str__" in vars(kind) and not is_text and kind.__name__ not in SHORT:
            assert hasattr(kind, "_repr_html_"), kind


SHORT = {
    "Selector", "Rule", "Verified", "Drift", "Finding", "ClauseResult", "At", "After", "When",
    "Side", "Setting", "Difference",
}  # fmt: skip
"""Results of one line, or parts of others."""


def test_long_results_fold_behind_their_first_line():
    class Long:
        def __str__(self):
            return "\n".join(["first <line>", *map(str, range(50))])

    page = read(html_of(Long()))
    (details,) = page.all("details")
    assert details.children[0].words() == "first <line>"
    assert "49" in details.words()


# Errors -------------------------------------------------------------------------------------

IN_IPYTHON = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="NoColor")
def cell(code):
    print("#", code.splitlines()[0])
    shell.run_cell(code, store_history=True)
cell("import unifreeze as uf")
cell("def outer():\\n    return uf.FreezePlan().freeze('a |')")
cell("outer()")
cell("%xmode Plain")
cell("outer()")
cell("%xmode Context")
cell("uf.FreezePlan.load(3)")
cell("uf.Handel")
"""


@pytest.fixture(scope="module")
def printed():
    """What IPython prints after each cell."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_IPYTHON], capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert not run.stderr, run.stderr
    return [part.partition("\n")[2] for part in run.stdout.split("# ")][1:]


def test_an_error_is_fact_context_hint_and_the_users_lines(printed):
    lines = printed[2].rstrip().splitlines()
    assert lines[0].startswith("Cell In[3], line 1:")
    assert lines[1] == "    outer()"
    assert lines[2].startswith("Cell In[2], line 2 in outer:")
    assert "SelectorSyntaxError" in lines[4]
    assert lines[-1] == "(full traceback: %xmode Plain, then %tb; short again: %xmode Context)"
    assert "unifreeze/_" not in printed[2]


def test_the_full_traceback_is_there_on_request(printed):
    assert "_plan/model.py" in printed[4]
    assert "full traceback:" not in printed[4]


@pytest.mark.parametrize(("cell", "text"), [(6, "hint: "), (7, "did you mean uf.Handle?")])
def test_every_kind_of_our_errors_is_short(printed, cell, text):
    assert text in printed[cell]
    assert len(printed[cell].splitlines()) <= 8
    assert "_arguments" not in printed[cell]


def test_without_ipython_the_traceback_is_whole():
    try:
        uf.FreezePlan().freeze("a |")
    except UnifreezeError as error:
        lines = error._render_traceback_()
    assert lines[0].startswith("Traceback")
    assert any("_plan/model.py" in line for line in lines)
