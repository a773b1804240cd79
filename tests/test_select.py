"""The selector language: what parses, what every form selects, and the laws of its algebra."""

from __future__ import annotations

import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.random_models import EXPRESSIONS, TOTAL, TOTAL_EXPRESSIONS, models
from tests.support.trees import (
    MODELS,
    Node,
    Weight,
    adapted,
    bottleneck,
    conv,
    conv_net,
    embedding,
    encoder_decoder,
    image_model,
    linear,
    module,
    node_at,
    norm,
    perceptron,
    plain_conv_net,
    seq_block,
    several,
    spec,
    stack,
    text_model,
    tree,
    two_towers,
)
from unifreeze._plan.selectors import WORDS, Path, Selector, Word, evaluate, parse
from unifreeze._plan.selectors.expression import (
    Both,
    Bound,
    Either,
    Index,
    OtherThan,
    Quoted,
    Segment,
    Size,
    Within,
    Without,
)
from unifreeze._plan.selectors.positions import positions
from unifreeze._structure import derive
from unifreeze.errors import (
    ArgumentError,
    ResolveError,
    SelectorRangeError,
    SelectorScopeError,
    SelectorSyntaxError,
    UnmatchedSelectorError,
)

A, B, C, D = (Path((Segment(letter),)) for letter in "abcd")


def names(text, made):
    """The native names an expression selects."""
    expression = parse(text) if isinstance(text, str) else text
    chosen = made.atoms.name[evaluate(expression, made)]
    return {made.tree.names[name] for name in chosen}


def last_names(text, made):
    """The last piece of the paths of the layers an expression selects from."""
    return {path.rpartition(".")[2] for path in modules(text, made)}


def modules(text, made):
    """The native paths of the layers whose tensors an expression selects."""
    return {name.rpartition(".")[0] for name in names(text, made)}


# The grammar --------------------------------------------------------------------------------


def index(start=None, stop=None, *, single=False):
    def bound(given):
        if given is None:
            return None
        percent = isinstance(given, str)
        return Bound(Fraction(given.rstrip("%") if percent else given), percent)

    return Index(bound(start), bound(stop), single)


FORMS = {
    "all": Word("all"),
    "tied": Word("tied"),
    "head": Word("head"),
    "blocks": Word("blocks"),
    "blocks[0]": Word("blocks", index(0, single=True)),
    "blocks[-1]": Word("blocks", index(-1, single=True)),
    "blocks[:10]": Word("blocks", index(None, 10)),
    "blocks[-2:]": Word("blocks", index(-2)),
    "blocks[2:5]": Word("blocks", index(2, 5)),
    "blocks[:]": Word("blocks", index()),
    "blocks[:50%]": Word("blocks", index(None, "50%")),
    "blocks[12.5%:]": Word("blocks", index("12.5%")),
    "stages[3]": Word("stages", index(3, single=True)),
    "layers[1]": Word("layers", index(1, single=True)),
    "encoder[:6]": Word("encoder", index(None, 6)),
    "decoder[-1]": Word("decoder", index(-1, single=True)),
    "children[0]": Word("children", index(0, single=True)),
    "params[:70%]": Word("params", index(None, "70%")),
    "layer4": Path((Segment("layer4"),)),
    "head.weight": Path((Segment("head"), Segment("weight"))),
    "encoder.layers[0:10]": Path((Segment("encoder"), Segment("layers", index(0, 10)))),
    "a[1].b[-1].c": Path(
        (Segment("a", index(1, single=True)), Segment("b", index(-1, single=True)), Segment("c"))
    ),
    "**.bias": Path((Segment("**"), Segment("bias"))),
    "layer?.*.conv1": Path((Segment("layer?"), Segment("*"), Segment("conv1"))),
    "0": Path((Segment("0"),)),
    'path:"norm"': Path((Segment("norm"),), quoted=True),
    'path:"a-b.c d"': Path((Segment("a-b"), Segment("c d")), quoted=True),
    're:".*\\.bias"': Quoted("re", ".*\\.bias"),
    'type:"BatchNorm2d"': Quoted("type", "BatchNorm2d"),
    'at:"blocks.3/linear.*"': Quoted("at", "blocks.3/linear.*"),
    "size(> 1000000)": Size(">", 1e6),
    "size(<= 0.5)": Size("<=", 0.5),
    "a | b": Either(A, B),
    "a & b": Both(A, B),
    "a - b": Without(A, B),
    "~a": OtherThan(A),
    "blocks[-4:] in language_model": Within(Word("blocks", index(-4)), "language_model"),
    'head in path:"a-b"': Within(Word("head"), "a-b"),
    "(a | b) in student": Within(Either(A, B), "student"),
}


@pytest.mark.parametrize("text", FORMS)
def test_every_form_parses(text):
    assert parse(text) == FORMS[text]


@pytest.mark.parametrize("text", FORMS)
def test_every_form_is_written_back_as_it_stands(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize("word", sorted(WORDS))
def test_every_word_of_the_vocabulary_parses_as_that_word(word):
    text = f"{word}[0]" if word in ("children", "params") else word
    assert parse(text).name == word


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a|b", "a | b"),
        ("blocks[ -2 : ]", "blocks[-2:]"),
        ("size(>1e6)", "size(> 1000000)"),
        ("size ( >= 10 )", "size(>= 10)"),
        ("re :'a'", 're:"a"'),
        ("  head\n", "head"),
        ("((a))", "a"),
        ("~ ~a", "~~a"),
        ("blocks[:50.0%]", "blocks[:50%]"),
    ],
)
def test_spelling_variants_mean_the_same(text, same):
    assert parse(text) == parse(same)
    assert str(parse(text)) == same


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS)
def test_what_is_written_reads_back_equal(expression):
    assert parse(str(expression)) == expression


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("a | b & c", Either(A, Both(B, C))),
        ("a & b | c", Either(Both(A, B), C)),
        ("a & b - c", Both(A, Without(B, C))),
        ("a - b & c", Both(Without(A, B), C)),
        ("~a & b", Both(OtherThan(A), B)),
        ("~a - b", Without(OtherThan(A), B)),
        ("~(a | b)", OtherThan(Either(A, B))),
        ("a | b | c", Either(Either(A, B), C)),
        ("a - b - c", Without(Without(A, B), C)),
        ("a - (b - c)", Without(A, Without(B, C))),
        ("(a | b) & c", Both(Either(A, B), C)),
        ("a & b in c", Both(A, Within(B, "c"))),
        ("~a in c", OtherThan(Within(A, "c"))),
        ("a in b in c", Within(Within(A, "b"), "c")),
        ("a - b in c", Without(A, Within(B, "c"))),
    ],
)
def test_precedence_is_pythons_and_in_binds_tightest(text, expression):
    assert parse(text) == expression


@given(st.recursive(st.sampled_from("abcd"), lambda s: st.one_of(
    st.tuples(s, st.sampled_from("|&-"), s).map(" ".join),
    s.map("~{}".format), s.map("({})".format)), max_leaves=8))  # fmt: skip
def test_an_expression_means_what_python_makes_of_it(text):
    values = {letter: Selector(letter) for letter in "abcd"}
    assert Selector(text) == eval(text, {}, values)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("head |", "it ends too early"),
        ("(head", "it ends too early"),
        ("head in", "it ends too early"),
        ("~", "it ends too early"),
        ("| head", "cannot go on at '|'"),
        ("head & & norm", "cannot go on at '&'"),
        ("a b", "cannot go on at 'b'"),
        ("blocks[1", "cannot go on at '[1'"),
        ("size(>)", "cannot go on at ')'"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("head[0]", "'head' takes no index"),
        ("children", "'children' needs an index"),
        ("params", "'params' needs an index"),
        ("blocks[]", "neither a position nor a slice"),
        ("blocks[1:2:3]", "neither a position nor a slice"),
        ("blocks[a]", "neither a whole number"),
        ("blocks[1.5]", "neither a whole number"),
        ('re:"("', "does not compile"),
        ('head in type:"A"', "after 'in' stands a module"),
        ("rows(0:3)", "rows(…) is reserved"),
        ("weight & rows(0:3)", "rows(…) is reserved"),
    ],
)
def test_what_does_not_parse_is_refused_with_the_reason(text, fact):
    with pytest.raises(SelectorSyntaxError, match=re.escape(fact)):
        parse(text)


def test_a_syntax_error_points_at_the_place():
    with pytest.raises(SelectorSyntaxError) as caught:
        parse("head & & norm")
    assert caught.value.context.splitlines() == ["head & & norm", "       ^"]
    with pytest.raises(SelectorSyntaxError) as caught:
        parse("head |")
    assert caught.value.context.splitlines() == ["head |", "      ^"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("head and norm", "write & for and"),
        ("not head", "write & for and"),
        ("head, norm", "join alternatives with |"),
        ("^layer.*$", 'a regular expression is written re:"…"'),
        ("blocks.0/linear.0", 'a canonical name at:"…"'),
    ],
)
def test_a_syntax_error_hints_at_what_was_meant(text, hint):
    with pytest.raises(SelectorSyntaxError) as caught:
        parse(text)
    assert hint in caught.value.hint


def test_a_word_of_another_language_is_just_a_path():
    assert parse("größe") == Path((Segment("größe"),))


# Selectors in Python ------------------------------------------------------------------------


def test_operators_build_what_the_text_says():
    a, b = Selector("a"), Selector("b")
    assert a | b == Selector("a | b")
    assert a & b == Selector("a & b")
    assert a - b == Selector("a - b")
    assert ~a == Selector("~a")
    assert (a | b).within("student") == Selector("(a | b) in student")


def test_either_side_of_an_operator_may_be_text():
    a = Selector("a")
    assert a | "b" == Selector("a | b")
    assert "b" | a == Selector("b | a")
    assert "b" & a == Selector("b & a")
    assert "b" - a == Selector("b - a")


def test_equal_selectors_hash_equal_and_survive_pickling():
    one, other = Selector("head | blocks[-2:]"), Selector("head|blocks[ -2:]")
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert Selector("head") != "head"


def test_a_selector_cannot_be_changed():
    selector = Selector("head")
    with pytest.raises(AttributeError, match="cannot be changed"):
        selector.expression = parse("norm")
    with pytest.raises(AttributeError):
        del selector.expression
    assert str(selector) == "head"


def test_a_selector_is_made_of_text_alone():
    with pytest.raises(ArgumentError, match=r"text is \['head'\], and should be a selector"):
        Selector(["head"])


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


# The vocabulary: what each word selects, and what it does not -----------------------------------


@pytest.fixture(scope="module")
def text():
    return spec(text_model(depth=3))


@pytest.fixture(scope="module")
def images():
    return spec(conv_net(stages=3, depth=2))


@pytest.fixture(scope="module")
def vision():
    return spec(image_model(depth=2))


@pytest.fixture(scope="module")
def pair():
    return spec(encoder_decoder((3, 2)))


def test_all_selects_every_parameter_under_every_name():
    for build in MODELS.values():
        made = spec(build())
        assert names("all", made) == set(made.tree.names)


def test_tied_selects_parameters_with_several_names_and_no_others(text, images):
    both = {"text.embeddings.word_embeddings.weight", "cls.decoder.weight"}
    assert names("tied", text) == both
    assert names("tied", images) == set()


def test_stem_is_what_comes_before_the_first_block(images, text):
    assert modules("stem", images) == {"conv1", "bn1"}
    assert {path.split(".")[1] for path in modules("stem", text)} == {"embeddings"}


def test_head_is_what_comes_after_the_last_block_and_its_norm(vision, text, images):
    assert modules("head", images) == {"fc"}
    assert modules("head", vision) == {"head"}
    assert modules("head", text) == {
        "text.pooler.dense",
        "cls.transform",
        "cls.norm",
        "cls.decoder",
    }


def test_without_blocks_the_head_is_the_trailing_linears():
    made = spec(plain_conv_net())
    assert modules("head", made) == {"classifier.0", "classifier.3", "classifier.5"}
    assert modules("head", spec(perceptron(3))) == {"2"}


def test_neck_is_the_norm_between_the_last_block_and_the_head(vision, images):
    assert modules("neck", vision) == {"norm"}
    assert names("neck", images) == set()


def test_backbone_is_all_but_the_head(vision):
    assert names("backbone", vision) == names("all", vision) - names("head", vision)
    assert names("head", vision)


def test_embeddings_is_the_whole_stem_of_a_text_model(text, pair):
    tables = {f"{name}_embeddings" for name in ("word", "position", "token_type")}
    assert last_names("embeddings", text) == {*tables, "norm"}
    assert names("embeddings", text) == names("stem", text)
    assert "model.decoder.embed_positions.weight" in names("embeddings", pair)
    assert "model.encoder.layer_norm.weight" not in names("embeddings", pair)


def test_embeddings_is_no_part_of_an_image_model(images):
    assert names("embeddings", images) == set()


def test_embeddings_takes_the_text_tower_and_leaves_the_image_tower():
    made = spec(two_towers())
    assert modules("embeddings", made) == {
        "text_model.embed.token_embedding",
        "text_model.embed.pos_embedding",
    }


def test_a_table_beside_a_convolution_does_not_make_an_image_tower_read_text():
    root = two_towers()
    node_at(root, "vision_model.embed").children["position_table"] = embedding(5, 8)
    assert {path.split(".")[0] for path in modules("embeddings", spec(root))} == {"text_model"}


def test_embedding_is_lookup_tables_alone(text, images):
    assert names("embedding", text) == {
        f"text.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")
    }
    assert names("embedding", images) == set()


def test_pooler_is_what_is_called_so_with_all_under_it(text, images):
    assert names("pooler", text) == {"text.pooler.dense.weight", "text.pooler.dense.bias"}
    assert names("pooler", images) == set()


def test_classifier_is_the_last_linear_of_the_head(text, images):
    assert modules("classifier", images) == {"fc"}
    assert modules("classifier", text) == {"cls.decoder"}
    assert modules("classifier", spec(plain_conv_net())) == {"classifier.5"}


def test_classifier_is_the_last_convolution_of_a_head_without_linears():
    made = spec(
        module(
            "Net",
            backbone=conv_net(stages=2).children["layer1"],
            out=stack(conv(8, 8), norm(8), conv(8, 3)),
        )
    )
    assert modules("classifier", made) == {"out.2"}


def test_a_linear_that_never_ran_is_no_classifier():
    blocks = stack(seq_block(), seq_block())
    root = module("Net", blocks=blocks, fc=linear(8, 3), other=linear(8, 3))
    assert modules("classifier", spec(root)) == {"other"}
    assert modules("classifier", spec(root, calls=["blocks.0", "blocks.1", "fc"])) == {"fc"}


def test_an_auxiliary_head_is_no_classifier_beside_another():
    blocks = stack(seq_block(), seq_block())
    root = module("Net", blocks=blocks, fc=linear(8, 3), aux_head=linear(8, 3))
    assert modules("classifier", spec(root)) == {"fc"}
    assert modules("head", spec(root)) == {"fc", "aux_head"}


def test_classifier_is_one_layer_per_model_of_several():
    made = several(a=conv_net(stages=1), b=plain_conv_net())
    assert modules("classifier", made) == {"a.fc", "b.classifier.5"}


def with_adapters():
    root = text_model(depth=2)
    for number in range(2):
        adapted(node_at(root, f"text.encoder.layer.{number}.attention.self.query"))
    adapted(node_at(root, "cls.decoder"))
    return spec(root)


def test_adapter_is_adapters_and_nothing_else():
    made = with_adapters()
    assert {name.rpartition(".")[2] for name in names("adapter", made)} == {"lora_A", "lora_B"}
    assert len(names("adapter", made)) == 6


@pytest.mark.parametrize("word", ["linear", "query", "attention", "classifier", "pooler"])
def test_no_other_word_for_a_layer_takes_its_adapters(word):
    made = with_adapters()
    assert names(word, made)
    assert not names(word, made) & names("adapter", made)


def test_adapters_are_where_the_layers_they_adapt_are():
    made = with_adapters()
    assert names("adapter & blocks[0]", made) == {
        f"text.encoder.layer.0.attention.self.query.lora_{x}" for x in "AB"
    }
    assert names("adapter & head", made) == {"cls.decoder.lora_A", "cls.decoder.lora_B"}


def test_norm_conv_and_linear_go_by_the_kind_of_layer(vision, images):
    assert modules("conv", vision) == {"patch_embed.proj"}
    assert last_names("norm", vision) == {"norm", "norm1", "norm2"}
    assert modules("linear", images) == {"fc"}
    kinds = [names(kind, vision) for kind in ("conv", "norm", "linear", "embedding")]
    assert sum(map(len, kinds)) == len(set.union(*kinds)), "kinds do not overlap"
    assert set.union(*kinds) == names("all - cls_token - pos_embed", vision)


def test_attention_is_projections_and_tables_without_norms(text, images):
    inside = {path.removeprefix("text.encoder.layer.0.") for path in modules("attention", text)}
    assert {path for path in inside if not path.startswith("text.")} == {
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    }
    assert names("attention", images) == set()


@pytest.mark.parametrize("class_name", ["SelfAttention", "FlashAttention2", "CrossAttn"])
def test_a_class_named_as_an_attention_is_one_whatever_it_is_called(class_name):
    block = module("Block", mixer=module(class_name, o=linear(8, 8)), up=linear(8, 8))
    made = spec(module("Net", embed=embedding(5, 8), layers=stack(block, block)))
    assert names("attention & weight", made) == {f"layers.{n}.mixer.o.weight" for n in (0, 1)}


@pytest.mark.parametrize("class_name", ["AttentionNet", "AttentionBlock", "NoAttentionAtAll"])
def test_a_class_that_only_speaks_of_attention_does_not_make_all_in_it_attention(class_name):
    made = spec(module(class_name, layers=stack(seq_block(), seq_block()), head=linear(8, 2)))
    assert last_names("attention", made) == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert last_names("mlp", made) == {"fc1", "fc2"}


def test_attention_takes_loose_tables_under_it():
    block = seq_block()
    block.children["self_attn"].own["relative_table"] = Weight(3, 3)
    made = spec(module("Net", embed=embedding(5, 8), layers=stack(block, seq_block())))
    assert "layers.0.self_attn.relative_table" in names("attention", made)


def test_mlp_is_the_linear_layers_beside_attention(text, vision, pair):
    inside = {p.removeprefix("text.encoder.layer.0.") for p in modules("mlp", text)}
    inside = {p for p in inside if not p.startswith("text.")}
    assert inside == {"intermediate.dense", "output.dense"}
    assert modules("mlp & blocks[0]", vision) == {"blocks.0.mlp.fc1", "blocks.0.mlp.fc2"}
    assert last_names("mlp", pair) == {"fc1", "fc2"}


def test_mlp_is_nothing_outside_blocks_or_where_none_attends(text, images):
    assert not names("mlp & (head | stem)", text)
    assert names("mlp", images) == set()


def test_mlp_is_nothing_in_a_block_that_does_not_attend():
    def block():
        return module("Mixer", one=linear(8, 8), two=linear(8, 8))

    made = spec(module("Net", layers=stack(block(), block()), more=stack(seq_block(), seq_block())))
    assert len(names("blocks", made)) == 2 * 4 + 2 * 16
    assert {path.split(".")[0] for path in modules("mlp", made)} == {"more"}


def test_ffn_is_another_word_for_mlp(text):
    assert names("ffn", text) == names("mlp", text)


@pytest.mark.parametrize("word", ["query", "key", "value"])
def test_query_key_and_value_are_those_projections_alone(word, text, pair):
    assert names(word, text) == {
        f"text.encoder.layer.{n}.attention.self.{word}.{leaf}"
        for n in range(3)
        for leaf in ("weight", "bias")
    }
    assert last_names(word, pair) == {f"{word[0]}_proj"}


@pytest.mark.parametrize(
    "spelling", ["q", "query", "q_proj", "q_lin", "to_q", "wq", "w_q", "query_layer", "query_proj"]
)
def test_query_is_known_by_its_usual_spellings(spelling):
    made = spec(
        module("Net", attn=module("Attention", **{spelling: linear(4, 4), "o": linear(4, 4)}))
    )
    assert modules("query", made) == {f"attn.{spelling}"}


@pytest.mark.parametrize("other", ["queue", "quality", "q_norm", "keys", "v2", "kqv", "queries"])
def test_words_that_only_look_like_projections_are_none(other):
    made = spec(module("Net", attn=module("Attention", **{other: linear(4, 4)})))
    assert names("query | key | value", made) == set()


def test_a_head_called_value_is_no_projection_of_attention():
    model = text_model()
    model.children["value"] = linear(8, 1)
    critic = spec(model)
    assert names("value", critic) == names("value & blocks", critic)
    assert names("head", critic) >= {"value.weight", "value.bias"}


def test_a_fused_projection_is_query_and_key_and_value_at_once(vision):
    fused = {"blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"}
    for word in ("query", "key", "value"):
        assert names(f"{word} & blocks[0]", vision) == fused
    assert len(vision.atoms) == len(vision.tree.names) + 2 * 4


def test_parts_of_a_fused_projection_are_told_apart(vision):
    atoms = {w: evaluate(parse(w), vision) for w in ("query", "key", "value")}
    assert not (atoms["query"] & atoms["key"]).any()
    assert (atoms["query"] | atoms["key"] | atoms["value"]).sum() == 3 * 4


def test_parts_of_a_fused_projection_stay_apart_inside_a_submodule(vision):
    inside = evaluate(parse("query in blocks"), vision)
    assert np.array_equal(inside, evaluate(parse("query"), vision))


def test_a_fused_layer_can_be_named_as_the_place_itself(vision):
    assert names("all in blocks.0.attn.qkv", vision) == names("blocks.0.attn.qkv", vision)
    assert evaluate(parse("bias in blocks.0.attn.qkv"), vision).sum() == 3, "all parts of it"


def test_word_and_position_embeddings_are_those_tables_alone(text, images):
    assert names("word_embeddings", text) == {"text.embeddings.word_embeddings.weight"}
    assert names("position_embeddings", text) == {"text.embeddings.position_embeddings.weight"}
    assert names("word_embeddings | position_embeddings", images) == set()


def test_position_embeddings_may_be_a_loose_tensor(vision):
    assert names("position_embeddings", vision) == {"pos_embed"}


def test_weight_and_bias_go_by_the_part_and_take_norms_too(images):
    assert {n.rpartition(".")[2] for n in names("weight", images)} == {"weight"}
    assert {n.rpartition(".")[2] for n in names("bias", images)} == {"bias"}
    assert "bn1.weight" in names("weight", images)
    assert names("weight | bias", images) == names("all", images)


def test_weight_and_bias_know_other_spellings():
    leaves = ("in_proj_weight", "in_proj_bias", "weight_ih_l0", "bias_hh_l0", "table")
    own = {leaf: Weight(4) for leaf in leaves}
    named = {leaf: Weight(4) for leaf in ("scale", "shift", "gamma", "beta")}
    made = spec(module("Net", a=Node("A", "linear", own), n=Node("N", "norm", named)))
    assert names("weight", made) == {"a.in_proj_weight", "a.weight_ih_l0", "n.scale", "n.gamma"}
    assert names("bias", made) == {"a.in_proj_bias", "a.bias_hh_l0", "n.shift", "n.beta"}


def test_weight_and_bias_see_into_names_of_several_pieces():
    leaves = ("modules_to_save.bias", "modules_to_save.weight", "parametrizations.bias.original0")
    leaves += ("parametrizations.weight.original1", "rel_bias.weight", "lora_A")
    made = spec(module("Net", a=Node("A", "linear", {leaf: Weight(4) for leaf in leaves})))
    assert names("bias", made) == {f"a.{leaves[0]}", f"a.{leaves[2]}"}
    assert names("weight", made) == {f"a.{leaves[n]}" for n in (1, 3, 4)}


def test_blocks_are_the_repeated_units_and_nothing_around_them(images, text):
    first_names = {path.split(".")[0] for path in modules("blocks", images)}
    assert first_names == {"layer1", "layer2", "layer3"}
    assert names("blocks", text) == {
        name for name in names("all", text) if name.startswith("text.encoder.layer.")
    }


def test_blocks_are_counted_from_the_input(images):
    assert {".".join(p.split(".")[:2]) for p in modules("blocks[0]", images)} == {"layer1.0"}
    assert {".".join(p.split(".")[:2]) for p in modules("blocks[-1]", images)} == {"layer3.1"}
    assert {".".join(p.split(".")[:2]) for p in modules("blocks[1:3]", images)} == {
        "layer1.1",
        "layer2.0",
    }


def test_layers_with_and_without_an_index_are_blocks(text):
    assert names("layers", text) == names("blocks", text)
    assert names("layers[1]", text) == names("blocks[1]", text)


def test_stages_are_runs_of_blocks(images):
    assert {p.split(".")[0] for p in modules("stages[-1]", images)} == {"layer3"}
    assert {p.split(".")[0] for p in modules("stages[:2]", images)} == {"layer1", "layer2"}
    with pytest.raises(SelectorRangeError, match="the model has 3 stages"):
        names("stages[3]", images)


def test_a_transition_goes_with_the_block_it_leads_into():
    made = spec(
        module(
            "Net",
            one=conv_net(stages=2).children["layer1"],
            down=conv(8, 8),
            two=conv_net(stages=2).children["layer2"],
            fc=linear(16, 2),
        )
    )
    assert "down.weight" in names("blocks[2]", made)
    assert "down.weight" not in names("blocks[1]", made)
    assert "down.weight" in names("stages[1]", made)
    assert "down.weight" in names("blocks", made)


def test_encoder_and_decoder_are_the_blocks_of_the_two_stacks(pair):
    assert names("encoder", pair) == {
        name for name in names("all", pair) if name.startswith("model.encoder.layers.")
    }
    assert {p.split(".")[3] for p in modules("decoder[-1]", pair)} == {"1"}
    assert names("encoder | decoder", pair) == names("blocks", pair)


def test_encoder_means_nothing_without_two_stacks(text):
    with pytest.raises(SelectorScopeError, match="no two stacks") as caught:
        names("encoder", text)
    assert caught.value.hint == "blocks for its blocks, text.encoder for a module called so"


@pytest.mark.parametrize("word", ["blocks", "layers", "stages", "encoder", "blocks[0]"])
def test_block_words_mean_nothing_without_blocks(word):
    with pytest.raises(SelectorScopeError, match="no repeated units"):
        names(word, spec(plain_conv_net()))


def test_an_index_among_several_runs_is_an_error_that_lists_them(pair):
    with pytest.raises(SelectorScopeError) as caught:
        names("blocks[0]", pair)
    assert "any of 2 runs" in caught.value.fact
    assert "3 blocks under model.encoder (encoder)" in caught.value.context
    assert caught.value.hint == "encoder[0] or decoder[0]"
    with pytest.raises(SelectorScopeError) as caught:
        names("blocks[-1]", spec(two_towers()))
    assert caught.value.hint == "blocks[-1] in vision_model or blocks[-1] in text_model"


def test_the_run_of_the_root_itself_is_not_hinted_at_with_an_empty_name():
    inner = module("Decoder", blocks=stack(seq_block(), seq_block()))
    made = spec(module("Net", blocks=stack(seq_block(), seq_block()), decoder=inner))
    with pytest.raises(SelectorScopeError) as caught:
        names("blocks[0]", made)
    assert (
        caught.value.hint == 'blocks[0] in decoder, or at:"blocks.…" for those of the model itself'
    )
    assert modules('at:"blocks.0"', made) == {
        p for p in modules("all", made) if p.startswith("blocks.0.")
    }


def test_children_are_the_direct_children_by_position(images):
    assert modules("children[0]", images) == {"conv1"}
    assert modules("children[-1]", images) == {"fc"}
    assert modules("children[:2]", images) == {"conv1", "bn1"}
    assert names("children[2]", images) == set(), "an activation holds nothing"
    with pytest.raises(SelectorRangeError, match="the model has 7 direct children"):
        names("children[7]", images)


def test_params_are_counted_in_canonical_order(vision):
    order = [vision.parameters[n].path for n in vision.canonical_order]
    assert names("params[:3]", vision) == set(order[:3])
    assert names("params[-1]", vision) == {order[-1]}
    assert names("params[:50%]", vision) == set(order[: len(order) // 2])


def test_params_count_a_tied_parameter_once_under_all_its_names(text):
    both = names("tied", text)
    assert names("params[0]", text) == both
    count = len(text)
    assert names(f"params[:{count}]", text) == names("all", text)
    with pytest.raises(SelectorRangeError, match=f"the model has {count} parameters"):
        names(f"params[:{count + 1}]", text)


def test_params_do_not_count_statistics(images):
    assert len(images) == len(images.tree.names)
    with pytest.raises(SelectorRangeError):
        names(f"params[:{len(images) + len(images.states)}]", images)


def test_every_word_has_been_tried_on_every_model():
    tried = {word: set() for word in WORDS}
    for build in MODELS.values():
        made = spec(build())
        for word in WORDS:
            try:
                found = names(f"{word}[0]" if word in ("children", "params") else word, made)
            except SelectorScopeError:
                continue
            tried[word].add(bool(found))
    tried["adapter"] |= {bool(names("adapter", with_adapters()))}
    assert all(True in seen for seen in tried.values()), "each selects something somewhere"


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
        ("bakbone", 'did you mean "backbone" (a word of the vocabulary, 53 parameters)?'),
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


# Laws ---------------------------------------------------------------------------------------


MODELS_OF_ALL_KINDS = models()


def located(expression, made, choice):
    """Mix one of a model's own paths into an expression, for some choices."""
    paths = [*made.tree.paths[1:], *made.tree.names]
    if not paths or choice % 4:
        return expression
    here = Path(tuple(map(Segment, paths[choice % len(paths)].split("."))), quoted=True)
    return (Either, Both, Without)[choice % 3](expression, here)


def law(count):
    """Run a test on random models, each with some expressions that have a value in it."""

    def decorate(function):
        parts = st.lists(TOTAL_EXPRESSIONS, min_size=count, max_size=count)

        @settings(max_examples=60, deadline=None)
        @given(MODELS_OF_ALL_KINDS, parts, st.integers(0, 999))
        def run(root, parts, choice):
            made = spec(root)
            function(made, *(located(part, made, choice + n) for n, part in enumerate(parts)))

        run.__name__ = function.__name__
        return run

    return decorate


def same(made, one, other):
    assert np.array_equal(evaluate(one, made), evaluate(other, made))


@law(2)
def test_de_morgan(made, a, b):
    same(made, OtherThan(Either(a, b)), Both(OtherThan(a), OtherThan(b)))
    same(made, OtherThan(Both(a, b)), Either(OtherThan(a), OtherThan(b)))


@law(1)
def test_a_set_and_its_complement_are_everything_and_nothing_twice(made, a):
    assert evaluate(Either(a, OtherThan(a)), made).all()
    assert not evaluate(Both(a, OtherThan(a)), made).any()
    same(made, OtherThan(OtherThan(a)), a)


@law(1)
def test_idempotence(made, a):
    same(made, Either(a, a), a)
    same(made, Both(a, a), a)
    assert not evaluate(Without(a, a), made).any()


@law(2)
def test_commutativity(made, a, b):
    same(made, Either(a, b), Either(b, a))
    same(made, Both(a, b), Both(b, a))


@law(3)
def test_associativity(made, a, b, c):
    same(made, Either(Either(a, b), c), Either(a, Either(b, c)))
    same(made, Both(Both(a, b), c), Both(a, Both(b, c)))


@law(3)
def test_distributivity(made, a, b, c):
    same(made, Both(a, Either(b, c)), Either(Both(a, b), Both(a, c)))
    same(made, Either(a, Both(b, c)), Both(Either(a, b), Either(a, c)))


@law(2)
def test_a_difference_is_what_is_in_one_and_not_in_the_other(made, a, b):
    same(made, Without(a, b), Both(a, OtherThan(b)))


@law(2)
def test_all_is_neutral_and_absorbing(made, a, b):
    everything = Word("all")
    same(made, Both(a, everything), a)
    same(made, Either(a, everything), everything)
    same(made, Either(a, Both(a, b)), a)


@law(1)
def test_text_and_value_select_the_same(made, a):
    same(made, parse(str(a)), a)


@law(1)
def test_python_operators_select_what_the_expressions_do(made, a):
    selector = Selector(str(a))
    assert np.array_equal(evaluate((~selector).expression, made), ~evaluate(a, made))
    union = (selector | "norm").expression
    assert np.array_equal(evaluate(union, made), evaluate(a, made) | evaluate(Word("norm"), made))


def outcome(expression, made, prefix=""):
    """The names an expression selects, or the error it raises."""
    try:
        return {name.removeprefix(prefix) for name in names(expression, made)}
    except ResolveError as error:
        return type(error)


INSIDE = (*TOTAL, "blocks", "blocks[0]", "blocks[-1:]", "stages[0]", "encoder", "children[0]")
INSIDE += ("params[:50%]",)


@settings(max_examples=150, deadline=None)
@given(models(repeats=False), st.data())
def test_an_expression_in_a_module_is_its_value_on_the_module_cut_out(root, data):
    made = spec(root)
    path = data.draw(st.sampled_from(made.tree.paths[1:] or [""]))
    alone = spec(node_at(root, path))
    expression = parse(data.draw(st.sampled_from(INSIDE)))
    inside = outcome(Within(expression, path), made, f"{path}." if path else "")
    assert inside == outcome(expression, alone)


@settings(max_examples=60, deadline=None)
@given(models(), st.data())
def test_the_cut_out_tree_of_a_module_knows_its_names_and_tensors(root, data):
    made = tree(root)
    number = data.draw(st.integers(0, len(made.paths) - 1))
    part, numbers, tensors = made.subtree(number)
    path = made.paths[number]
    assert [f"{path}.{name}" if path else name for name in part.names] == [
        made.names[n] for n in numbers
    ]
    assert [part.tensors[t] for t in part.tensor_of] == [
        made.tensors[made.tensor_of[n]] for n in numbers
    ]
    assert [tensors[t] for t in part.tensor_of] == [made.tensor_of[n] for n in numbers]
    assert len(derive(part)) == len(tensors)


@settings(max_examples=60, deadline=None)
@given(models())
def test_zones_part_a_model_without_overlap(root):
    made = spec(root)
    found = [evaluate(Word(word), made) for word in ("stem", "neck", "head")]
    assert np.sum(found, axis=0).max(initial=0) <= 1
    if made.runs:
        blocks = evaluate(Word("blocks"), made)
        assert not (blocks & np.any(found, axis=0)).any()


@settings(max_examples=60, deadline=None)
@given(models())
def test_kinds_part_a_model_without_overlap(root):
    made = spec(root)
    kinds = ("conv", "linear", "embedding", "norm", "adapter")
    assert np.sum([evaluate(Word(kind), made) for kind in kinds], axis=0).max(initial=0) <= 1


@settings(max_examples=40, deadline=None)
@given(models(), st.integers(0, 100))
def test_a_share_of_params_and_the_rest_are_all_of_them(root, share):
    made = spec(root)
    first, rest = (evaluate(parse(t), made) for t in (f"params[:{share}%]", f"params[{share}%:]"))
    tensors = [set(made.atoms.tensor[mask]) for mask in (first, rest)]
    assert not tensors[0] & tensors[1]
    assert (first | rest).all()


def test_stages_of_blocks_in_one_list_are_refused_until_a_forward_pass_shows_them():
    made = module("Net", blocks=stack(*(bottleneck(8, 8) for _ in range(4))))
    with pytest.raises(SelectorScopeError, match=r"stages\[-1\].*4 blocks stand in one list"):
        evaluate(parse("stages[-1]"), spec(made))
    calls = [f"blocks.{n}" for n in range(4)]
    maps = {name: (1, 8, 8 if n < 3 else 4, 8 if n < 3 else 4) for n, name in enumerate(calls)}
    traced = spec(made, calls=calls, shapes=maps)
    selected = evaluate(parse("stages[-1]"), traced)
    assert np.array_equal(selected, evaluate(parse("blocks[3]"), traced))
    assert selected.any()


def test_a_selector_too_long_to_work_on_is_refused():
    with pytest.raises(SelectorSyntaxError, match="of 5000 operands is too long"):
        parse(" | ".join(f"path{n}" for n in range(5000)))
    assert parse('re:"' + "|".join(map(str, range(5000))) + '"')
