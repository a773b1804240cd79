"""How layers are counted and named: by kind, in order of registration or of execution."""

from __future__ import annotations

import pytest

from tests.support.structure_names import blocks, name_of
from tests.support.trees import (
    Node,
    Weight,
    act,
    adapted,
    bottleneck,
    conv,
    conv_net,
    embedding,
    encoder_decoder,
    image_model,
    linear,
    mixture,
    module,
    node_at,
    norm,
    seq_block,
    spec,
    stack,
    text_model,
    two_towers,
)

# Counting -----------------------------------------------------------------------------------


def test_layers_are_counted_by_kind_within_their_block():
    made = spec(conv_net(stages=2, depth=1))
    names = [n.split("/", 1)[1] for n in made.canonical if n.startswith("blocks.1/")]
    assert names == [
        f"{layer}/{role}"
        for number in range(3)
        for layer, roles in ((f"conv.{number}", ["weight"]), (f"norm.{number}", ["weight", "bias"]))
        for role in roles
    ]


def test_without_a_trace_layers_count_in_order_of_registration():
    made = spec(module("Net", second=conv(4, 4), first=conv(3, 4), fc=linear(4, 2)))
    assert made.order == "registration"
    assert name_of(made, "second.weight") == "net/conv.0/weight"


def test_with_a_trace_layers_count_in_order_of_execution():
    root = module("Net", second=conv(4, 4), first=conv(3, 4), fc=linear(4, 2))
    made = spec(root, calls=["first", "second", "fc"])
    assert made.order == "execution"
    assert name_of(made, "first.weight") == "net/conv.0/weight"
    assert name_of(made, "second.weight") == "net/conv.1/weight"


def test_with_a_trace_blocks_and_runs_stand_in_order_of_execution():
    made = spec(
        module("Net", layers=stack(seq_block(), seq_block(), seq_block())),
        calls=["layers.2", "layers.0", "layers.1"],
    )
    assert blocks(made) == [["layers.2", "layers.0", "layers.1"]]
    towers = spec(
        two_towers((2, 2)),
        calls=[f"{t}.encoder.layers.{n}" for t in ("text_model", "vision_model") for n in (0, 1)],
    )
    assert towers.placement.labels == ["text_model.blocks", "vision_model.blocks"]


def test_what_never_ran_stays_in_the_zone_it_is_registered_in():
    calls = ["text.embeddings", "text.encoder.layer.0", "text.encoder.layer.1", "cls.transform"]
    made = spec(text_model(depth=2), calls=calls)
    assert name_of(made, "text.pooler.dense.weight").startswith("neck/")
    assert name_of(made, "text.embeddings.norm.weight").startswith("stem/")


def test_a_layer_whose_tensors_have_their_first_names_elsewhere_shifts_no_count():
    words = Weight(11, 8)
    made = spec(
        module(
            "Net",
            words=embedding(11, 8, weight=words),
            again=embedding(11, 8, weight=words),
            positions=embedding(5, 8),
            layers=stack(seq_block(), seq_block()),
        )
    )
    assert name_of(made, "positions.weight") == "stem/embedding.1/weight"
    assert name_of(made, "again.weight") == "stem/embedding.2/weight"


def test_a_layer_whose_tensor_ran_under_another_name_is_not_unreached():
    made = spec(encoder_decoder((2, 2)), calls=["model.shared", "model.encoder.layers.0"])
    unreached = {made.tree.paths[owner] for owner in made.placement.unreached}
    assert "model.encoder.embed_positions" in unreached
    assert not unreached & {"model.shared", "model.encoder.embed_tokens", "lm_head"}


def test_what_never_ran_is_counted_last_and_listed_as_unreached():
    root = module("Net", aux=conv(4, 4), one=conv(3, 4), two=conv(4, 4))
    made = spec(root, calls=["one", "two"])
    assert name_of(made, "aux.weight").endswith("conv.2/weight")
    aux = made.tree.paths.index("aux")
    assert made.placement.unreached == {aux}


def test_orders_that_disagree_among_equal_shapes_are_reported():
    alike = module("Net", b=conv(4, 4), a=conv(4, 4), fc=linear(4, 2))
    made = spec(alike, calls=["a", "b", "fc"])
    assert {made.tree.paths[owner] for owner in made.placement.ambiguous} == {"a", "b"}


def test_orders_that_disagree_between_different_shapes_are_not_ambiguous():
    different = module("Net", b=conv(4, 8), a=conv(3, 4), fc=linear(8, 2))
    assert spec(different, calls=["a", "b", "fc"]).placement.ambiguous == frozenset()


def test_orders_that_agree_are_not_ambiguous():
    root = module("Net", a=conv(4, 4), b=conv(4, 4), fc=linear(4, 2))
    assert spec(root, calls=["a", "b", "fc"]).placement.ambiguous == frozenset()


def test_query_key_and_value_stand_in_that_order_however_they_are_registered():
    usual, other = (
        spec(text_model(depth=2, order=order))
        for order in (("query", "key", "value"), ("value", "query", "key"))
    )
    for made in (usual, other):
        for number, word in enumerate(("query", "key", "value")):
            path = f"text.encoder.layer.0.attention.self.{word}.weight"
            assert name_of(made, path) == f"blocks.0/linear.{number}/weight"


def test_query_key_and_value_are_not_ambiguous_however_they_are_executed():
    base = "text.encoder.layer.{}.attention.self.{}"
    calls = [base.format(n, word) for n in range(2) for word in ("value", "key", "query")]
    made = spec(text_model(depth=2), calls=calls)
    assert made.placement.ambiguous == frozenset()
    assert name_of(made, "text.encoder.layer.1.attention.self.query.weight") == (
        "blocks.1/linear.0/weight"
    )


def test_two_attentions_of_one_block_are_each_put_in_order():
    made = spec(encoder_decoder((2, 2)))
    prefix = "model.decoder.layers.0"
    names = [
        name_of(made, f"{prefix}.{where}.{word}_proj.weight")
        for where in ("self_attn", "cross_attn")
        for word in "qkv"
    ]
    assert names == [f"decoder.0/linear.{n}/weight" for n in (0, 1, 2, 4, 5, 6)]


def test_tables_stand_as_words_positions_and_types_however_they_are_registered():
    for order in (("word", "position", "token_type"), ("position", "token_type", "word")):
        made = spec(text_model(depth=2, tables=order))
        for number, word in enumerate(("word", "position", "token_type")):
            path = f"text.embeddings.{word}_embeddings.weight"
            assert name_of(made, path) == f"stem/embedding.{number}/weight"


def test_words_under_different_parents_do_not_change_places():
    root = module(
        "Net",
        a=module("A", value=linear(4, 4)),
        b=module("B", query=linear(4, 4)),
        norm=norm(4),
        fc=linear(4, 2),
    )
    made = spec(root)
    assert name_of(made, "a.value.weight") == "net/linear.0/weight"
    assert name_of(made, "b.query.weight") == "net/linear.1/weight"


def test_experts_are_counted_within_their_block():
    made = spec(mixture(experts=3))
    path = "layers.1.experts.2.down.weight"
    assert name_of(made, path) == "blocks.1/expert.2/linear.1/weight"
    assert name_of(made, "layers.1.gate.weight") == "blocks.1/linear.2/weight"


def test_experts_are_counted_by_registration_whichever_ran_first():
    layers = [f"layers.0.experts.{n}.{part}" for n in (2, 0) for part in ("up", "down")]
    made = spec(mixture(experts=3), calls=["embed_tokens", "layers.0", *layers, "layers.1"])
    for expert in range(3):
        path = f"layers.0.experts.{expert}.down.weight"
        assert name_of(made, path) == f"blocks.0/expert.{expert}/linear.1/weight"
    assert made.placement.ambiguous == frozenset()


def test_an_adapter_goes_by_the_name_of_the_layer_it_adapts():
    root = text_model(depth=2)
    adapted(node_at(root, "text.encoder.layer.0.attention.self.value"))
    made = spec(root)
    path = "text.encoder.layer.0.attention.self.value"
    assert name_of(made, f"{path}.lora_A") == "blocks.0/linear.2/lora_A"
    number = made.tree.tensor_of[made.tree.names.index(f"{path}.lora_A")]
    assert made.parameters[number].kind == "adapter"


def test_adapters_do_not_shift_any_other_name():
    plain, root = spec(text_model(depth=2)), text_model(depth=2)
    for block in node_at(root, "text.encoder.layer").children.values():
        for projection in node_at(block, "attention.self").children.values():
            adapted(projection)
    made = spec(root)
    kept = {c for c, a in zip(made.canonical, made.tree.adapters, strict=True) if not a}
    assert kept == set(plain.canonical)
    assert len(made.canonical) > len(plain.canonical)


def test_a_tied_parameter_has_one_canonical_name_and_aliases():
    made = spec(text_model(depth=2))
    tied = next(p for p in made.parameters if p.aliases)
    assert tied.name == "stem/embedding.0/weight"
    assert tied.path == "text.embeddings.word_embeddings.weight"
    assert tied.aliases == ("cls.decoder.weight",)
    assert len(made.parameters) == len(made.tree.names) - 1


def test_statistics_are_never_parameters_and_have_names_of_their_own():
    made = spec(conv_net(stages=1, depth=1))
    assert not any("running" in parameter.path for parameter in made.parameters)
    names = [made.state_name(state) for state in made.states]
    assert names[:2] == ["stem/norm.0/mean", "stem/norm.0/var"]
    assert len(set(names)) == len(names)


def test_a_norm_without_parameters_is_counted_all_the_same():
    root = module(
        "Net", a=norm(4, statistics=True, affine=False), b=norm(4, statistics=True), c=conv(3, 4)
    )
    assert name_of(spec(root), "b.weight").endswith("norm.1/weight")


# Kinds and roles ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "shape", "kind"),
    [
        ("RMSNorm", (8,), "norm"),
        ("LayerNormalization", (8,), "norm"),
        ("RowParallelLinear", (8, 8), "linear"),
        ("FusedDense", (8, 8), "linear"),
        ("VocabParallelEmbedding", (11, 8), "embedding"),
        ("ScaledConv2d", (8, 8, 3, 3), "conv"),
        ("RMSNorm", (8, 8), "param"),
        ("Gate", (8, 8), "param"),
    ],
)
def test_the_kind_of_an_unknown_leaf_layer_is_guessed_from_its_class(class_name, shape, kind):
    made = spec(module("Net", layer=Node(class_name, "", {"weight": Weight(*shape)})))
    assert made.parameters[0].kind == kind


def test_no_kind_is_guessed_for_a_module_whose_children_have_parameters():
    layer = module("AdaptiveNorm", {"scale": Weight(4)}, project=linear(4, 4))
    assert spec(module("Net", layer=layer)).parameters[0].kind == "param"


@pytest.mark.parametrize("name", ["AdaptiveNorm", "RmsNormAct2d", "RmsNormFp32"])
def test_a_layer_that_holds_an_activation_is_guessed_by_its_class(name):
    made = spec(module("Net", layer=module(name, {"weight": Weight(4)}, a=act())))
    assert made.parameters[0].kind == "norm"


@pytest.mark.parametrize(
    ("kind", "leaf", "role"),
    [
        ("norm", "scale", "weight"),
        ("norm", "gamma", "weight"),
        ("norm", "shift", "bias"),
        ("norm", "beta", "bias"),
        ("activation", "_weight", "weight"),
        ("linear", "in_proj_bias", "in_proj_bias"),
        ("rnn", "weight_ih_l0", "weight_ih_l0"),
        ("", "gamma", "gamma"),
    ],
)
def test_the_role_is_weight_or_bias_where_the_leaf_says_so(kind, leaf, role):
    made = spec(module("Net", layer=Node("Layer", kind, {leaf: Weight(4)})))
    assert made.canonical[0].rpartition("/")[2] == role


# The order of parameters --------------------------------------------------------------------


def test_canonical_order_runs_from_the_input_to_the_head():
    made = spec(text_model(depth=2))
    ordered = [made.parameters[n].name.split("/")[0] for n in made.canonical_order]
    assert list(dict.fromkeys(ordered)) == ["stem", "blocks.0", "blocks.1", "neck", "head"]


def test_canonical_order_lists_each_parameter_once():
    for root in (text_model(), conv_net(), image_model(), two_towers(), mixture()):
        made = spec(root)
        assert sorted(made.canonical_order) == list(range(len(made)))


def test_a_transition_stands_before_the_block_it_leads_into():
    made = spec(
        module(
            "Net",
            stage1=stack(bottleneck(8, 8)),
            down=conv(8, 8),
            stage2=stack(bottleneck(8, 8)),
            fc=linear(8, 4),
        )
    )
    zones_met = [made.parameters[n].name.split("/")[0] for n in made.canonical_order]
    assert list(dict.fromkeys(zones_met)) == ["blocks.0", "transition.1", "blocks.1", "head"]


def test_in_a_convolutional_block_convolutions_and_norms_alternate():
    made = spec(conv_net(stages=1, depth=2))
    ordered = [made.parameters[n].path for n in made.canonical_order]
    inside = [path for path in ordered if path.startswith("layer1.0")]
    assert inside == [
        "layer1.0.conv1.weight",
        "layer1.0.bn1.weight",
        "layer1.0.bn1.bias",
        "layer1.0.conv2.weight",
        "layer1.0.bn2.weight",
        "layer1.0.bn2.bias",
    ]


def test_canonical_order_does_not_depend_on_the_order_of_projections():
    usual, other = (
        spec(text_model(depth=2, order=order))
        for order in (("query", "key", "value"), ("key", "value", "query"))
    )
    assert [usual.parameters[n].name for n in usual.canonical_order] == [
        other.parameters[n].name for n in other.canonical_order
    ]
