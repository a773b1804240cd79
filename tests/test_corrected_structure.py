"""Plans that say where stem, blocks and head are: every word follows, in both frameworks."""

from importlib import import_module

import numpy as np
import pytest

import unifreeze as uf
from tests.support.plan_text import SCHEMA
from unifreeze._evidence.record import prepare
from unifreeze._handle.resolved_phases import ResolvedPhases
from unifreeze._plan.structure import read_paths
from unifreeze._protocol import Batch, backend_for
from unifreeze.errors import (
    PlanError,
    PlanFileError,
    ScheduleError,
    SelectorRangeError,
    StructureError,
    UnmatchedSelectorError,
)

FRAMEWORKS = ("torch", "paddle")
BATCH = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")


def nets_in(framework):
    return import_module(f"tests.support.odd.{framework}_net")


@pytest.fixture
def nets(framework):
    return nets_in(framework)


def corrected(nets, selector="head", **more):
    """Return a plan that trains what a selector selects, of the structure that is meant."""
    plan = uf.FreezePlan().only(selector)
    return plan.with_structure(head=nets.HEAD, blocks=nets.BLOCKS, **more)


def for_both(selector):
    """Return the same plan with native paths for each framework."""
    nets = {name: nets_in(name) for name in FRAMEWORKS}
    return (
        uf.FreezePlan()
        .only(selector)
        .with_structure(
            head={name: module.HEAD for name, module in nets.items()},
            blocks={name: [module.BLOCKS] for name, module in nets.items()},
            stem={name: module.STEM for name, module in nets.items()},
        )
    )


def under(model, *paths):
    """Return the parameters below some modules."""
    names = backend_for(model).describe(model).tree.names
    return tuple(n for n in names if any(n.startswith(f"{path}.") for path in paths))


# What the words mean then ------------------------------------------------------------------


def test_the_words_follow_what_a_plan_says(nets):
    model = nets.Net()
    everything = under(model, *backend_for(model).describe(model).tree.paths[1:])
    head = under(model, nets.HEAD)
    blocks = [path for path in everything if path.startswith(nets.BLOCKS.partition("[")[0])]
    expected = {
        "head": head,
        "head & norm": under(model, f"{nets.HEAD}.norm", f"{nets.HEAD}.bn"),
        "classifier": under(model, f"{nets.HEAD}.out", f"{nets.HEAD}.last"),
        "backbone": tuple(path for path in everything if path not in head),
        "blocks": tuple(blocks),
        "blocks[0]": under(model, nets.FIRST_BLOCK),
        "layers[:25%]": under(model, nets.FIRST_BLOCK),
        "blocks[-1]": tuple(blocks[-6:]),
        "neck": under(model, nets.EXTRA),
        "stem": under(model, nets.STEM),
        'at:"unplaced/*"': under(model, nets.SCALE),
    }
    for selector, paths in expected.items():
        plan = corrected(nets, selector, stem=nets.STEM)
        assert plan.resolve(model).trainable_paths == paths, selector
        traced = plan.resolve(model, batch=BATCH)
        assert traced.trainable_paths == paths, selector
    derived = uf.FreezePlan().only("head").resolve(model)
    assert derived.trainable_paths != head


def test_embeddings_follow_the_stem(nets):
    model = nets.Net()
    plan = uf.FreezePlan().only("stem").with_structure(blocks=nets.BLOCKS)
    assert plan.resolve(model).trainable_paths == under(model, nets.SCALE, nets.STEM)
    stated = plan.with_structure(stem=nets.EXTRA)
    assert stated.resolve(model).trainable_paths == under(model, nets.EXTRA)


def test_a_part_alone_may_be_corrected(nets):
    model = nets.Net()
    plan = uf.FreezePlan().only("head").with_structure(head=f"{nets.HEAD}.*")
    assert plan.resolve(model).trainable_paths == under(model, nets.HEAD)
    spec = plan.resolve(model).spec
    assert [row for row in spec.units if row.label == "stem"] == []  # nothing is derived to be one


def test_blocks_of_several_runs_are_a_list(nets):
    model = nets.Two()
    texts = ["encoder.units[*]", "decoder.units[*]"]
    plan = uf.FreezePlan().only("decoder[-1]").with_structure(blocks=texts)
    assert plan.resolve(model).trainable_paths == under(model, "decoder.units.2")
    joined = plan.with_structure(blocks=" | ".join(texts))
    for selector, units in (("blocks[3:]", "12"), ("stages[1] - encoder.*", "012")):
        whole = uf.FreezePlan(structure=joined.structure).only(selector)
        expected = under(model, *(f"decoder.units.{number}" for number in units))
        assert whole.resolve(model).trainable_paths == expected


def test_a_part_of_a_model_is_read_with_what_is_said_of_it(nets):
    model = nets.Two()
    plan = (
        uf.FreezePlan()
        .only("blocks[0] in decoder")
        .with_structure(blocks=["decoder.units[1:]", "encoder.units[*]"])
    )
    assert plan.resolve(model).trainable_paths == under(model, "decoder.units.1")
    head = (
        uf.FreezePlan()
        .only("head in decoder")
        .with_structure(
            blocks=["decoder.units[*]", "encoder.units[*]"], head="decoder.norm | decoder.head"
        )
    )
    assert head.resolve(model).trainable_paths == under(model, "decoder.norm", "decoder.head")


def test_one_of_several_models_is_corrected_by_its_name(nets):
    models = {"student": nets.Net(), "teacher": nets.Net()}
    plan = (
        uf.FreezePlan()
        .freeze("all")
        .train("head in student")
        .with_structure(head=f"student.{nets.HEAD}", blocks=f"student.{nets.BLOCKS}")
    )
    trained = plan.resolve(models).trainable_paths
    assert trained == tuple(f"student.{path}" for path in under(models["student"], nets.HEAD))


def test_rates_by_depth_and_generators_count_the_stated_blocks(nets):
    model = nets.Net()
    stated = uf.FreezePlan(structure=corrected(nets).structure)
    plan = stated.train("all").with_group("all", layer_decay=0.5)
    resolution = plan.resolve(model)
    scales = dict(
        zip([r.path for r in resolution.spec.parameters], resolution.lr_scale, strict=True)
    )
    assert scales[under(model, nets.HEAD)[0]] == 1.0
    assert scales[under(model, nets.FIRST_BLOCK)[0]] == 0.5**4
    each = {"by": "blocks", "every": {"epochs": 1}}
    phases = stated.phase("down", gradual_unfreezing=each)
    assert (
        len(phases.expand(model).phases) == len(phases.phases) + 5
    )  # the head, 4 blocks, the stem
    assert phases.expand(model).structure == plan.structure


# In force, saved, compared -----------------------------------------------------------------


@pytest.mark.parametrize(
    "selector", ["head", "backbone", "blocks[-2:] | head", "stem", "norm & head"]
)
def test_parity_holds_with_paths_for_each_framework(selector):
    models = [nets_in(framework).Net() for framework in FRAMEWORKS]
    plan = for_both(selector)
    for order in ("registration", "execution"):
        report = uf.check_parity(plan, *models, batch=BATCH, order=order)
        assert report.holds, str(report)
    trained = [plan.resolve(model).trainable_names for model in models]
    assert trained[0] == trained[1]


def test_a_framework_without_a_path_is_refused(nets, framework):
    missing = {"torch": "paddle", "paddle": "torch"}[framework]
    plan = uf.FreezePlan().only("head").with_structure(head={missing: "head"})
    with pytest.raises(
        PlanError, match=rf"structure.head: has no path for '{framework}'"
    ) as caught:
        plan.resolve(nets.Net())
    assert caught.value.hint


def test_a_plan_in_force_keeps_to_its_structure(nets, framework):
    model = nets.Net()
    handle = corrected(nets).apply(model)
    assert handle.resolution.trainable_paths == under(model, nets.HEAD)
    model(_tensor(framework, BATCH))  # the first pass compares the orders
    assert handle.verify().unseen == ""
    handle.reapply()
    assert handle.resolution.trainable_paths == under(model, nets.HEAD)
    again = uf.FreezePlan().only("head").apply(model)
    derived = uf.FreezePlan().only("head").resolve(nets.Net())
    assert again.resolution.trainable_paths == derived.trainable_paths
    again = corrected(nets).apply(model)
    assert again.resolution.trainable_paths == under(model, nets.HEAD)
    again.remove()
    assert backend_for(model).describe(model).found.all()


def _tensor(framework, array):
    module = import_module(framework)
    return module.tensor(array) if framework == "torch" else module.to_tensor(array)


def test_phases_and_saved_states_keep_to_the_structure(nets, framework):
    phases = uf.FreezePlan(structure=corrected(nets).structure)
    phases = phases.phase("head", rules={"only": "head"})
    phases = phases.phase("top", at={"epoch": 1}, add={"train": "blocks[-1]"})
    model = nets.Net()
    handle = phases.apply(model)
    handle.optimizer(_sgd(framework), lr=0.1)
    handle.step(epoch=0)
    handle.step(epoch=1)
    trained = handle.resolution.trainable_paths
    assert len(trained) == len(under(model, nets.HEAD)) + 6
    state = handle.state_dict()
    other = nets.Net()
    resumed = phases.apply(other)
    resumed.optimizer(_sgd(framework), lr=0.1)
    resumed.load_state_dict(state)
    assert resumed.resolution.trainable_paths == trained
    derived = phases.with_structure(head=f"{nets.HEAD} | {nets.EXTRA}").apply(nets.Net())
    with pytest.raises(ScheduleError, match=r"is of another (plan|model)"):
        derived.load_state_dict(state)


def test_what_was_frozen_by_measurement_is_found_in_the_other_order(nets):
    model = nets.Net()
    describe = backend_for(model).describe
    phases = uf.FreezePlan(structure=corrected(nets).structure)
    phases = phases.phase("all", rules={"train": "all"})
    phases = phases.phase("less", at={"epoch": 1}, freeze_smallest={"share": 50})
    resolved = ResolvedPhases(phases, describe(model))
    names = corrected(nets).resolve(model).trainable_names
    resolved.measure({1: names})
    for spec in (describe(model), describe(model, Batch.of(BATCH))):
        assert resolved.decided(spec)[1].frozen_paths == under(model, nets.HEAD)


def test_both_orders_of_a_record_are_corrected(nets):
    model = nets.Net()
    for order in ("registration", "execution"):
        described = prepare(corrected(nets), model, backend_for(model), Batch.of(BATCH), order)
        assert {row.correction for row in (described[0], described[1].spec)} == {
            described[1].spec.correction
        }
        assert described[0].correction


def _sgd(framework):
    return import_module({"torch": "torch.optim", "paddle": "paddle.optimizer"}[framework]).SGD


def test_a_plan_is_saved_with_its_structure(nets, tmp_path):
    for plan in (
        corrected(nets),
        for_both("head"),
        corrected(nets).with_structure(stem=["a", "b"]),
    ):
        plan.save(tmp_path / "plan.yaml")
        assert uf.FreezePlan.load(tmp_path / "plan.yaml") == plan
        assert uf.FreezePlan.from_document(plan.document()) == plan
        assert plan.digest != uf.FreezePlan(plan.rules).digest
        assert plan.in_phases() == []
    assert "structure" in str(corrected(nets).resolve(nets.Net()))


def test_plans_with_other_structures_are_compared(nets):
    plans = {"derived": uf.FreezePlan().only("head"), "stated": corrected(nets)}
    trained = {}

    def train(model, handle):
        trained[len(trained)] = handle.resolution.trainable_paths

    uf.compare_plans(plans, nets.Net, train, lambda model: 1.0, progress=False)
    model = nets.Net()
    assert trained[0] != trained[1] == under(model, nets.HEAD)


def test_a_captured_plan_carries_the_structure_it_was_captured_with(nets):
    model = nets.Net()
    handle = corrected(nets).apply(model)
    structure = {"head": nets.HEAD, "blocks": nets.BLOCKS}
    captured = uf.capture(model, structure=structure)
    assert str(captured.plan.rules[0]) == "only: head"
    assert captured.plan.document()["structure"] == {"blocks": nets.BLOCKS, "head": nets.HEAD}
    assert uf.FreezePlan.from_yaml(str(captured)) == captured.plan
    handle.remove()
    fresh = nets.Net()
    assert captured.plan.resolve(fresh).trainable_paths == under(fresh, nets.HEAD)
    handle = corrected(nets).apply(model)
    with_batch = uf.capture(model, structure=structure, batch=BATCH).plan
    handle.remove()
    for batch in (None, BATCH):
        for plan in (captured.plan, with_batch):
            assert plan.resolve(fresh, batch=batch).trainable_paths == under(fresh, nets.HEAD)
    bare = uf.FreezePlan(captured.plan.rules, captured=captured.plan.captured)
    with pytest.raises(uf.UnifreezeError, match="freezes something else here"):
        bare.resolve(fresh)
    assert captured.plan.with_structure(head=nets.EXTRA).captured is None


def test_a_translated_plan_carries_it_where_both_frameworks_have_paths():
    models = [nets_in(framework).Net() for framework in FRAMEWORKS]
    one, other = for_both(f'path:"{nets_in("torch").HEAD}"'), for_both("head")
    translated = uf.translate(one, *models, batch=BATCH).plan
    assert translated.structure == other.structure
    assert translated.resolve(models[1], batch=BATCH).trainable_paths == under(
        models[1], "tail.strange"
    )
    alone = corrected(nets_in("torch")).with_structure(
        head={"torch": "my.odd"}, blocks={"torch": "trunk.cells[*]"}
    )
    found = uf.translate(alone, *models, batch=BATCH)
    assert not found.plan.structure
    assert "structure" in str(found)
    assert found.plan.resolve(models[1], batch=BATCH).trainable_paths == under(
        models[1], "tail.strange"
    )


# What cannot be so -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "error", "message"),
    [
        (
            {"head": "my.od"},
            UnmatchedSelectorError,
            r"structure.head: 'my.od'(.|\n)*hint: .*my\.odd",
        ),
        (
            {"blocks": "trunk.cell[*]"},
            UnmatchedSelectorError,
            r"structure.blocks(.|\n)*trunk\.cells",
        ),
        ({"blocks": "trunk.cells[9]"}, SelectorRangeError, "structure.blocks(.|\n)*5 children"),
        (
            {"head": "my.odd.out.weight"},
            StructureError,
            "is a parameter(.|\n)*holds it: my.odd.out",
        ),
        ({"blocks": "trunk.cells"}, StructureError, r"list of 4 modules(.|\n)*trunk.cells\[\*\]"),
        ({"blocks": "enter"}, StructureError, "a single layer"),
        ({"blocks": "my.odd.norm"}, StructureError, "a single layer"),
        ({"blocks": "trunk.cells.2"}, StructureError, "no matrix or kernel"),
        (
            {"blocks": "trunk.cells[*] | trunk"},
            StructureError,
            "inside trunk, and blocks are apart",
        ),
        (
            {"blocks": ["trunk.cells[:2]", "trunk.cells[1:]"]},
            StructureError,
            "cells.1 is in two runs",
        ),
        (
            {"head": "trunk.cells.1.0", "blocks": "trunk.cells[*]"},
            StructureError,
            r"trunk.cells.1.0 is inside blocks\[1\]",
        ),
        ({"head": "trunk", "blocks": "trunk.cells[*]"}, StructureError, "trunk holds 4 blocks"),
        ({"stem": "trunk", "blocks": "trunk.cells[*]"}, StructureError, "trunk holds 4 blocks"),
        ({"head": "trunk.cells.2"}, StructureError, "no parameters in it"),
        ({"head": "my", "stem": "my.extra"}, StructureError, "in the stem and in the head"),
        ({"head": "my.odd", "stem": "my.odd"}, StructureError, "in the stem and in the head"),
    ],
)
def test_what_cannot_be_so_is_refused(structure, error, message):
    plan = uf.FreezePlan().train("all").with_structure(**structure)
    model = nets_in("torch").Net()
    with pytest.raises(error, match=message) as caught:
        plan.resolve(model)
    assert caught.value.hint
    assert str(caught.value).startswith("structure.")


def test_a_head_inside_a_block_that_was_derived_is_refused(nets):
    plan = uf.FreezePlan().only("head").with_structure(head="units.1.a")
    with pytest.raises(StructureError, match=r"units.1.a is inside blocks\[1\](.|\n)*say what the"):
        plan.resolve(nets.Stack())


IN_WORDS = ("is not a native path", "does not parse", "neither a whole number")
"""What only the reader of paths can see."""


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({}, "says nothing"),
        ({"neck": "my.extra"}, "unknown key 'neck'"),
        ({"heads": "my.odd"}, "did you mean 'head'"),
        ({"head": 3}, "should be a native path"),
        ({"head": None}, "should be a native path"),
        ({"head": []}, "should be a native path"),
        ({"head": {}}, "should be a native path"),
        ({"head": {"torch": 3}}, "should be a native path"),
        ({"head": ""}, "is empty"),
        ({"head": "my.odd & my"}, "is not a native path"),
        ({"head": 're:"my.*"'}, "is not a native path"),
        ({"head": "my odd"}, "does not parse"),
        ({"blocks": "trunk.cells[a]"}, "neither a whole number"),
        ([{"head": "my.odd"}], "should be a mapping"),
        ("my.odd", "should be a mapping"),
    ],
)
def test_a_plan_file_that_says_it_wrongly_is_refused(structure, message):
    document = {"unifreeze": 1, "structure": structure}
    with pytest.raises(PlanFileError, match=message):
        uf.FreezePlan.from_document(document)
    if message not in IN_WORDS:
        assert not SCHEMA.is_valid(document)


def test_editors_accept_what_the_loader_accepts(nets):
    for plan in (corrected(nets), for_both("head"), corrected(nets, stem=["a", "b[*].c | d"])):
        assert SCHEMA.is_valid(plan.document())


def test_paths_are_native_names_even_where_they_are_spelled_like_words():
    assert [str(path) for path in read_paths("head | blocks[*] | trunk.cells[1:]")] == [
        "head",
        "blocks[:]",
        "trunk.cells[1:]",
    ]


def test_a_module_called_like_a_word_can_be_stated(nets):
    model = nets.Stack()
    plan = uf.FreezePlan().only("head").with_structure(head="norm")
    assert plan.resolve(model).trainable_paths == under(model, "norm")
    neck = uf.FreezePlan().only("neck").with_structure(head="norm").resolve(model)
    assert neck.trainable_paths == under(model, "head")


def test_a_structure_decides_anew_for_a_model_that_was_described(nets):
    model = nets.Net()
    batch = Batch.of(BATCH)
    for described in (
        backend_for(model).describe(model),
        backend_for(model).describe(model, batch),
    ):
        assert described.corrected(described.correction) is described
    first, second = (corrected(nets).resolve(model) for _ in range(2))
    assert first is second
