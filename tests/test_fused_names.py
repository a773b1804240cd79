"""One network, its projections apart or fused: canonical names are the same in all its forms."""

from itertools import product
from random import Random

import pytest

import unifreeze as uf
from tests.support import trees
from tests.support.trees import Node, Weight, embedding, linear, module, norm, spec, stack
from unifreeze._resolution import resolve_spec
from unifreeze._structure.words_in_names import PARTS, parts_of, words_in
from unifreeze.errors import FusedTensorError

WIDTH, INNER = 8, 10
SIZES = {"q": WIDTH, "k": 4, "v": 4, "gate": INNER, "up": INNER}
SPELLINGS = {
    "qkv": ("c_attn", "qkv", "qkv_proj", "query_key_value", "to_qkv", "Wqkv", "W_pack", "c_qkv"),
    "kv": ("kv", "kv_proj", "to_kv", "key_value"),
    "gate up": ("gate_up_proj", "up_gate_proj", "gate_up_fused_proj", "fused_gate_up", "w12"),
    "q": ("q", "query", "q_proj", "to_q", "q_attn"),
    "k": ("k", "key", "k_proj", "to_k", "k_attn"),
    "v": ("v", "value", "v_proj", "to_v", "v_attn"),
}
FFNS = ("apart", "fused")
FORMS = ("apart", "qkv", "q + kv", "q + c_attn", "leaf", "leaves")
"""How attention holds its projections: see `projections`."""


def size(parts):
    return sum(SIZES[part] for part in parts)


def fused(random, parts, bias):
    """One linear layer for several parts, under a name that says so, and which parts it holds."""
    spelling = random.choice(SPELLINGS[" ".join(parts) if "up" in parts else "".join(parts)])
    return {spelling: (linear(WIDTH, size(parts), bias=bias), parts)}


def projections(random, form, bias):
    """The projections of one attention: layers by name, each with the parts it holds in order."""
    if form == "qkv":
        return fused(random, ("q", "k", "v"), bias)
    alone = {
        random.choice(SPELLINGS[part]): (linear(WIDTH, SIZES[part], bias=bias), (part,))
        for part in random.sample(("q", "k", "v"), 3)
    }
    if form == "apart":
        return alone
    (query,) = [name for name, (_, parts) in alone.items() if parts == ("q",)]
    if form == "q + c_attn":  # called after all three, and yet without the query
        pair = {"c_attn": (linear(WIDTH, size("kv"), bias=bias), ("k", "v"))}
    else:
        pair = fused(random, ("k", "v"), bias)
    found = [(query, alone[query]), *pair.items()]
    return dict(random.sample(found, 2))


def in_leaves(form, bias):
    """Attention as one layer that holds its projections itself, as torch.nn has it."""
    own = {}
    if form == "leaf":
        own["in_proj_weight"] = Weight(size("qkv"), WIDTH)
    else:
        own |= {f"{part}_proj_weight": Weight(SIZES[part], WIDTH) for part in "qkv"}
    if bias:
        own["in_proj_bias"] = Weight(size("qkv"))
    return own


def attention(random, form, bias):
    """One attention, and for each of its tensors which parts of what it holds."""
    out = linear(WIDTH, WIDTH)
    if form in ("leaf", "leaves"):
        own = in_leaves(form, bias)
        held = {leaf: (leaf[0],) if leaf[1:] == "_proj_weight" else ("q", "k", "v") for leaf in own}
        layer = Node("MultiheadAttention", "linear", own, {"out_proj": out})
        said = {leaf: (parts, leaf.rpartition("_")[2]) for leaf, parts in held.items()}
    else:
        layers = projections(random, form, bias)
        layer = module("Attention", **{n: node for n, (node, _) in layers.items()}, out=out)
        said = {
            f"{name}.{leaf}": (parts, leaf)
            for name, (node, parts) in layers.items()
            for leaf in node.own
        }
    name = "out_proj" if form in ("leaf", "leaves") else "out"
    return layer, said | {f"{name}.{leaf}": (("out",), leaf) for leaf in out.own}


def feed_forward(random, form):
    """Gate and up, apart or fused, and down."""
    down = linear(INNER, WIDTH, bias=False)
    parts = ("gate", "up")
    if form == "fused":
        layers = fused(random, parts, bias=False)
    else:
        layers = {f"{p}_proj": (linear(WIDTH, INNER, bias=False), (p,)) for p in parts}
    nodes = {name: node for name, (node, _) in layers.items()}
    said = {f"{name}.weight": (held, "weight") for name, (_, held) in layers.items()}
    return module("FeedForward", **nodes, down=down), said | {"down.weight": (("down",), "weight")}


def network(random, form, ffn, bias, crossing):
    """A small decoder, and for each of its tensors what it holds: (block, layer, parts, leaf)."""
    blocks, said = [], {}
    for number in range(2):
        attns = [attention(random, form, bias) for _ in range(1 + crossing)]
        mlp, held = feed_forward(random, ffn)
        norms = {f"norm{n}": norm(WIDTH) for n in range(2 + crossing)}
        named = {f"attn{n}": one for n, (one, _) in enumerate(attns)} | {"mlp": mlp}
        early = random.random() < 0.5
        children = norms | named if early else named | norms
        blocks.append(module("Block", **children))
        for n, (_, tensors) in enumerate(attns):
            said |= {
                f"h.{number}.attn{n}.{path}": (number, n, *what) for path, what in tensors.items()
            }
        said |= {f"h.{number}.mlp.{path}": (number, "mlp", *what) for path, what in held.items()}
        for name, node in norms.items():
            said |= {f"h.{number}.{name}.{leaf}": (number, name, ("",), leaf) for leaf in node.own}
    root = module("Net", words=embedding(11, WIDTH), h=stack(*blocks), fc=linear(WIDTH, 3))
    said |= {"words.weight": (0, "words", ("",), "weight")}
    said |= {f"fc.{leaf}": (0, "fc", ("",), leaf) for leaf in ("weight", "bias")}
    return root, said


def names_of_parts(made, said):
    """The canonical name of everything that the network holds, part by part."""
    found = {}
    for name, path in enumerate(made.tree.names):
        block, layer, parts, leaf = said[path]
        for part, canonical in zip(parts, made.part_names(name), strict=True):
            found[block, layer, part, leaf] = canonical
    return found


@pytest.mark.parametrize(("form", "ffn"), list(product(FORMS, FFNS)))
def test_every_part_has_the_name_it_has_where_all_are_apart(form, ffn):
    for seed in range(40):
        random = Random(f"{form} {ffn} {seed}")
        bias, crossing = random.random() < 0.5, random.random() < 0.5
        apart, said = network(random, "apart", "apart", bias, crossing)
        other, other_said = network(random, form, ffn, bias, crossing)
        one, two = names_of_parts(spec(apart), said), names_of_parts(spec(other), other_said)
        assert one == two


@pytest.mark.parametrize(("form", "ffn"), list(product(FORMS, FFNS)))
def test_a_fused_tensor_goes_by_its_first_part_and_stands_in_its_place(form, ffn):
    for seed in range(10):
        random = Random(seed)
        root, said = network(random, form, ffn, bias=True, crossing=False)
        made = spec(root)
        assert [p.name for p in made.parameters] == made.canonical
        assert all(made.canonical[n] == made.part_names(n)[0] for n in range(len(said)))
        assert len(set(made.canonical)) == len(made.canonical)
        apart, _ = network(random, "apart", "apart", bias=True, crossing=False)
        whole = spec(apart)
        order = [whole.canonical[n] for n in whole.canonical_order]
        assert [c for c in order if c in made.canonical] == [
            made.canonical[n] for n in made.canonical_order
        ]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_several_models_are_numbered_each_as_if_alone(framework):
    both = module("Both", a=trees.image_model(), b=trees.image_model())
    made = spec(both, framework=framework, members=True)
    alone = spec(trees.image_model())
    assert made.canonical == [f"{m}.{name}" for m in "ab" for name in alone.canonical]
    assert "a.blocks.0/linear.3/weight" in made.canonical
    assert "a.blocks.0/linear.1/weight" not in made.canonical


def frozen(made, *selectors):
    plan = uf.FreezePlan()
    for selector in selectors:
        plan = plan.freeze(selector)
    return {p for p in resolve_spec(plan, made).frozen_paths}


def test_a_part_is_named_as_where_it_stands_apart_and_all_of_them_are_the_whole():
    made = spec(trees.image_model())
    qkv = {f"blocks.0.attn.qkv.{leaf}" for leaf in ("weight", "bias")}
    assert frozen(made, 'at:"blocks.0/linear.[012]"') == qkv
    assert frozen(made, *(f'at:"blocks.0/linear.{n}"' for n in range(3))) == qkv
    assert frozen(made, 'at:"blocks.0/linear.3"') == {
        f"blocks.0.attn.proj.{leaf}" for leaf in ("weight", "bias")
    }
    for part in ("0", "1", "2", "[01]"):
        with pytest.raises(FusedTensorError, match=r"would split blocks\.0\.attn\.qkv"):
            frozen(made, f'at:"blocks.0/linear.{part}"')


def test_a_plan_that_counts_beside_a_fused_layer_hears_of_its_places():
    made = spec(trees.image_model())
    said = (
        "a layer that holds several projections counts as all of them: blocks.0.attn.qkv is "
        "blocks.0/linear.0 to .2"
    )
    plan = uf.FreezePlan()
    assert said in resolve_spec(plan.freeze('at:"blocks.0/linear.3"'), made).notices
    for other in ('at:"blocks.0"', 'at:"blocks.0/norm.1"', "blocks[0]", "linear"):
        notices = resolve_spec(plan.freeze(other), made).notices
        assert not any("several projections" in notice for notice in notices), other
    apart = spec(trees.text_model())
    assert not any(
        "several" in n for n in resolve_spec(plan.freeze('at:"blocks.0/linear.3"'), apart).notices
    )


def test_the_refusal_of_a_part_of_gate_and_up_says_what_to_write():
    root, _ = network(Random(0), "apart", "fused", bias=False, crossing=False)
    made = spec(root)
    with pytest.raises(FusedTensorError) as caught:
        frozen(made, 'at:"blocks.0/linear.4"')
    assert caught.value.context.startswith("gate and up are one tensor here")
    selector = caught.value.hint.partition("(")[2].rpartition(")")[0]
    assert len(frozen(made, selector)) == 1


@pytest.mark.parametrize("segment", [s for key in ("qkv", "kv", "gate up") for s in SPELLINGS[key]])
def test_the_names_of_fused_projections_are_known(segment):
    assert len(parts_of(words_in(segment))) == 2 + (segment in SPELLINGS["qkv"])


@pytest.mark.parametrize("segment", ["kqv", "qkv_norm", "gate", "up", "upgrade", "w1", "mixed"])
def test_names_that_only_look_like_them_are_not(segment):
    assert not words_in(segment) & sum(PARTS)
