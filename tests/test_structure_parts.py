"""A submodule read as a whole, several models at once, and what holds for every model."""

from __future__ import annotations

from hypothesis import given, settings

from tests.support.random_models import models
from tests.support.structure_names import name_of
from tests.support.trees import (
    Node,
    Weight,
    conv,
    conv_net,
    linear,
    module,
    plain_conv_net,
    several,
    spec,
    text_model,
    two_towers,
)
from unifreeze._structure import Zone

# Parts of a model ---------------------------------------------------------------------------


def test_members_of_several_models_are_placed_each_as_if_alone():
    made = several(student=text_model(depth=2), teacher=text_model(depth=3))
    alone = spec(text_model(depth=3))
    names = {n.removeprefix("teacher.") for n in made.canonical if n.startswith("teacher.")}
    assert names == set(alone.canonical)
    assert made.placement.labels == ["student.blocks", "teacher.blocks"]


def test_members_without_blocks_have_a_net_and_a_head_of_their_own():
    made = several(a=plain_conv_net(), b=conv_net(stages=1))
    assert name_of(made, "a.features.0.weight") == "a.net/conv.0/weight"
    assert name_of(made, "a.classifier.5.weight") == "a.head/linear.2/weight"
    assert name_of(made, "b.conv1.weight") == "b.stem/conv.0/weight"


def test_a_submodule_reads_as_if_it_were_the_whole():
    made = spec(two_towers((3, 2)))
    tower, names = made.within(made.module("text_model"))
    assert tower.placement.labels == ["blocks"]
    alone = spec(two_towers((3, 2)).children["text_model"])
    assert tower.canonical == alone.canonical
    assert [made.tree.names[n].removeprefix("text_model.") for n in names] == tower.tree.names


def test_a_submodule_keeps_the_order_of_execution_of_the_whole():
    root = module("Net", side=conv(3, 4), body=module("Body", b=conv(4, 4), a=conv(4, 4)))
    made = spec(root, calls=["side", "body", "body.a", "body.b"])
    body, _ = made.within(made.module("body"))
    assert body.order == "execution"
    assert name_of(body, "a.weight").endswith("conv.0/weight")


def test_a_submodule_that_never_ran_counts_by_registration_and_says_so():
    root = module("Net", side=conv(3, 4), body=module("Body", b=conv(4, 4), a=conv(4, 4)))
    made = spec(root, calls=["side"])
    body, _ = made.within(made.module("body"))
    assert body.order == "registration"
    assert name_of(body, "b.weight").endswith("conv.0/weight")


def test_a_submodule_knows_which_of_its_parameters_are_tied_within_it():
    made = spec(text_model(depth=2))
    text, _ = made.within(made.module("text"))
    assert not any(parameter.aliases for parameter in text.parameters)
    assert len(made.tree.subtree(0)[2]) == len(made)


def test_flags_as_found_travel_with_a_submodule():
    frozen = Node("Linear", "linear", {"weight": Weight(2, 2, trainable=False)})
    made = spec(module("Net", a=linear(4, 4), b=module("B", c=frozen)))
    part, _ = made.within(made.module("b"))
    assert part.found.tolist() == [False]
    assert made.found.tolist() == [True, True, False]


# What holds for every model -----------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(models())
def test_canonical_names_are_unique_whenever_native_names_are(root):
    made = spec(root)
    assert len(set(made.tree.names)) == len(made.tree.names)
    assert len(set(made.canonical)) == len(made.canonical)


@settings(max_examples=100, deadline=None)
@given(models())
def test_every_owner_has_a_place_and_every_parameter_one_position(root):
    made = spec(root)
    assert all(owner in made.placement.unit_of for owner in made.tree.owners)
    assert sorted(made.canonical_order) == list(range(len(made)))
    for run in made.runs:
        assert len(run.blocks) == len(run.stages)
        for one, other in zip(sorted(run.blocks), sorted(run.blocks)[1:], strict=False):
            assert made.tree.ends[one] <= other, "blocks do not overlap"


@settings(max_examples=100, deadline=None)
@given(models())
def test_a_zone_holds_no_more_than_its_parameters(root):
    made = spec(root)
    blocks_ = {made.tree.paths[b] for run in made.runs for b in run.blocks}
    for canonical, path, owner in zip(
        made.canonical, made.tree.names, made.tree.owners, strict=True
    ):
        inside = any(path == b or path.startswith(f"{b}.") for b in blocks_)
        zone = made.placement.units[made.placement.unit_of[owner]].zone
        assert inside == (zone is Zone.BLOCK), canonical
