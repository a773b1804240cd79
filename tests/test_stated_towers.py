"""Plans that say which modules are a tower, where names and layers do not: the words follow."""

from __future__ import annotations

from importlib import import_module

import pytest

import unifreeze as uf
from tests.support.command_line import alone
from tests.support.plan_text import SCHEMA
from tests.support.tower_nets import batch_for, networks
from tests.test_towers import FRAMEWORKS, PARTS, names, odd, selected
from unifreeze.errors import ArgumentError, PlanFileError, StructureError, UnmatchedSelectorError

NETS = ("seeing", "merging", "hearing", "matching", "acting", "painting")


def renamed(net, framework):
    """A network whose names say nothing, with its plain names, and each tower's modules."""
    plain = getattr(networks(framework), net)()
    model = getattr(networks(framework, odd), net)()
    known = dict(zip(names(model), names(plain), strict=True))
    places = {
        word: " | ".join(".".join(map(odd, start.rstrip(".").split("."))) for start in starts)
        for word, starts in PARTS[net].items()
    }
    return model, known, places


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("net", NETS)
def test_words_for_towers_follow_what_a_plan_says(net, framework):
    model, known, places = renamed(net, framework)
    plan = uf.FreezePlan().with_structure(**places)
    for word, starts in PARTS[net].items():
        expected = {name for name in names(model) if known[name].startswith(starts)}
        for batch in (None, batch_for(net, framework)):
            found = plan.only(word).resolve(model, batch=batch)
            assert set(found.trainable_paths) == expected, word


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_stated_tower_holds_nothing_else(framework):
    model = networks(framework).seeing()
    assert selected(model, "projector") == {
        name for name in names(model) if name.startswith("multi_modal_projector.")
    }
    plan = uf.FreezePlan().with_structure(projector="multi_modal_projector.linear_2")
    trained = plan.only("projector").resolve(model).trainable_paths
    assert set(trained) == {f"multi_modal_projector.linear_2.{leaf}" for leaf in ("weight", "bias")}
    text = plan.with_structure(language="language_model").only("text").resolve(model)
    assert all(path.startswith("language_model.") for path in text.trainable_paths)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_of_nested_towers_the_inner_counts(framework):
    model, known, places = renamed("merging", framework)
    plan = uf.FreezePlan().with_structure(
        vision=odd("visual"), projector=f"{odd('visual')}.{odd('merger')}"
    )
    for word in ("vision", "projector"):
        expected = {name for name in names(model) if known[name].startswith(PARTS["merging"][word])}
        assert set(plan.only(word).resolve(model).trainable_paths) == expected
    assert plan.structure[0].name == "vision"
    assert places["text"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_blocks_in_a_stated_tower_are_those_that_the_plan_states(framework):
    model, known, places = renamed("seeing", framework)
    at = {plain: name for name, plain in known.items()}
    layers = at["language_model.layers.0.norm1.weight"].rpartition(".0.")[0]
    plan = uf.FreezePlan().with_structure(**places, blocks=f"{layers}[1:]")
    last = plan.only("blocks[0] in language").resolve(model).trainable_paths
    assert set(last) == {name for name in names(model) if name.startswith(f"{layers}.1.")}
    head = plan.only("head").resolve(model).trainable_paths
    assert {known[path] for path in head} == {"lm_head.weight", "lm_head.bias"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_first_pass_under_a_plan_keeps_to_stated_towers(framework):
    model, known, places = renamed("seeing", framework)
    plan = uf.FreezePlan().only("projector").with_structure(**places)
    handle = plan.apply(model)
    model(*batch_for("seeing", framework))
    trained = {known[path] for path in handle.resolution.trainable_paths}
    assert trained == {n for n in known.values() if n.startswith("multi_modal_projector.")}
    handle.remove()


def test_parity_holds_and_the_page_of_a_model_shows_it(tmp_path):
    models, structure = [], {}
    for framework in FRAMEWORKS:
        model, _, places = renamed("seeing", framework)
        models.append(model)
        for word, place in places.items():
            structure.setdefault(word, {})[framework] = place
    plan = uf.FreezePlan().only("projector | blocks[-1] in language").with_structure(**structure)
    for order in ("registration", "execution"):
        report = uf.check_parity(plan, *models, batch=batch_for("seeing", "torch"), order=order)
        assert report.holds, str(report)
    assert uf.FreezePlan.from_document(plan.document()) == plan
    SCHEMA.validate(plan.document())
    file = tmp_path / "plan.yaml"
    plan.save(file)
    assert uf.FreezePlan.load(file) == plan


def test_the_command_line_shows_towers_and_why(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "unifreeze: 1\nrules: [{only: projector}]\n"
        "structure: {projector: multi_modal_projector.linear_2}\n",
        encoding="utf-8",
    )
    (tmp_path / "nets.py").write_text(
        "from tests.support.tower_nets import networks\n\nmake = networks('torch').seeing\n",
        encoding="utf-8",
    )
    target = f"{tmp_path / 'nets.py'}:make"
    shown = alone("show", target, "--structure")
    assert "the tower that pictures enter" in shown.stdout, shown.stderr
    stated = alone("show", target, "--structure", "--plan", tmp_path / "plan.yaml")
    assert "the plan's structure says so" in stated.stdout


@pytest.mark.parametrize(
    ("structure", "error", "said"),
    [
        ({"vision": "nowhere"}, UnmatchedSelectorError, "structure.vision: 'nowhere' matches none"),
        (
            {"vision": "visual", "text": "visual | language_model"},
            StructureError,
            "structure.text: visual would be in two towers, the other of which is vision",
        ),
        (
            {"projector": "visual.merger.linear_1.weight"},
            UnmatchedSelectorError,
            "is a parameter, and not a module",
        ),
        ({"tower": "visual"}, PlanFileError, "tower"),
        ({"text": "visual", "language": "visual"}, PlanFileError, "the same tower"),
        ({"vision": 3}, ArgumentError, "3"),
    ],
    ids=["nowhere", "twice", "a parameter", "no word", "two words", "a number"],
)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_cannot_be_a_tower_is_refused(structure, error, said, framework):
    model = networks(framework).merging()
    with pytest.raises((error, uf.UnifreezeError)) as caught:
        uf.FreezePlan().only("vision").with_structure(**structure).resolve(model)
    assert said in str(caught.value)
    assert "hint:" in str(caught.value) or error is PlanFileError


def test_several_models_keep_their_stated_towers():
    model, known, places = renamed("seeing", "torch")
    models = {"student": model, "teacher": import_module("torch").nn.Linear(2, 2)}
    inside = {
        word: " | ".join(f"student.{path}" for path in place.split(" | "))
        for word, place in places.items()
    }
    plan = uf.FreezePlan().freeze("all").train("projector in student").with_structure(**inside)
    trained = plan.resolve(models).trainable_paths
    expected = {n for n in names(model) if known[n].startswith("multi_modal_projector.")}
    assert set(trained) == {f"student.{name}" for name in expected}
