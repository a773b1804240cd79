"""The words for mixtures of experts: experts, shared_experts and router; scalars and lora, too."""

from __future__ import annotations

import re

import numpy as np
import pytest

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.tower_nets import batch_for, networks
from tests.support.trees import Node, Weight, linear, module, norm, spec, stack
from unifreeze._plan.selectors import evaluate, parse
from unifreeze.errors import (
    FrozenDriftError,
    ResolveError,
    SelectorRangeError,
    SelectorScopeError,
    UnmatchedSelectorError,
)

FRAMEWORKS = ("torch", "paddle")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}

HUGGING = {
    "Mixtral": (
        {"num_local_experts": 4},
        {"router": r"block_sparse_moe\.gate\.", "experts": r"block_sparse_moe\.experts\."},
    ),
    "Qwen3Moe": (
        {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 16, "decoder_sparse_step": 1},
        {"router": r"mlp\.gate\.", "experts": r"mlp\.experts\."},
    ),
    "Qwen2Moe": (
        {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
        {
            "router": r"mlp\.gate\.",
            "experts": r"mlp\.experts\.",
            "shared_experts": r"mlp\.shared_expert(_gate)?\.",
        },
    ),
    "DeepseekV3": (
        {
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "v_head_dim": 8,
            **LATENT,
        },
        {
            "router": r"mlp\.gate\.",
            "experts": r"mlp\.experts\.",
            "shared_experts": r"mlp\.shared_experts\.",
        },
    ),
    "Ernie4_5_Moe": (
        {"moe_intermediate_size": 16, "moe_num_experts": 4, "moe_k": 2},
        {
            "router": r"mlp\.gate\.",
            "experts": r"mlp\.experts\.",
            "shared_experts": r"mlp\.shared_experts\.",
        },
    ),
    "GptOss": (
        {"num_local_experts": 4, "head_dim": 16, "num_experts_per_tok": 2},
        {"router": r"mlp\.router\.", "experts": r"mlp\.experts\."},
    ),
    "Llama4Text": (
        {"num_local_experts": 4, "intermediate_size_mlp": 64, "head_dim": 16},
        {
            "router": r"feed_forward\.router\.",
            "experts": r"feed_forward\.experts\.",
            "shared_experts": r"feed_forward\.shared_expert\.",
        },
    ),
    "GraniteMoeShared": (
        {"num_local_experts": 4, "shared_intermediate_size": 16},
        {
            "router": r"block_sparse_moe\.router\.",
            "experts": r"block_sparse_moe\.(input|output)_linear\.",
            "shared_experts": r"shared_mlp\.",
        },
    ),
    "JetMoe": (
        {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8},
        {
            "router": r"router\.",
            "experts": r"(mlp|experts)\.(input|output)_linear\.|experts\.bias",
        },
    ),
}
WORDS = ("router", "experts", "shared_experts")


def hugging(name):
    """A mixture of experts of transformers, without values."""
    import_torchvision()
    import torch
    import transformers

    sizes, _ = HUGGING[name]
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **sizes})
    family = name.removesuffix("Text") if name == "Llama4Text" else name
    with torch.device("meta"):
        return getattr(transformers, f"{family}ForCausalLM")(config)


def selected(model, selector):
    """The names that a selector selects."""
    made = uf.resolve(uf.FreezePlan().train("all"), model).spec
    return set(made.paths_of(np.unique(made.atoms.tensor[evaluate(parse(selector), made)])))


def trained(model, selector):
    return set(uf.resolve(uf.FreezePlan().only(selector), model).trainable_paths)


@pytest.mark.parametrize("name", HUGGING)
def test_words_stand_for_what_a_person_would_list(name):
    model, parts = hugging(name), HUGGING[name][1]
    every = [path for path, _ in model.named_parameters()]
    for word in WORDS:
        expected = {path for path in every if word in parts and re.search(parts[word], path)}
        assert selected(model, word) == expected - state_of(model), word
        assert bool(expected) == (word in parts)


def state_of(model):
    """Balancing biases that a library keeps as parameters that never train."""
    return {n for n, p in model.named_parameters() if n.endswith("correction_bias")}


@pytest.mark.parametrize("name", HUGGING)
def test_mlp_never_takes_a_router(name):
    model = hugging(name)
    assert not selected(model, "mlp") & selected(model, "router")
    assert selected(model, "ffn") == selected(model, "mlp")


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe", "DeepseekV3", "Ernie4_5_Moe"])
def test_an_index_counts_the_experts_of_every_layer(name):
    model = hugging(name)
    found = {path for path in selected(model, "experts[1:3]")}
    assert found == {p for p in selected(model, "experts") if re.search(r"experts\.[12]\.", p)}
    assert selected(model, "experts[-1]") == {p for p in selected(model, "experts[3]")}
    with pytest.raises(SelectorRangeError, match="has 4 experts"):
        trained(model, "experts[4]")


def test_experts_in_one_tensor_are_not_divided():
    with pytest.raises(SelectorScopeError, match="would split a tensor"):
        trained(hugging("GptOss"), "experts[0]")


def test_paddlenlp():
    from paddlenlp.transformers import MixtralConfig, MixtralForCausalLM
    from paddlenlp.transformers.model_utils import no_init_weights

    with no_init_weights():
        model = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4))
    every = [path for path, _ in model.named_parameters()]
    assert selected(model, "experts") == {p for p in every if ".experts." in p}
    assert selected(model, "router") == {
        p for p in every if p.endswith("block_sparse_moe.gate.weight")
    }
    assert len(selected(model, "experts[0]")) == 2 * 3
    assert not selected(model, "mlp") & selected(model, "router")


# The same small networks in both frameworks.


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("bias", ["", "buffer", "alone"])
def test_both_frameworks_select_the_same(bias, framework):
    model = networks(framework).mixture(bias=bias, shared=True, first_dense=True)
    every = [path for path, _ in model.named_parameters()]
    assert selected(model, "experts") == {p for p in every if ".experts." in p}
    assert selected(model, "shared_experts") == {p for p in every if ".shared_experts." in p}
    routers = {p for p in every if ".gate." in p}
    assert selected(model, "router") == routers
    assert len(routers) == 2 * 2
    assert selected(model, "experts[0:2]") == {
        p for p in every if re.search(r"experts\.[01]\.", p) and "shared" not in p
    }
    mlp = selected(model, "mlp")
    assert selected(model, "experts") < mlp
    assert not mlp & routers


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_plans_for_experts_hold_through_training(framework):
    model = networks(framework).mixture(shared=True)
    handle = uf.FreezePlan().only("experts | shared_experts").apply(model)
    model(*batch_for("mixture", framework)).mean().backward()
    assert handle.verify()
    assert not any("gate" in path for path in handle.resolution.trainable_paths)


def biases(model, framework):
    """The balancing biases of a network, wherever they are kept."""
    state = model.state_dict()
    return [tensor for name, tensor in state.items() if name.endswith("correction_bias")]


def move(tensors, framework):
    """Move biases as training code does: by counting, without a gradient."""
    for tensor in tensors:
        if framework == "torch":
            tensor.data.add_(0.5)
        else:
            tensor.set_value(tensor + 0.5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("bias", ["buffer", "alone"])
def test_a_balancing_bias_is_state_that_holds_with_its_router(bias, framework):
    make = networks(framework).mixture
    free = make(bias=bias, shared=True)
    handle = uf.FreezePlan().only("router").apply(free)
    assert not any("correction_bias" in p.path for p in handle.resolution.spec.parameters)
    move(biases(free, framework), framework)
    assert handle.verify()

    held = make(bias=bias, shared=True)
    handle = uf.FreezePlan().only("experts").apply(held)
    move(biases(held, framework)[:1], framework)
    with pytest.raises(FrozenDriftError, match="e_score_correction_bias: moved"):
        handle.verify()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_train_all_does_not_make_a_balancing_bias_train(framework):
    model = networks(framework).mixture(bias="alone")
    handle = uf.FreezePlan().train("all").apply(model)
    (bias, *_) = [p for n, p in model.named_parameters() if n.endswith("correction_bias")]
    assert not (bias.requires_grad if framework == "torch" else not bias.stop_gradient)
    assert not handle.resolution.notices


def test_a_balancing_bias_that_trains_is_a_parameter_of_the_router():
    import torch

    model = networks("torch").mixture(bias="alone")
    for name, tensor in list(model.named_parameters()):
        if name.endswith("correction_bias"):
            tensor.requires_grad_(requires_grad=True)
    found = {path for path in selected(model, "router") if path.endswith("correction_bias")}
    assert len(found) == 3
    handle = uf.FreezePlan().only("experts").apply(model)
    assert handle.verify()
    assert isinstance(next(iter(model.parameters())), torch.nn.Parameter)


# By hand.


def layer(**parts):
    attention = {name: linear(8, 8) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    return module("Layer", attn=module("Attention", **attention), norm=norm(8), **parts)


def dense():
    return module("Ffn", up_proj=linear(8, 16), down_proj=linear(16, 8))


def paths(text, made):
    return {made.tree.names[n] for n in made.atoms.name[evaluate(parse(text), made)]}


def test_a_router_is_told_by_its_axis_where_its_name_says_nothing():
    def moe():
        experts = stack(*(dense() for _ in range(5)))
        return module("Moe", {"shift": Weight(5)}, chooser=linear(8, 5), experts=experts)

    made = spec(module("Net", layers=stack(*(layer(moe=moe()) for _ in range(2)))))
    found = {path.removeprefix("layers.0.") for path in paths("router", made) if ".0." in path}
    assert found == {"moe.chooser.weight", "moe.chooser.bias", "moe.shift"}
    assert not paths("mlp", made) & paths("router", made)


def test_experts_may_stand_in_a_module_of_their_own():
    def moe():
        experts = module("Experts", local_experts=stack(*(dense() for _ in range(3))))
        gate = module("Gate", wg=linear(8, 3, bias=False))
        return module("Moe", gate=gate, experts=experts, shared_experts=dense())

    made = spec(module("Net", layers=stack(*(layer(mlp=moe()) for _ in range(2)))))
    assert len(paths("experts[2]", made)) == 2 * 4
    assert paths("router", made) == {f"layers.{n}.mlp.gate.wg.weight" for n in (0, 1)}
    assert len(paths("shared_experts", made)) == 2 * 4


def test_a_gate_of_a_dense_layer_is_not_a_router():
    ffn = {"gate_proj": linear(8, 16), "up_proj": linear(8, 16), "down_proj": linear(16, 8)}
    made = spec(module("Net", layers=stack(*(layer(mlp=module("M", **ffn)) for _ in range(2)))))
    assert not paths("router", made)
    assert any("gate_proj" in path for path in paths("mlp", made))


@pytest.mark.parametrize("word", ["experts", "router", "shared_experts"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_model_without_experts_is_refused_in_words(word, framework):
    model = networks(framework).seeing()
    with pytest.raises(UnmatchedSelectorError, match="this model has none"):
        trained(model, word)


def test_a_module_called_like_a_word_is_offered_as_a_path():
    from torch import nn

    model = nn.Sequential()
    model.add_module("router", nn.Linear(4, 4))
    model.add_module("out", nn.Linear(4, 2))
    with pytest.raises(UnmatchedSelectorError, match='module of that name is path:"router"'):
        trained(model, "router")
    assert trained(model, 'path:"router"') == {"router.weight", "router.bias"}


def test_an_index_of_experts_in_a_model_without_them_is_refused():
    with pytest.raises(ResolveError, match="the model has no experts"):
        trained(networks("torch").seeing(), "experts[0]")


# Scalars, and adapters by the name that most people use.


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_scalars_are_single_values_of_no_layer(framework):
    made = networks(framework)
    assert selected(made.matching(), "scalars") == {"logit_scale"}
    with pytest.raises(UnmatchedSelectorError):
        trained(made.seeing(), "scalars")


def test_lora_is_adapter():
    tree = Node("Net", "", {}, {"layers": stack(layer(mlp=dense()), layer(mlp=dense()))})
    tree.children["layers"].children["0"].children["mlp"].children["up_proj"].own["lora_A"] = (
        Weight(2, 8, adapter=True)
    )
    made = spec(tree)
    assert paths("lora", made) == paths("adapter", made) == {"layers.0.mlp.up_proj.lora_A"}
