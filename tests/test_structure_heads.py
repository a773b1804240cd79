"""Where the head is, and which of its layers classify: by what holds a layer, words, and ties."""

from __future__ import annotations

import pytest

from tests.support.structure_names import name_of
from tests.support.trees import (
    Node,
    Weight,
    act,
    conv,
    embedding,
    linear,
    module,
    norm,
    seq_block,
    several,
    spec,
    stack,
)
from unifreeze._plan.selectors import evaluate, parse


def selected(word, made):
    """The paths of the modules that own what a word selects."""
    names = made.atoms.name[evaluate(parse(word), made)].tolist()
    return {made.tree.paths[made.tree.owners[name]] for name in names}


def blocks(depth=2):
    return stack(*(seq_block() for _ in range(depth)))


def trunk(**more):
    """A network with a stem and blocks."""
    return module("Trunk", embed=embedding(11, 8), layers=blocks(), **more)


# What holds a layer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beside",
    [
        {"pooler": module("Pooler", dense=linear(8, 8))},
        {"relative_bias": embedding(5, 2)},
        {"upsample": module("Up", projection=linear(8, 16))},
        {"contact_head": module("Contacts", regression=linear(8, 1))},
        {"final": norm(8), "mix": conv(8, 8)},
    ],
    ids=lambda parts: next(iter(parts)),
)
def test_nothing_beside_the_blocks_is_head(beside):
    made = spec(module("Net", base=trunk(**beside), classifier=linear(8, 3)))
    assert selected("head", made) == {"classifier"}
    first = next(iter(beside))
    assert any(path.startswith(f"base.{first}") for path in selected("neck", made))


def test_beside_the_blocks_of_the_model_itself_is_head():
    made = spec(trunk(pooler=module("Pooler", dense=linear(8, 8))))
    assert selected("head", made) == {"pooler.dense"}


@pytest.mark.parametrize("own", [{}, {"temperature": Weight(1)}, {"scale": Weight()}])
def test_wrappers_are_seen_through_and_so_are_their_scalars(own):
    inside = trunk(norm=norm(8), fc=linear(8, 3))
    made = spec(module("Wrapper", own, loss=act(), net=module("Wrapper", net=inside)))
    assert selected("head", made) == {"net.net.fc"}


def test_a_stage_without_blocks_beside_stages_with_blocks_is_no_head():
    def stage(**parts):
        return module("Stage", **parts)

    stages = {
        "stage1": stage(down=conv(3, 8), blocks=blocks()),
        "stage2": stage(down=conv(8, 8), blocks=blocks()),
        "stage3": stage(mix=linear(8, 8), norm=norm(8)),
    }
    made = spec(module("Net", **stages, fc=linear(8, 3)))
    assert selected("head", made) == {"fc"}


def test_of_two_towers_with_no_head_beside_them_the_one_with_a_head_has_it():
    language = module("ForCausal", model=trunk(norm=norm(8)), lm_head=linear(8, 11))
    vision = module("Vision", stem=conv(3, 8), layers=blocks(3), post_norm=norm(8))
    made = spec(module("Both", vision=vision, projection=linear(8, 8), language=language))
    assert selected("head", made) == {"language.lm_head"}
    assert selected("classifier", made) == {"language.lm_head"}


def test_a_head_inside_a_tower_is_no_head_if_one_stands_beside_the_towers():
    vision = module("Vision", stem=conv(3, 8), layers=blocks(3), head=linear(8, 8))
    made = spec(module("Both", vision=vision, language=trunk(), lm_head=linear(8, 11)))
    assert selected("head", made) == {"lm_head"}


def test_each_of_several_models_has_its_head():
    made = several(a=trunk(fc=linear(8, 3)), b=module("B", t=trunk(), score=linear(8, 2)))
    assert selected("head", made) == {"a.fc", "b.score"}


# Words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["classifier", "head", "lm_head", "cls", "score", "mlp_head"])
def test_a_head_registered_before_the_network_is_found_by_its_name(name):
    made = spec(module("Net", **{name: linear(8, 3)}, base=trunk(pooler=linear(8, 8))))
    assert selected("head", made) == {name}
    assert selected("classifier", made) == {name}


def test_what_a_trace_shows_counts_more_than_a_name():
    root = module("Net", head=linear(8, 8), layers=blocks(), out=linear(8, 3))
    traced = spec(root, calls=["head", "layers.0", "layers.1", "out"])
    assert selected("head", traced) == {"out"}
    assert selected("stem", traced) == {"head"}


def test_a_norm_registered_after_the_head_is_neck():
    made = spec(module("Net", layers=blocks(), head=linear(8, 3), norm=norm(8)))
    assert selected("head", made) == {"head"}
    assert selected("neck", made) == {"norm"}


@pytest.mark.parametrize("leaf", ["lm_head_weight", "decoder_weight", "generator_lm_head_bias"])
def test_a_bare_parameter_that_gives_the_outputs_is_head(leaf):
    root = module("ForCausal", {leaf: Weight(11, 8)}, base=trunk())
    assert name_of(spec(root), leaf).startswith("head/")


def test_a_part_called_neck_is_neck():
    made = spec(module("Net", layers=blocks(), neck=stack(conv(8, 8), norm(8), conv(8, 8))))
    assert selected("head", made) == set()
    assert selected("neck", made) == {"neck.0", "neck.1", "neck.2"}


def test_heads_in_a_list_are_no_blocks():
    def predicts():
        return module("Predicts", one=linear(8, 8), two=linear(8, 4))

    made = spec(module("Net", layers=blocks(3), heads=stack(predicts(), predicts())))
    assert [len(run.blocks) for run in made.runs] == [3]
    assert selected("head", made) == {
        f"heads.{n}.{part}" for n in (0, 1) for part in ("one", "two")
    }


def test_a_list_called_head_that_is_all_there_is_has_blocks():
    made = spec(module("Net", stem=conv(3, 8), head=blocks(3), out=linear(8, 3)))
    assert [len(run.blocks) for run in made.runs] == [3]
    assert selected("head", made) == {"out"}


# A norm and a linear layer that are one layer ---------------------------------------------------


def test_a_norm_and_a_linear_layer_alone_in_a_module_are_one_layer():
    drop = Node("Dropout", "dropout", {})
    head = module("NormLinear", bn=norm(8), drop=drop, linear=linear(8, 3))
    made = spec(module("Net", layers=blocks(), head=head))
    assert selected("head", made) == {"head.bn", "head.linear"}
    assert selected("classifier", made) == {"head.linear"}


@pytest.mark.parametrize("between", [Node("Flatten", "", {}), linear(8, 8)])
def test_a_norm_with_another_layer_between_is_neck(between):
    head = module("Head", norm=norm(8), between=between, fc=linear(8, 3))
    made = spec(module("Net", layers=blocks(), head=head))
    assert "head.norm" in selected("neck", made)


# Shared heads ---------------------------------------------------------------------------------


def test_heads_lent_to_the_decoder_are_heads_under_both_names():
    def boxes(weights):
        return stack(*(linear(8, 4, bias=False, weight=w) for w in weights))

    weights = [Weight(4, 8), Weight(4, 8)]
    decoder = module("Decoder", layers=blocks(), bbox_embed=boxes(weights))
    base = module("Base", encoder=module("Encoder", layers=blocks(3)), decoder=decoder)
    root = module("Detector", model=base, class_embed=linear(8, 7), bbox_embed=boxes(weights))
    made = spec(root)
    inside = {f"model.decoder.bbox_embed.{n}" for n in (0, 1)}
    assert selected("head", made) == {"class_embed", "bbox_embed.0", "bbox_embed.1"} | inside
    assert selected("classifier", made) == {"class_embed"}


def test_one_head_for_each_block_in_a_list_beside_the_blocks_is_no_part_of_the_blocks():
    def classes(weights):
        return stack(*(linear(8, 7, bias=False, weight=w) for w in weights))

    weights = [Weight(7, 8), Weight(7, 8)]
    rating = stack(*(module("Rating", a=linear(8, 8), b=linear(8, 1)) for _ in range(2)))
    decoder = module("Decoder", layers=blocks(), rating=rating, class_embed=classes(weights))
    root = module("Detector", model=module("Base", decoder=decoder), class_embed=classes(weights))
    made = spec(root)
    inside = {f"{path}class_embed.{n}" for path in ("", "model.decoder.") for n in (0, 1)}
    assert selected("head", made) == inside
    assert not any(".class_embed." in path for path in selected("blocks", made))


def test_a_table_tied_to_the_output_layer_is_no_head():
    words = Weight(11, 8)
    base = module(
        "Base", encoder=module("Encoder", layers=blocks()), shared=embedding(11, 8, weight=words)
    )
    made = spec(module("ForCausal", base=base, lm_head=linear(8, 11, bias=False, weight=words)))
    assert selected("head", made) == {"lm_head"}


# Which layers of the head classify -------------------------------------------------------------


def head_of(**parts):
    return spec(module("Net", layers=blocks(), **parts))


def test_all_layers_as_wide_as_the_last_classify():
    made = head_of(head=linear(8, 3), head_dist=linear(8, 3))
    assert selected("classifier", made) == {"head", "head_dist"}


def test_hidden_layers_of_a_head_do_not_classify():
    made = head_of(head=stack(linear(8, 16), act(), linear(16, 3)))
    assert selected("classifier", made) == {"head.2"}


def test_a_hidden_layer_as_wide_as_the_outputs_does_not_classify():
    made = head_of(head=stack(linear(8, 8), act(), linear(8, 8)))
    assert selected("classifier", made) == {"head.2"}


def test_a_norm_over_the_classes_classifies():
    made = head_of(classifier=stack(linear(8, 16), norm(16), linear(16, 3), norm(3)))
    assert selected("classifier", made) == {"classifier.2", "classifier.3"}


def test_scores_of_classes_classify_and_boxes_do_not():
    made = head_of(class_embed=linear(8, 7), bbox_embed=stack(linear(8, 8), linear(8, 4)))
    assert selected("classifier", made) == {"class_embed"}


def test_a_convolution_called_classifier_counts_more_than_a_linear_layer():
    parts = {"project": linear(8, 16), "fuse": conv(16, 16), "classifier": conv(16, 3)}
    made = head_of(decode_head=module("Decode", **parts))
    assert selected("classifier", made) == {"decode_head.classifier"}


def test_what_is_registered_after_the_head_without_its_name_does_not_classify():
    made = head_of(head=linear(8, 3), semantic=linear(8, 5))
    assert selected("classifier", made) == {"head"}
