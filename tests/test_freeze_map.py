"""The freeze map: areas by number of values, every parameter once, names that are never markup."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pages import HOSTILE, hostile_model, text_net
from tests.support.random_models import models
from tests.support.trees import conv_net, linear, module, norm, spec, stack
from unifreeze._drawing.freeze_map import freeze_map
from unifreeze._drawing.looks import looks_of, shares
from unifreeze._drawing.nested_boxes import nested_boxes
from unifreeze._drawing.palette import Look
from unifreeze._drawing.treemap import Box, strips
from unifreeze._plan import FreezePlan
from unifreeze._resolution import Resolution, resolve_spec, train_everything
from unifreeze.errors import UnifreezeError

SVG = "{http://www.w3.org/2000/svg}"
PAGE = Box(0, 0, 900, 500)
HEAD = FreezePlan().only("head")


def area(box):
    return box.width * box.height


def overlap(one, other):
    wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return max(wide, 0) * max(high, 0)


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=40),
    st.floats(10, 2000),
    st.floats(10, 2000),
)
def test_strips_share_out_the_area_in_order(values, width, height):
    page = Box(5, 7, width, height)
    boxes = strips(values, page)
    for value, box in zip(values, boxes, strict=True):
        assert area(box) == pytest.approx(width * height * value / sum(values))
        assert box.x >= 5 * (1 - 1e-9)
        assert box.x + box.width <= (5 + width) * (1 + 1e-9)
        assert box.y + box.height <= (7 + height) * (1 + 1e-9)
    starts = [(round(box.y, 6), box.x) for box in boxes]
    assert starts == sorted(starts)


@given(models(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_every_parameter_with_values_is_in_one_box(root, seed):
    made = spec(root)
    chosen = np.random.default_rng(seed).random((2, len(made))) < 0.5
    resolutions = [replace(Resolution.without_plan(made), trainable=mask) for mask in chosen]
    looks = [looks_of(resolution) for resolution in resolutions]
    nested = nested_boxes(made, looks, PAGE)
    drawn = [number for leaf in nested.leaves for number in leaf.numbers.tolist()]
    assert sorted(drawn) == np.flatnonzero(made.counts).tolist()
    for leaf in nested.leaves:
        for phase, codes in enumerate(looks):
            assert {nested.stories[leaf.story][phase]} == set(codes[leaf.numbers].tolist())
        assert leaf.box.x + leaf.box.width <= PAGE.width + 1e-6
        assert leaf.box.y + leaf.box.height <= PAGE.height + 1e-6


def test_boxes_of_layers_do_not_overlap():
    made = spec(conv_net())
    leaves = nested_boxes(made, [looks_of(resolve_spec(HEAD, made))], PAGE).leaves
    assert len(leaves) > 20
    boxes = [leaf.box for leaf in leaves]
    for at, box in enumerate(boxes):
        assert all(overlap(box, other) < 1e-6 for other in boxes[:at])


def test_the_area_of_a_module_is_its_number_of_values():
    made = spec(module("Net", a=linear(8, 8, bias=False), b=linear(8, 24, bias=False)))
    leaves = nested_boxes(made, [looks_of(train_everything(made))], PAGE).leaves
    assert area(leaves[1].box) == pytest.approx(3 * area(leaves[0].box))


def test_looks_tell_frozen_held_trainable_and_new_apart():
    made = spec(conv_net())
    before = resolve_spec(HEAD, made)
    now = resolve_spec(HEAD.train("blocks[-1:]"), made)
    looks = dict(zip(made.paths_of(range(len(made))), looks_of(now, before), strict=True))
    assert looks["conv1.weight"] == Look.FROZEN
    assert looks["bn1.weight"] == Look.HELD
    assert looks["fc.weight"] == Look.TRAINABLE
    assert looks["layer4.1.conv1.weight"] == Look.NEW
    assert Look.NEW not in looks_of(now)


def test_looks_compare_descriptions_of_a_model_that_was_described_anew():
    before, now = resolve_spec(HEAD, spec(conv_net())), resolve_spec(HEAD, spec(conv_net()))
    assert Look.NEW not in looks_of(now, before)
    node = conv_net()
    node.children = {"aux": linear(4, 4), **node.children}
    made = spec(node)
    now = resolve_spec(HEAD.train("blocks[-1:]"), made)
    new = made.paths_of(np.flatnonzero(looks_of(now, before) == Look.NEW))
    assert "layer4.1.conv1.weight" in new
    assert "fc.weight" not in new


def test_shares_add_up_to_all_values():
    made = spec(conv_net())
    parts = shares(looks_of(resolve_spec(HEAD, made)), made.counts)
    assert sum(part.values for part in parts) == made.counts.sum()
    assert [part.look for part in parts] == [Look.TRAINABLE, Look.HELD, Look.FROZEN]


def test_a_map_is_xml_and_says_names_and_counts():
    made = spec(conv_net())
    root = ElementTree.fromstring(freeze_map(resolve_spec(HEAD, made)))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert titles[0] == "Freeze map: 330 of 76,802 values train (0.43%)"
    assert "fc (Linear): weight, bias; 330 values, trainable" in titles
    assert any(text and text.startswith("layer4.1.conv1 (Conv2d)") for text in titles)
    shown = [text.text for text in root.iter(f"{SVG}text")]
    assert {"layer4", "conv1", "frozen", "trainable"} <= set(shown)


def test_names_of_modules_are_never_markup():
    drawn = freeze_map(resolve_spec(HEAD, hostile_model()))
    root = ElementTree.fromstring(drawn)
    assert not list(root.iter(f"{SVG}script"))
    assert any(HOSTILE in (title.text or "") for title in root.iter(f"{SVG}title"))


def test_control_signs_in_names_leave_the_map_well_formed():
    made = spec(module("Net", **{"a\x00\x1b[31m": linear(4, 4)}, head=linear(4, 2)))
    ElementTree.fromstring(freeze_map(resolve_spec(FreezePlan().only('path:"head"'), made)))


def test_a_tied_tensor_is_drawn_once():
    made = text_net()
    leaves = nested_boxes(made, [looks_of(resolve_spec(HEAD.train("tied"), made))], PAGE).leaves
    drawn = [number for leaf in leaves for number in leaf.numbers.tolist()]
    assert len(drawn) == len(set(drawn)) == len(made)


def test_a_deep_chain_of_modules_is_one_box():
    node = linear(4, 4)
    for _ in range(600):
        node = stack(node)
    made = spec(module("Net", a=node, head=linear(4, 2)))
    assert len(nested_boxes(made, [looks_of(train_everything(made))], PAGE).leaves) == 2


def test_a_norm_alone_is_a_map_too():
    made = spec(norm(4, statistics=True))
    ElementTree.fromstring(freeze_map(resolve_spec(FreezePlan().freeze("all"), made)))


def test_both_colour_schemes_are_in_the_picture():
    drawn = freeze_map(resolve_spec(HEAD, spec(conv_net())))
    assert "@media (prefers-color-scheme:dark)" in drawn
    for place in ('[data-jp-theme-light="false"]', ".vscode-dark", 'html[theme="dark"]'):
        assert f"{place} .uf .uf-t{{" in drawn


def test_a_picture_is_saved_whole_or_refused(tmp_path):
    picture = freeze_map(resolve_spec(HEAD, spec(conv_net())))
    picture.save(tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_text(encoding="utf-8") == picture
    with pytest.raises(UnifreezeError, match=r"(?s)cannot write .*hint: make its"):
        picture.save(tmp_path / "no" / "map.svg")


def test_a_picture_shows_itself_in_few_signs():
    picture = freeze_map(resolve_spec(HEAD, spec(conv_net())))
    assert repr(picture).startswith("<unifreeze.Picture: SVG of ")
    assert picture._repr_svg_() == picture._repr_html_() == str(picture)
    assert type(str(picture)) is str
