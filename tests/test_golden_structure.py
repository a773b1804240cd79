"""Blocks, stages and zones of real networks are what people who use them would say.

Every network is looked at in each framework that has it, at full size and at a size that runs, with
positions counted by registration and along a batch. `tests/golden/structure.txt` shows all of it;
after a change that is meant, `python -m tests.support.golden_structure --write`, and read the diff.
"""

import re

import pytest

from tests.support.golden_structure import FORMS, GOLDEN, block_of, described, specs
from tests.support.zoo import SAME_TENSOR, ZOO, in_paddle
from unifreeze._plan import FreezePlan
from unifreeze._resolution import resolve_spec
from unifreeze._structure import Zone

PAIRS = [name for name, network in ZOO.items() if len(network.build) == 2]

BLOCKS_AND_STAGES = {
    "resnet50": [(16, 4)],
    "vgg16": [],
    "densenet121": [(58, 4)],
    "squeezenet1_0": [(8, 1)],
    "mobilenet_v2": [(17, 1)],
    "mobilenet_v3_large": [(15, 1)],
    "efficientnet_v2_s": [(40, 6)],
    "vit_b_16": [(12, 1)],
    "vit (transformers)": [(12, 1)],
    "swin_t": [(12, 4)],
    "swin_t (transformers)": [(12, 4)],
    "convnext_tiny": [(18, 4)],
    "convnext_tiny (transformers)": [(18, 4)],
    "bert": [(12, 1)],
    "ernie": [(12, 1)],
    "roberta": [(12, 1)],
    "albert": [(1, 1)],
    "t5": [(6, 1), (6, 1)],
    "bart": [(6, 1), (6, 1)],
    "gpt2": [(12, 1)],
    "clip": [(12, 1), (12, 1)],
    "clip (vision)": [(12, 1)],
    "bert with lora": [(12, 1)],
    "resnet50 in data parallel": [(16, 4)],
}

STAGES_ALONG_A_BATCH = {
    "resnet50": [3, 4, 6, 3],
    "mobilenet_v2": [1, 2, 3, 7, 4],
    "mobilenet_v3_large": [1, 2, 3, 6, 3],
    "densenet121": [6, 12, 24, 16],
    "squeezenet1_0": [3, 4, 1],
    "shufflenet_v2_x1_0": [4, 8, 4],
    "swin_t": [2, 2, 6, 2],
    "convnext_tiny": [3, 3, 9, 3],
}
"""Blocks of one resolution each: how often the published network repeats one before a stride."""

NOT_THE_SAME = {
    "gpt2": "one library holds query, key and value in one tensor, the other in three",
    "bert for masked words": "Paddle's keeps a pooler that HF's lacks, and calls the last bias "
    "decoder_bias",
    "bart for generation": "Paddle's has an output table of its own, HF's is tied to the words",
    "llama": "Paddle's output layer is not a linear but a class with a bare parameter",
    "mixtral": "Paddle's output layer is not a linear but a class with a bare parameter",
    "clip": "Paddle's two projections hang on the model as bare parameters, HF's are linears",
}
"""Pairs whose names or shapes differ because the two ports do, with the reason."""

ORDERS_DIFFER = {
    "albert": "a block's last norm is registered first",
    "clip": "the scale of the model has no place before it is used",
    "inception_v3": "the auxiliary classifier that only training runs is registered among blocks",
}
"""Networks whose names without a batch differ from those along one, with the reason."""


def golden():
    blocks = GOLDEN.read_text(encoding="utf-8").strip().split("\n\n")
    return {block.partition("\n")[0]: block for block in blocks}


def names_and_shapes(spec):
    return {(parameter.name, parameter.neutral_shape) for parameter in spec.parameters}


def of_first_names(spec):
    return {parameter.path: parameter.name for parameter in spec.parameters}


def test_the_golden_file_shows_the_networks_of_the_zoo_and_no_others():
    assert list(golden()) == list(ZOO)


@pytest.mark.parametrize("name", ZOO)
def test_a_network_has_the_structure_shown_in_the_golden_file(name):
    assert block_of(name) == golden()[name]


@pytest.mark.parametrize("name", BLOCKS_AND_STAGES)
def test_a_network_at_full_size_has_as_many_blocks_and_stages_as_people_count(name):
    for spec in specs(name, "full").values():
        counted = [(len(run.blocks), len(set(run.stages))) for run in spec.runs]
        assert counted == BLOCKS_AND_STAGES[name]


@pytest.mark.parametrize("name", STAGES_ALONG_A_BATCH)
def test_along_a_batch_stages_are_those_of_the_published_network(name):
    for spec in specs(name, "traced").values():
        stages = spec.runs[0].stages
        assert [stages.count(n) for n in range(max(stages) + 1)] == STAGES_ALONG_A_BATCH[name]


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_two_stacks_go_by_encoder_and_decoder(name):
    for spec in specs(name, "full").values():
        assert spec.placement.labels == ["encoder", "decoder"]


def test_a_network_without_blocks_has_its_three_linears_as_head_and_the_rest_as_net():
    for spec in specs("vgg16", "full").values():
        zones = {parameter.path: parameter.name.partition("/")[0] for parameter in spec.parameters}
        heads = {path for path, zone in zones.items() if zone == "head"}
        assert heads == {f"classifier.{n}.{leaf}" for n in (0, 3, 6) for leaf in ("weight", "bias")}
        assert {zones[path] for path in zones.keys() - heads} == {"net"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name in PAIRS if name not in NOT_THE_SAME])
def test_both_frameworks_give_every_parameter_the_same_name_and_shape(name, form):
    found = specs(name, form)
    if not found:
        assert form == "full"
        assert not ZOO[name].full
        return
    assert len(found) == 2
    one, other = map(names_and_shapes, found.values())
    assert one == other
    assert len(one) == len(found["torch"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SAME_TENSOR)
def test_a_canonical_name_stands_for_the_same_tensor_in_both(name, form):
    """Sets of names could agree though query and key were swapped."""
    one, other = (of_first_names(spec) for spec in specs(name, form).values())
    for path, canonical in one.items():
        assert other[in_paddle(name, path)] == canonical, path


@pytest.mark.parametrize("name", NOT_THE_SAME)
def test_a_pair_listed_as_different_still_is(name):
    one, other = map(names_and_shapes, specs(name, "small").values())
    assert one != other


@pytest.mark.parametrize("name", ["mixtral", "llama"])
def test_but_for_its_output_layer_the_pair_agrees(name):
    one, other = map(names_and_shapes, specs(name, "small").values())
    assert {pair[0] for pair in one ^ other} == {"head/linear.0/weight", "head/param.0/weight"}


def test_fused_or_not_the_blocks_of_a_pair_hold_the_same_values():
    fused, split = specs("gpt2", "small").values()
    assert int(fused.counts.sum()) == int(split.counts.sum())
    assert {name for name in of_first_names(fused).values() if "norm" in name} == {
        name for name in of_first_names(split).values() if "norm" in name
    }


@pytest.mark.parametrize("name", ZOO)
def test_names_along_a_batch_are_those_without_one_unless_the_orders_differ(name):
    same = []
    for framework in ZOO[name].build:
        forms = described(name, framework)
        if "traced" in forms:
            same.append(of_first_names(forms["traced"]) == of_first_names(forms["small"]))
    assert all(same) == (name not in ORDERS_DIFFER)


def test_where_words_cannot_settle_two_orders_the_layers_are_reported():
    for name in ZOO:
        for spec in specs(name, "traced").values():
            assert bool(spec.placement.ambiguous) == (name == "albert"), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ZOO)
def test_tables_tokens_and_norms_of_the_input_are_stem_wherever_they_are_registered(name, form):
    """Whatever is called an embedding, a position or a token, bar what a block holds."""
    for spec in specs(name, form).values():
        for parameter in spec.parameters:
            unit = parameter.name.partition("/")[0]
            if re.search(r"embed|token|position", parameter.path) and "blocks" not in unit:
                assert unit.endswith("stem"), parameter.path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ZOO)
def test_what_people_call_the_classifier_is_head(name, form):
    called = r"(?:.*\.)?(?:fc|score|heads?\.head|head|lm_head|out|classifier|classification_head)"
    for spec in specs(name, form).values():
        for parameter in spec.parameters:
            if re.fullmatch(rf"{called}(?:\.\w+)*", parameter.path) and parameter.kind == "linear":
                unit = parameter.name.partition("/")[0]
                assert unit == "head" or "AuxLogits" in parameter.path, parameter.path


@pytest.mark.parametrize("form", FORMS)
def test_an_auxiliary_classifier_is_in_the_head_and_not_the_classifier(form):
    spec = specs("inception_v3", form)["torch"]
    heads = {p.path.partition(".")[0] for p in spec.parameters if p.name.startswith("head/")}
    assert heads == {"AuxLogits", "fc"}
    classifier = FreezePlan().only("classifier")
    assert resolve_spec(classifier, spec).trainable_paths == ("fc.weight", "fc.bias")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["t5", "bart", "bart for generation"])
def test_words_that_encoder_and_decoder_share_are_stem_under_every_name(name, form):
    for spec in specs(name, form).values():
        zones = {
            path: canonical.partition("/")[0]
            for path, canonical in zip(spec.tree.names, spec.canonical, strict=True)
            if path.endswith(("shared.weight", "embed_tokens.weight"))
        }
        assert set(zones.values()) == {"stem"}
        assert len(zones) == 3


def test_which_expert_a_batch_reaches_changes_no_name():
    forms = described("mixtral", "torch")
    expert = {n for n in of_first_names(forms["traced"]).values() if "expert" in n}
    assert expert == {n for n in of_first_names(forms["small"]).values() if "expert" in n}
    first = "model.layers.0.block_sparse_moe.experts.3"
    assert [of_first_names(forms["traced"])[f"{first}.w{n}.weight"] for n in (1, 2, 3)] == [
        f"blocks.0/expert.3/linear.{n}/weight" for n in range(3)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_adapters_bear_the_name_of_what_they_adapt_and_shift_no_other(form):
    for framework, spec in specs("bert with lora", form).items():
        plain = set(of_first_names(described("bert", framework)[form]).values())
        adapted = set(of_first_names(spec).values())
        blocks = len(spec.runs[0].blocks)
        assert adapted - plain == {
            f"blocks.{block}/linear.{projection}/lora_{side}"
            for block in range(blocks)
            for projection in (0, 2)
            for side in "AB"
        }
        assert plain < adapted


@pytest.mark.parametrize("form", FORMS)
def test_a_wrapper_for_several_devices_changes_no_name(form):
    for framework, spec in specs("resnet50 in data parallel", form).items():
        assert of_first_names(spec) == of_first_names(described("resnet50", framework)[form])


def test_a_model_with_two_towers_names_each_by_the_module_that_holds_it():
    for form in FORMS:
        for spec in specs("clip", form).values():
            assert set(spec.placement.labels) == {"text_model.blocks", "vision_model.blocks"}
            zones = {unit.label.rpartition(".")[0] for unit in spec.units if unit.zone is Zone.STEM}
            assert zones == {"text_model", "vision_model"}
