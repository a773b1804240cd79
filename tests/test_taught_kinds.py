"""Layers that no table knows, taught by calls and by entry points, in both frameworks."""

import sys
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import unifreeze as uf
from unifreeze._modules import taught_kinds
from unifreeze._protocol import Batch, backend_for
from unifreeze.errors import KindError

FRAMEWORKS = ("torch", "paddle")
BATCH = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")


@pytest.fixture(autouse=True)
def nothing_taught(monkeypatch):
    """Begin with nothing taught, and forget it after."""
    monkeypatch.setattr(taught_kinds, "_LESSONS", taught_kinds._Lessons())


def nets_in(framework):
    return import_module(f"tests.support.taught.{framework}_net")


@pytest.fixture
def nets(framework):
    return nets_in(framework)


def teach(nets):
    """Teach all the layers of a framework's network."""
    uf.teach_kind(nets.LINEAR, "linear", matrix=nets.WAY, roles=nets.ROLES[nets.LINEAR])
    uf.teach_kind(nets.NORM, "norm", roles=nets.ROLES[nets.NORM])
    uf.teach_kind(nets.DROPOUT, "dropout")


def describe(model, batch=None):
    return backend_for(model).describe(model, None if batch is None else Batch.of(batch))


def rows(model):
    return {row.path: row for row in describe(model).parameters}


# What a lesson does ------------------------------------------------------------------------


def test_both_ports_have_the_same_names_once_they_are_taught():
    names = []
    for framework in FRAMEWORKS:
        nets = nets_in(framework)
        model = nets.Net()
        untaught = describe(model, BATCH)
        assert {row.kind for row in untaught.parameters} == {"param"}
        teach(nets)
        spec = describe(model, BATCH)
        assert [len(run.blocks) for run in spec.runs] == [3]
        reached = [row for row in spec.parameters if not row.path.startswith("idle")]
        names.append(
            [
                sorted((row.name, row.neutral_shape, row.kind) for row in reached),
                sorted(spec.state_name(state) for state in spec.states),
            ]
        )
    assert names[0] == names[1]
    assert ("blocks.2/linear.1/weight", (8, 16), "linear") in names[0][0]
    assert names[0][1][:2] == ["blocks.0/norm.0/mean", "blocks.0/norm.0/var"]


def test_a_model_that_was_described_before_is_described_anew(nets):
    model = nets.Net()
    assert {row.kind for row in describe(model).parameters} == {"param"}
    teach(nets)
    assert {row.kind for row in describe(model).parameters} == {"linear", "norm"}


def test_a_lesson_about_another_class_changes_no_description(nets):
    model = nets.Net()
    teach(nets)
    before = describe(model).tree
    uf.teach_kind(nets.Layer, "conv")
    assert describe(model).tree is before


@pytest.mark.parametrize("selector", ["head", "blocks[-1]", "norm", "linear", "bias", "weight"])
def test_a_plan_of_words_holds_in_both_ports(selector):
    models = []
    for framework in FRAMEWORKS:
        teach(nets_in(framework))
        models.append(nets_in(framework).Net())
        del models[-1].idle
    plan = uf.FreezePlan().only(selector)
    report = uf.check_parity(plan, *models, batch=BATCH, order="execution")
    assert report.holds, str(report)


def test_ports_are_paired_and_carried_over_turned_where_they_differ():
    for framework in FRAMEWORKS:
        teach(nets_in(framework))
    one, other = (nets_in(framework).Net() for framework in FRAMEWORKS)
    pairing = uf.pair(one, other, batch=BATCH)
    turned = {row.one: row.transposed for row in pairing.pairs}
    assert all(turned[path] == path.endswith("matrix") for path in turned)
    assert turned["idle.matrix"]  # square, and never run: only the lessons say it
    uf.port_weights(one, other, pairing=pairing)
    want, have = one.idle.matrix.detach().numpy(), other.idle.kernel.numpy()
    assert np.array_equal(want, have.T)
    assert not np.array_equal(want, have)


THERE = ("1.sphere.s", "2.contract.kernel", "2.contract.offset")
"""What the plan of the next test trains in the other port."""


def test_a_plan_is_translated_between_taught_ports():
    models = []
    for framework in FRAMEWORKS:
        teach(nets_in(framework))
        models.append(nets_in(framework).Net())
        del models[-1].idle
    plan = uf.FreezePlan().only("cells.2.down | cells.1.norm")
    translated = uf.translate(plan, *models, batch=BATCH).plan
    trained = translated.resolve(models[1], batch=BATCH).trainable_paths
    assert set(trained) == {
        "units.1.sphere.s",
        "units.2.contract.kernel",
        "units.2.contract.offset",
    }


@pytest.mark.parametrize("ways", [("in x out", "in x out"), ("out x in", "out x in")])
def test_what_is_taught_decides_where_nothing_else_can(ways):
    for framework, way in zip(FRAMEWORKS, ways, strict=True):
        uf.teach_kind(nets_in(framework).LINEAR, "linear", matrix=way)
    settings = []
    for framework in FRAMEWORKS:
        model = nets_in(framework).Net()
        settings.append(backend_for(model).layer_settings(model)["idle"])
    assert [row["stored"] for row in settings] == list(ways)


def test_statistics_of_a_taught_norm_hold_still_with_it(nets, framework):
    teach(nets)
    model = nets.Net()
    handle = uf.FreezePlan().only("head").apply(model, batch=BATCH)
    held = {path for path in describe(model).tree.paths if path.endswith(("norm", "sphere"))}
    spec = handle.resolution.spec
    assert {spec.tree.paths[number] for number in handle.resolution.held} == held
    before = _statistics(model)
    model.train()
    model(_tensor(framework, BATCH))
    assert _statistics(model) == before
    handle.verify()
    handle.remove()
    model(_tensor(framework, BATCH))
    assert _statistics(model) != before


def _statistics(model):
    names = ("ema_mean", "ema_var", "mu", "sigma2")
    buffers = model.named_buffers()
    return [tensor.numpy().tobytes() for name, tensor in buffers if name.endswith(names)]


def _tensor(framework, array):
    module = import_module(framework)
    return module.tensor(array) if framework == "torch" else module.to_tensor(array)


def test_a_taught_dropout_is_off_where_the_plan_says_so(nets):
    teach(nets)
    model = nets.Net()
    plan = uf.FreezePlan().only("head").with_dropout("off")
    report = uf.check_parity(plan, model, nets.Net(), batch=BATCH, order="execution")
    assert report.holds, str(report)
    kinds = describe(model).placement.kinds
    quiet = plan.resolve(model, batch=BATCH).quiet
    assert len([number for number in quiet if kinds[number] == "dropout"]) == 3


def test_statistics_among_the_parameters_are_state_once_they_are_taught():
    roles = {"mean": "mean", "spread": "var", "g": "weight"}
    for framework in FRAMEWORKS:
        uf.teach_kind(nets_in(framework).Average, "norm", roles=roles)
    models = [nets_in(framework).averaged() for framework in FRAMEWORKS]
    for model in models:
        spec = describe(model)
        assert [row.path for row in spec.parameters if row.path.startswith("1.")] == ["1.g"]
        assert [(s.path, s.role, s.moves) for s in spec.states] == [
            ("1.mean", "mean", True),
            ("1.spread", "var", True),
        ]
        handle = uf.FreezePlan().only("head").apply(model)
        assert handle.resolution.held == (2,)
        handle.verify()
        handle.remove()
    for selector in ("head", "norm | head", "all"):
        plan = uf.FreezePlan().only(selector) if selector != "all" else uf.FreezePlan().train("all")
        report = uf.check_parity(plan, *models, batch=BATCH)
        assert report.holds, str(report)
    pairing = uf.pair(*models, batch=BATCH)
    assert ("1.spread", "1.spread") in {(row.one, row.other) for row in pairing.pairs}


# Each kind, and each way to name it --------------------------------------------------------

TENSORS = {
    "linear": {"w": (3, 5), "b": (5,)},
    "rnn": {"weight_ih": (3, 5), "bias_ih": (5,)},
    "embedding": {"rows": (7, 3)},
    "conv": {"kernel": (4, 3, 3, 3)},
    "norm": {"gamma": (3,)},
    "activation": {"slope": (3,)},
}


@pytest.mark.parametrize("kind", TENSORS)
def test_every_kind_can_be_taught(nets, kind):
    uf.teach_kind(nets.Layer, kind)
    model = nets.net_of(odd=nets.Layer(**TENSORS[kind]), inner=nets.Derived(**TENSORS[kind]))
    spec = describe(model)
    assert {row.kind for row in spec.parameters if row.path[:4] in ("odd.", "inne")} == {kind}
    words = {"norm", "conv", "linear", "embedding"}
    if kind in words:
        plan = uf.FreezePlan().freeze(f"{kind} - head")
        assert sorted(plan.resolve(model).frozen_paths) == sorted(
            row.path for row in spec.parameters if not row.path.startswith("head")
        )


@pytest.mark.parametrize("kind", ["linear", "embedding", "conv"])
def test_the_only_large_tensor_of_a_layer_is_its_weight(nets, kind):
    uf.teach_kind(nets.Layer, kind)
    (row, *_) = describe(nets.net_of(odd=nets.Layer(**TENSORS[kind]))).parameters
    assert row.role == "weight"
    assert row.path == f"odd.{next(iter(TENSORS[kind]))}"


def test_of_two_large_tensors_each_keeps_its_name(nets):
    uf.teach_kind(nets.Layer, "linear", matrix="in x out")
    model = nets.net_of(odd=nets.Layer(down=(5, 2), up=(2, 3), b=(1, 3)))
    found = {row.path: (row.role, row.neutral_shape) for row in describe(model).parameters}
    assert found["odd.down"] == ("down", (2, 5))
    assert found["odd.up"] == ("up", (3, 2))
    uf.teach_kind(nets.Layer, "linear", matrix="in x out", roles={"b": "bias"}, replace=True)
    assert rows(model)["odd.b"].neutral_shape == (1, 3)


@pytest.mark.parametrize(("way", "shape"), [("in x out", (5, 3)), ("out x in", (3, 5))])
def test_a_layer_derived_from_the_frameworks_own_can_be_taught(nets, way, shape):
    model = nets.net_of(odd=nets.Dense(3, 5))
    uf.teach_kind(nets.Dense, "linear", matrix=way)
    row = rows(model)["odd.weight"]
    stored = (5, 3) if nets.WAY == "in x out" else (3, 5)  # as torch and Paddle store them
    assert row.shape == stored
    turned = stored[::-1] if way == "in x out" else stored
    assert row.neutral_shape == turned
    assert row.neutral_shape == (shape if stored == (3, 5) else shape[::-1])


def test_without_a_matrix_sizes_that_a_layer_declares_tell_how_it_is_stored(nets):
    uf.teach_kind(nets.Layer, "linear")
    layer = nets.Layer(w=(3, 5))
    assert not _tensor_row(nets.net_of(odd=layer)).oriented
    layer.in_features, layer.out_features = 3, 5
    row = _tensor_row(nets.net_of(odd=layer))
    assert (row.oriented, row.neutral) == (True, (5, 3))


def _tensor_row(model):
    return describe(model).tensors[0]


def test_the_nearest_class_that_was_taught_counts(nets):
    uf.teach_kind(nets.Layer, "norm")
    uf.teach_kind(nets.Derived, "embedding")
    model = nets.net_of(a=nets.Layer(w=(3,)), b=nets.Derived(w=(4, 3)))
    assert [row.kind for row in describe(model).parameters][:2] == ["norm", "embedding"]


# Names and entry points --------------------------------------------------------------------


@pytest.fixture
def library(nets, monkeypatch):
    """A library that defines its layer in one module, and offers it in another."""
    inner, outer = ModuleType("odd_library.impl"), ModuleType("odd_library")
    made = type("OddLayer", (nets.Layer,), {"__module__": "odd_library.impl"})
    inner.OddLayer = outer.OddLayer = made
    outer.helper, outer.__path__ = print, []
    monkeypatch.setitem(sys.modules, "odd_library.impl", inner)
    monkeypatch.setitem(sys.modules, "odd_library", outer)
    return made


def kind_of(nets, layer):
    return describe(nets.net_of(odd=layer)).parameters[0].kind


def test_a_class_is_taught_under_any_name_it_has(nets, library):
    uf.teach_kind("odd_library.OddLayer", "norm")
    assert kind_of(nets, library(w=(3,))) == "norm"


def test_a_class_is_taught_before_its_library_is_imported(nets, library, monkeypatch):
    packages = {name: sys.modules.pop(name) for name in ("odd_library", "odd_library.impl")}
    uf.teach_kind("odd_library.OddLayer", "norm")
    sys.modules.update(packages)
    assert kind_of(nets, library(w=(3,))) == "norm"


def test_a_class_that_there_is_not_is_refused_once_its_library_is_there(nets, library):
    with pytest.raises(KindError, match=r"no class OddLayr(.|\n)*odd_library.OddLayer\?"):
        uf.teach_kind("odd_library.OddLayr", "norm")
    with pytest.raises(KindError, match="not a class of layers"):
        uf.teach_kind("odd_library.helper", "norm")
    packages = {name: sys.modules.pop(name) for name in ("odd_library", "odd_library.impl")}
    uf.teach_kind("odd_library.wrong.OddLayer", "norm")
    sys.modules.update(packages)
    with pytest.raises(KindError, match="odd_library has no class wrong"):
        kind_of(nets, library(w=(3,)))


@pytest.fixture
def declare(monkeypatch):
    """Return what lets a package declare an entry point of kinds."""
    declared = []

    def declare(data, name="odd_library", number=0):
        module = ModuleType(f"odd_kinds_{number}")
        module.KINDS = data
        monkeypatch.setitem(sys.modules, module.__name__, module)
        value = f"{module.__name__}:KINDS"
        declared.append(EntryPoint(name, value, taught_kinds.ENTRY_POINTS))

    monkeypatch.setattr(taught_kinds, "_entries", lambda: tuple(declared))
    return declare


LESSON = {"kind": "linear", "matrix": "in x out", "roles": {"b": "bias"}}


def test_a_library_teaches_its_layers_by_an_entry_point(nets, library, declare):
    declare({"odd_library.OddLayer": LESSON})
    found = rows(nets.net_of(odd=library(w=(3, 5), b=(5,))))
    assert found["odd.w"].neutral_shape == (5, 3)
    assert (found["odd.w"].role, found["odd.b"].role) == ("weight", "bias")


def test_an_installed_package_teaches_its_layers(nets, framework, tmp_path, monkeypatch):
    info = tmp_path / "real_library-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: real-library\nVersion: 1.0\n")
    entry = "[unifreeze.kinds]\nreal_library = real_library.freezing:KINDS\n"
    (info / "entry_points.txt").write_text(entry)
    package = tmp_path / "real_library"
    package.mkdir()
    layer = (
        f"from tests.support.taught.{framework}_net import Layer\n\nclass Odd(Layer):\n    pass\n"
    )
    (package / "__init__.py").write_text(layer)
    lesson = {"real_library.Odd": LESSON}
    (package / "freezing.py").write_text(f"KINDS = {lesson}\n")
    monkeypatch.syspath_prepend(tmp_path)
    taught_kinds._entries.cache_clear()
    try:
        odd = import_module("real_library").Odd
        assert rows(nets.net_of(odd=odd(w=(3, 5))))["odd.w"].neutral_shape == (5, 3)
    finally:
        taught_kinds._entries.cache_clear()
        for name in ("real_library", "real_library.freezing"):
            sys.modules.pop(name, None)


def test_an_entry_is_not_loaded_for_other_libraries(nets, library, declare):
    declare(None, name="another_library")
    assert kind_of(nets, library(w=(3,))) == "param"


def test_a_call_holds_against_an_entry_point(nets, library, declare):
    declare({"odd_library.OddLayer": LESSON})
    uf.teach_kind(library, "norm")
    assert kind_of(nets, library(w=(3,))) == "norm"
    model = nets.net_of(odd=library(w=(3, 5)))
    uf.teach_kind(library, "embedding", replace=True)
    assert describe(model).parameters[0].kind == "embedding"


def test_entry_points_that_contradict_each_other_are_refused(nets, library, declare):
    declare({"odd_library.OddLayer": LESSON})
    declare({"odd_library.OddLayer": {"kind": "norm"}}, number=1)
    with pytest.raises(KindError, match=r"taught otherwise(.|\n)*odd_kinds_0(.|\n)*odd_kinds_1"):
        kind_of(nets, library(w=(3, 5)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "should be a mapping from classes"),
        ({"odd_library.OddLayer": "linear"}, "'linear' is not a lesson"),
        ({"odd_library.OddLayer": {"kinds": "linear"}}, "did you mean 'kind'"),
        ({"odd_library.OddLayer": {}}, "kind None is not known"),
        ({"other.OddLayer": LESSON}, "teaches other.OddLayer"),
        ({"OddLayer": LESSON}, "not the dotted name of a class"),
        ({3: LESSON}, "not the dotted name of a class"),
        ({"odd_library.OddLayer": {**LESSON, "roles": ["b"]}}, "should be a mapping from names"),
        ({"odd_library.OddLayer": {**LESSON, "matrix": 3}}, "matrix 3 is not known"),
    ],
)
def test_an_entry_point_that_holds_something_else_is_refused(nets, library, declare, data, message):
    declare(data)
    for _ in range(2):  # the second model is refused like the first
        with pytest.raises(KindError, match=message) as caught:
            kind_of(nets, library(w=(3, 5)))
        assert caught.value.hint


def test_an_entry_point_that_cannot_be_loaded_is_named(nets, library, declare, monkeypatch):
    declare({})
    monkeypatch.delitem(sys.modules, "odd_kinds_0")
    with pytest.raises(KindError, match=r"odd_kinds_0:KINDS(.|\n)*ModuleNotFoundError"):
        kind_of(nets, library(w=(3, 5)))


# Lessons that cannot be right --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "norm", "matrix": "in x out"}, "the matrix of norm layers cannot be taught"),
        ({"kind": "embedding", "matrix": "in x out"}, "tables hold a row for each index"),
        ({"kind": "dropout", "roles": {"p": "weight"}}, "hold no tensors"),
        ({"kind": "linear", "roles": {"b": "mean"}}, "known: weight, bias"),
        ({"kind": "linear", "roles": {"b": "bais"}}, "did you mean 'bias'"),
        ({"kind": "linear", "roles": {"a": "bias", "b": "bias"}}, "a and b are both taught"),
        ({"kind": "linear", "roles": {"a.b": "bias"}}, "not the name of a tensor"),
    ],
)
def test_a_lesson_that_makes_no_sense_is_refused(nets, arguments, message):
    with pytest.raises(KindError, match=message) as caught:
        uf.teach_kind(nets.Layer, **arguments)
    assert caught.value.hint


def test_what_is_not_a_class_of_layers_is_refused(nets):
    for layer in (dict, int, np.ndarray):
        with pytest.raises(KindError, match="derives from no framework's class"):
            uf.teach_kind(layer, "norm")
    for name in ("", "MLPLayer", "a..b", "a.b c", "a/b.c"):
        with pytest.raises(KindError, match="dotted name of a class"):
            uf.teach_kind(name, "norm")


def test_contradicting_calls_are_refused_unless_one_replaces_the_other(nets):
    uf.teach_kind(nets.Layer, "norm")
    uf.teach_kind(nets.Layer, "norm")
    with pytest.raises(KindError, match=r"taught otherwise before(.|\n)*replace=True"):
        uf.teach_kind(nets.Layer, "conv")
    uf.teach_kind(nets.Layer, "conv", replace=True)
    assert kind_of(nets, nets.Layer(w=(2, 3, 3))) == "conv"


def test_a_layer_of_the_framework_itself_is_not_taught_otherwise(nets):
    known = nets.Dense.__mro__[1]
    uf.teach_kind(known, "norm")
    with pytest.raises(KindError, match="was taught, and it is known: linear"):
        describe(nets.net_of())


@pytest.mark.parametrize(
    ("arguments", "shapes", "message"),
    [
        ({"matrix": "in x out"}, {"w": (3,)}, "no matrix of two axes"),
        ({"matrix": "in x out"}, {"w": (2, 3, 4)}, "no matrix of two axes"),
        ({"roles": {"kernel": "weight"}}, {"w": (3, 5)}, "no 'kernel' in it(.|\n)*w \\[3, 5\\]"),
    ],
)
def test_a_layer_that_is_not_as_it_was_taught_is_refused(nets, arguments, shapes, message):
    uf.teach_kind(nets.Layer, "linear", **arguments)
    with pytest.raises(KindError, match=message):
        describe(nets.net_of(odd=nets.Layer(**shapes)))


def test_a_layer_may_lack_its_bias(nets):
    uf.teach_kind(nets.Layer, "linear", matrix="in x out", roles={"b": "bias"})
    assert rows(nets.net_of(odd=nets.Layer(w=(3, 5))))["odd.w"].neutral_shape == (5, 3)


def test_the_page_of_the_language_names_the_entry_points():
    page = Path(__file__).resolve().parent.parent / "docs" / "en" / "plan-language.md"
    assert f'"{taught_kinds.ENTRY_POINTS}"' in page.read_text("utf-8")


def test_a_class_that_no_module_holds_any_more_is_taught_by_itself(nets):
    made = type("Gone", (nets.Layer,), {"__module__": "tests.support.taught"})
    uf.teach_kind(made, "norm")
    assert kind_of(nets, made(w=(3,))) == "norm"
