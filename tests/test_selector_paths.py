"""Positions, native paths and patterns: what they select, in a model and inside a submodule."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.selector_names import modules, names
from tests.support.trees import (
    conv_net,
    embedding,
    image_model,
    linear,
    module,
    seq_block,
    several,
    spec,
    stack,
    text_model,
    two_towers,
)
from unifreeze._plan.selectors import parse
from unifreeze._plan.selectors.positions import positions
from unifreeze.errors import SelectorRangeError, UnmatchedSelectorError

# Indices ------------------------------------------------------------------------------------


def at(text, length):
    return list(positions(parse(f"blocks[{text}]").index, length, "it"))


@given(st.integers(1, 8), st.integers(-9, 9))
def test_a_position_means_what_it_means_in_python_and_past_the_end_is_an_error(length, number):
    try:
        expected = [list(range(length))[number]]
    except IndexError:
        with pytest.raises(SelectorRangeError, match="goes past the end"):
            at(str(number), length)
    else:
        assert at(str(number), length) == expected


@given(st.integers(0, 8), st.none() | st.integers(-8, 8), st.none() | st.integers(-8, 8))
def test_a_slice_means_what_it_means_in_python(length, start, stop):
    assume(all(bound is None or -length <= bound <= length for bound in (start, stop)))
    text = f"{'' if start is None else start}:{'' if stop is None else stop}"
    assert at(text, length) == list(range(length))[start:stop]


@pytest.mark.parametrize("text", ["5:", ":5", "-5:", ":-5", ":101%", ":200%", "-101%:", "100%"])
def test_a_bound_past_the_end_is_an_error_where_python_would_shrug(text):
    with pytest.raises(SelectorRangeError) as caught:
        at(text, 4)
    assert caught.value.hint == "positions run from 0 to 3, or from -4 to -1"


@pytest.mark.parametrize(
    ("text", "length", "found"),
    [
        (":50%", 4, [0, 1]),
        (":50%", 5, [0, 1]),
        ("50%:", 5, [2, 3, 4]),
        (":33%", 3, []),
        (":34%", 3, [0]),
        (":100%", 3, [0, 1, 2]),
        ("0%:", 3, [0, 1, 2]),
        (":99.9%", 1000, list(range(999))),
        ("25%:75%", 8, [2, 3, 4, 5]),
        ("-50%:", 5, [3, 4]),
        ("-10%:", 5, []),
        (":-10%", 5, [0, 1, 2, 3, 4]),
        ("-100%:", 5, [0, 1, 2, 3, 4]),
        ("50%", 4, [2]),
    ],
)
def test_a_share_is_of_the_length_rounded_down(text, length, found):
    assert at(text, length) == found


@given(st.integers(1, 30), st.integers(0, 100))
def test_the_first_share_and_the_rest_are_everything_once(length, share):
    assert at(f":{share}%", length) + at(f"{share}%:", length) == list(range(length))


@given(st.integers(1, 30), st.integers(1, 100))
def test_the_last_share_is_as_many_as_the_first(length, share):
    assert len(at(f"-{share}%:", length)) == len(at(f":{share}%", length))


def test_the_last_share_of_a_few_blocks_is_never_all_of_them():
    made = spec(text_model(depth=5))
    assert names("blocks[-10%:]", made) == set()
    assert names("blocks[:-10%]", made) == names("blocks", made)


@pytest.fixture(scope="module")
def text():
    return spec(text_model(depth=3))


# Native paths -------------------------------------------------------------------------------


def long_list(count=12):
    return spec(
        module(
            "Net",
            embed=embedding(5, 8),
            layers=stack(*(seq_block() for _ in range(count))),
            layer4=linear(8, 8),
        )
    )


def test_a_path_stands_for_everything_under_it_and_takes_whole_segments():
    made = long_list()
    assert {p.split(".")[1] for p in modules("layers.1", made)} == {"1"}
    assert modules("layer4", made) == {"layer4"}
    assert names("layers.1.fc1.bias", made) == {"layers.1.fc1.bias"}


def test_a_path_is_anchored_at_the_root():
    made = long_list()
    with pytest.raises(UnmatchedSelectorError) as caught:
        names("fc1", made)
    assert '"**.fc1" (a native path, 24 parameters)? Paths start at the root.' in caught.value.hint


def test_half_a_segment_matches_nothing():
    for half in ("layer", "layers.1.fc", "ayers", "layers.1.fc1.weigh"):
        with pytest.raises(UnmatchedSelectorError):
            names(half, long_list())


def test_a_glob_matches_within_one_segment():
    made = long_list()
    assert {p.split(".")[1] for p in modules("layers.1?", made)} == {"10", "11"}
    assert {p.split(".")[1] for p in modules("layers.1*", made)} == {"1", "10", "11"}
    assert names("*.weight", made) == {"embed.weight", "layer4.weight"}
    assert {p.rpartition(".")[2] for p in modules("layers.*.fc?", made)} == {"fc1", "fc2"}
    assert {p.split(".")[1] for p in modules("layers.?", made)} == set("0123456789")
    with pytest.raises(UnmatchedSelectorError):
        names("layers.*.fc", made)


def test_two_stars_float_over_any_number_of_segments():
    made = long_list(2)
    every = {name for name in names("all", made) if name.endswith(".bias")}
    assert names("**.bias", made) == every
    assert names("layers.**.fc1", made) == names("layers.0.fc1 | layers.1.fc1", made)
    assert names("**.layer4", made) == names("layer4", made), "also over none"
    assert names("layers.**", made) == names("layers", made)
    assert names("**", made) == names("all", made)


def test_two_stars_find_a_parameter_of_the_root():
    assert names("**.pos_embed", spec(image_model())) == {"pos_embed"}


def test_an_index_in_a_path_counts_children():
    made = long_list()
    assert {p.split(".")[1] for p in modules("layers[-2:]", made)} == {"10", "11"}
    assert modules("layers[0:3].fc1", made) == {f"layers.{n}.fc1" for n in range(3)}
    assert modules("layers[:25%].fc1", made) == {f"layers.{n}.fc1" for n in range(3)}


def test_a_word_and_a_path_with_an_index_differ_by_their_segments():
    made = spec(
        module(
            "Net",
            embed=embedding(5, 8),
            body=module("Body", layers=stack(seq_block(), seq_block())),
        )
    )
    assert names("layers[0]", made) == names("body.layers.0", made), "the word"
    assert names("body.layers[0]", made) == names("body.layers.0", made), "the path"


def test_an_index_in_a_path_past_the_end_is_an_error():
    with pytest.raises(SelectorRangeError, match="layers has 12 children"):
        names("layers[12].fc1", long_list())


def test_an_index_counts_in_every_module_a_glob_reaches():
    made = spec(conv_net(stages=3, depth=2))
    first = names("layer?[0]", made)
    assert first == names("layer1.0 | layer2.0 | layer3.0", made)


def test_a_path_of_a_module_without_parameters_selects_nothing_and_is_no_error():
    assert names("relu", spec(conv_net())) == set()
    assert names("re?u", spec(conv_net())) == set()
    assert names("all - relu", spec(conv_net())) == names("all", spec(conv_net()))


def test_a_quoted_path_is_taken_literally():
    made = spec(module("Net", **{name: linear(4, 4) for name in ("norm", "a-b", "x*", "xy")}))
    assert modules('path:"norm"', made) == {"norm"}
    assert modules('path:"a-b"', made) == {"a-b"}
    assert modules('path:"x*"', made) == {"x*"}
    assert names("norm", made) == set(), "the word: no layer here is a norm"


def test_a_tied_parameter_is_found_by_any_of_its_paths(text):
    for path in names("tied", text):
        assert names(path, text) == {path}


# Patterns -----------------------------------------------------------------------------------


def test_a_regular_expression_matches_the_full_native_path():
    made = long_list()
    assert names(r're:"layers\.1\..*"', made) == names("layers.1", made)
    assert names(r're:".*\.bias"', made) == names("**.bias", made)
    with pytest.raises(UnmatchedSelectorError):
        names(r're:"layers\.1"', made)


def test_a_class_selects_all_under_its_modules_and_may_be_a_glob():
    made = spec(conv_net())
    assert names('type:"BatchNorm2d"', made) == names("norm", made)
    assert names('type:"Bottleneck"', made) == names("blocks", made)
    assert names('type:"*Norm*"', made) == names("norm", made)
    with pytest.raises(UnmatchedSelectorError) as caught:
        names('type:"BatchNorm3d"', made)
    assert "BatchNorm2d" in caught.value.context


def test_a_class_is_named_whole():
    with pytest.raises(UnmatchedSelectorError):
        names('type:"Norm"', spec(conv_net()))


def test_canonical_names_are_selected_by_glob_or_whole():
    made = spec(text_model(depth=12))
    assert names('at:"blocks.1"', made) == names("blocks[1]", made)
    assert names('at:"blocks.1/*"', made) == names("blocks[1]", made)
    assert names('at:"head"', made) == names("head", made)
    assert modules('at:"blocks.3/linear.0"', made) == {"text.encoder.layer.3.attention.self.query"}
    assert names('at:"*/bias"', made) == names("**.bias", made)
    with pytest.raises(UnmatchedSelectorError) as caught:
        names('at:"blocks.3/linear.0/wieght"', made)
    assert """'at:"blocks.3/linear.0/weight"' (1 parameter)""" in caught.value.hint


def test_size_counts_values():
    made = spec(module("Net", a=linear(10, 10), b=linear(2, 2)))
    assert names("size(> 10)", made) == {"a.weight"}
    assert names("size(>= 10)", made) == {"a.weight", "a.bias"}
    assert names("size(== 4)", made) == {"b.weight"}
    assert names("size(< 4)", made) == {"b.bias"}
    assert names("size(<= 4)", made) == {"b.bias", "b.weight"}
    assert names("size(> 1e6)", made) == set()


# Nearest spellings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("bakbone", 'did you mean "backbone" (a word of the vocabulary, 55 parameters)?'),
        ("bloks[0]", 'did you mean "blocks[0]" (a word of the vocabulary, 16 parameters)?'),
        ("text.encodr", 'did you mean "text.encoder" (a native path, 48 parameters)?'),
        (
            "text.pooler.dense.wieght",
            'did you mean "text.pooler.dense.weight" (a native path, 1 parameter)?',
        ),
    ],
)
def test_a_path_that_matches_nothing_names_the_nearest_spelling(wrong, hint, text):
    with pytest.raises(UnmatchedSelectorError) as caught:
        names(wrong, text)
    assert caught.value.hint == hint
    assert caught.value.context == "top-level names: text, cls"


@pytest.mark.parametrize(
    "path", ["nosuch", "nosuch.*", "**.nosuch", "text.*.nosuch", "text.pooler[:0]", 'path:""']
)
def test_a_path_inside_an_expression_must_match_too(path, text):
    with pytest.raises(UnmatchedSelectorError, match=re.escape(repr(path))):
        names(f"head | {path}", text)


# Inside a submodule -------------------------------------------------------------------------


def test_words_read_a_submodule_as_if_it_were_the_whole():
    made = spec(two_towers((3, 2)))
    assert modules("blocks[-1] in text_model", made) == {
        p for p in modules("all", made) if p.startswith("text_model.encoder.layers.1.")
    }
    assert modules("stem in vision_model", made) == {"vision_model.embed.patch_embedding"}
    with pytest.raises(SelectorRangeError):
        names("blocks[2] in text_model", made)


def test_words_read_one_of_several_models_as_if_alone():
    made = several(student=text_model(depth=2), teacher=text_model(depth=3))
    heads = names("head", made)
    assert names("head in student", made) == {n for n in heads if n.startswith("student.")}
    assert {p.split(".")[4] for p in modules("blocks[-1] in teacher", made)} == {"2"}


def test_paths_in_a_submodule_start_there():
    made = spec(text_model(depth=2))
    assert names("pooler.dense in text", made) == names("text.pooler.dense", made)
    assert names("~pooler in text", made) == names("~(text.pooler)", made)
    assert names("(~pooler) in text", made) == names("text - text.pooler", made)


def test_places_nest_from_the_inside_out():
    made = several(a=text_model(depth=2), b=text_model(depth=2))
    assert names("stem in text in a", made) == names("stem in a", made)


def test_a_place_that_is_not_there_is_an_error():
    with pytest.raises(UnmatchedSelectorError) as caught:
        names("head in studnet", several(student=text_model(depth=2)))
    assert caught.value.hint == 'did you mean "in student"?'


def test_a_module_met_twice_reads_the_same_under_both_paths():
    layers = stack(seq_block(), seq_block())
    shared = module("Tower", embed=embedding(5, 8), layers=layers, out=linear(8, 2))
    made = spec(module("Siamese", left=shared, right=shared))
    for selector in ("blocks[0]", "head", "stem"):
        left, right = (names(f"{selector} in {side}", made) for side in ("left", "right"))
        assert {name.removeprefix("left.") for name in left} == {
            name.removeprefix("right.") for name in right
        }
        assert left
