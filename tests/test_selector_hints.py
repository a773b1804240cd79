"""Misspelt selectors: answered with what a colleague would say, and only with what exists."""

from __future__ import annotations

import random
import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.trees import (
    adapted,
    encoder_decoder,
    linear,
    module,
    several,
    spec,
    text_model,
    two_towers,
)
from tests.support.zoo import runnable
from unifreeze._plan.selectors import Selector, evaluate, parse
from unifreeze._plan.selectors.hints.aligned_paths import unlike
from unifreeze._plan.selectors.hints.synonyms import meant_by, never_selected
from unifreeze._protocol import load_backend
from unifreeze._resolution.select_parameters import select
from unifreeze.errors import (
    ResolveError,
    SelectorSyntaxError,
    UnifreezeError,
    UnmatchedSelectorError,
)


@cache
def network(name, framework):
    return load_backend(framework).describe(runnable(name, framework))


def refused(text, made):
    """Return the error that a selector gives on a model."""
    with pytest.raises((ResolveError, SelectorSyntaxError)) as caught:
        select(Selector(text), made, "rule 1")
    return caught.value


def suggested(error):
    """Return the selectors that a hint asks for."""
    asked = error.hint.partition("did you mean ")[2]
    found = re.findall(r"""(?:^| or |, )(?:'([^']+)'|"([^"]+)")""", asked)
    return [one or other for one, other in found]


def tensors(text, made):
    return set(np.unique(made.atoms.tensor[evaluate(parse(text), made)]).tolist())


def wide(text):
    """Write a text with the full-width signs and letters of a Chinese keyboard."""
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


# What a colleague would say: on BERT and ResNet, in both frameworks -------------------------------

TORCH_BERT, PADDLE_BERT = ("bert", "torch"), ("bert", "paddle")
TORCH_RESNET, PADDLE_RESNET = ("resnet50", "torch"), ("resnet50", "paddle")
COLLEAGUE = [
    (TORCH_BERT, "encoder.layer[:2]", ["bert.encoder.layer[:2]", "blocks[:2]"]),
    (TORCH_BERT, "layer[:2]", ["blocks[:2]"]),
    (TORCH_BERT, "layers.0", ["bert.encoder.layer.0", "blocks[0]"]),
    (TORCH_BERT, "base_model.model.bert.encoder.layer[:2]", ["bert.encoder.layer[:2]"]),
    (TORCH_BERT, "module.bert.pooler", ["bert.pooler"]),
    (TORCH_BERT, "bert.encoder.layers[2:]", ["bert.encoder.layer[2:]"]),
    (TORCH_BERT, "bert.encoder.0", ["bert.encoder.layer.0"]),
    (TORCH_BERT, "bert.encoder.layer.*.atention", ["bert.encoder.layer.*.attention"]),
    (TORCH_BERT, "bert.embedings", ["bert.embeddings"]),
    (TORCH_BERT, "bert.embeddings.LayerNorm.gamma", ["bert.embeddings.LayerNorm.weight"]),
    (TORCH_BERT, "attention.self.query", ["**.attention.self.query"]),
    (
        TORCH_BERT,
        "bert.encoder.layers.3.self_attn.q_proj",
        ["bert.encoder.layer.3.attention.self.query", "blocks[3] & attention & query"],
    ),
    (TORCH_BERT, "layer_norm", ["norm"]),
    (TORCH_BERT, "ln", ["norm"]),
    (TORCH_BERT, "LayerNorm", ["norm", 'type:"LayerNorm"']),
    (TORCH_BERT, "fc", ["head", "classifier"]),
    (TORCH_BERT, "cls", ["head", "classifier"]),
    (TORCH_BERT, "dense", ["linear", "**.dense"]),
    (TORCH_BERT, "qkv", ["query | key | value"]),
    (TORCH_BERT, "haed", ["head"]),
    (TORCH_BERT, "Backbone", ["backbone"]),
    (TORCH_BERT, "everything", ["all"]),
    (TORCH_BERT, "head.weight", ["head & weight"]),
    (TORCH_BERT, "blocks[0].attention", ["blocks[0] & attention"]),
    (TORCH_BERT, "norm.bias", ["norm & bias"]),
    (TORCH_BERT, "embeddings.weight", ["embeddings & weight"]),
    (TORCH_BERT, "encoder.weight", ["bert.encoder & weight"]),
    (TORCH_BERT, "token_embeddings", ["word_embeddings"]),
    (TORCH_BERT, "norm1", ["norm"]),
    (TORCH_BERT, "layer2", ["blocks[2]", "blocks[1]"]),
    (TORCH_BERT, "layer4", ["blocks[3]"]),
    (TORCH_BERT, "bert.encoder.layer[-1:0]", ["bert.encoder.layer[-1:]"]),
    (TORCH_BERT, "blocks[-1:0]", ["blocks[-1:]"]),
    (TORCH_BERT, wide("head"), ["head"]),
    (TORCH_BERT, 're:"layer.[01]"', [r're:".*\.layer.[01]\..*"']),
    (TORCH_BERT, r're:"^bert\.encoder"', [r're:"bert\.encoder\..*"']),
    (TORCH_BERT, 're:"query|key"', [r're:".*\.(query|key)\..*"']),
    (TORCH_BERT, 're:"attention.SELF"', ['re:"(?i).*attention.SELF.*"']),
    (TORCH_BERT, 'type:"nn.LayerNorm"', ['type:"LayerNorm"']),
    (TORCH_BERT, 'type:"batchnorm2d"', ["norm"]),
    (TORCH_BERT, 'at:"block.0/lin.0"', ['at:"blocks.0/linear.0"']),
    (TORCH_BERT, 'at:"blocks[0]"', ['at:"blocks.0"']),
    (PADDLE_BERT, "bert.encoder.layer[:2]", ["bert.encoder.layers[:2]"]),
    (
        PADDLE_BERT,
        "bert.encoder.layer.1.attention.self.query",
        ["bert.encoder.layers.1.self_attn.q_proj", "blocks[1] & attention & query"],
    ),
    (PADDLE_BERT, 'type:"Layernorm"', ['type:"LayerNorm"']),
    (TORCH_RESNET, "layer[:2]", ["stages[:2]", "blocks[:2]"]),
    (TORCH_RESNET, "layr4", ["layer4"]),
    (TORCH_RESNET, "layer[4]", ["layer4", "stages[3]", "blocks[4]"]),
    (TORCH_RESNET, "layer.4", ["layer4", "stages[3]"]),
    (TORCH_RESNET, "layer[1]", ["layer1", "stages[1]", "blocks[1]"]),
    (TORCH_RESNET, "stage[4]", ["layer4", "stages[3]"]),
    (TORCH_RESNET, "stage[-1]", ["stages[-1]"]),
    (TORCH_RESNET, "stage4", ["layer4", "stages[3]"]),
    (TORCH_RESNET, "layer4.weight", ["layer4 & weight"]),
    (TORCH_RESNET, "layer4[0].bias", ["layer4[0] & bias"]),
    (TORCH_RESNET, "layer4.bn", ["layer4 & norm"]),
    (TORCH_RESNET, "blocks[0].conv1", ["layer1.0.conv1", "blocks[0] & conv"]),
    (TORCH_RESNET, "blocks.0.conv1", ["layer1.0.conv1", "blocks[0] & conv"]),
    (TORCH_RESNET, "blocks[-1].bn1", ["layer4.2.bn1", "blocks[-1] & norm"]),
    (TORCH_RESNET, "blocks[:2].conv1", ["blocks[:2] & **.conv1"]),
    (TORCH_RESNET, "stages[-1].0", ["layer4.0"]),
    (TORCH_RESNET, "*.bn1", ["**.bn1"]),
    (TORCH_RESNET, wide("layer4"), ["layer4"]),
    (TORCH_RESNET, "layer4.conv1", ["layer4.*.conv1"]),
    (TORCH_RESNET, "model.fc", ["fc"]),
    (TORCH_RESNET, "classifier.weight", ["classifier & weight"]),
    (TORCH_RESNET, "BatchNorm2d", ["norm", 'type:"BatchNorm2d"']),
    (PADDLE_RESNET, "layer4.0.downsampl.0", ["layer4.0.downsample.0"]),
    (PADDLE_RESNET, "features", ["backbone"]),
    (PADDLE_RESNET, "bn", ["norm"]),
    (PADDLE_RESNET, "fc.wieght", ["fc.weight"]),
]


def test_what_is_suggested_for_a_number_selects_what_bears_it():
    made = network(*TORCH_RESNET)
    for number in range(1, 5):
        for text in (f"stage{number}", f"block{number}"):
            asked = suggested(refused(text, made))
            assert asked == [f"layer{number}", f"stages[{number - 1}]"]
            assert tensors(asked[0], made) == tensors(asked[1], made)


def test_a_stack_that_is_not_there_is_answered_with_paths_that_exist():
    made = network(*TORCH_BERT)
    assert tensors("bert.encoder", made) == tensors("blocks", made)
    assert refused("decoder[0]", made).hint == "blocks[0] for its blocks"


def test_there_are_at_least_forty():
    assert len(COLLEAGUE) >= 40


@pytest.mark.parametrize(("where", "text", "meant"), COLLEAGUE, ids=lambda part: str(part))
def test_a_misspelt_selector_is_answered_with_what_was_meant(where, text, meant):
    made = network(*where)
    asked = suggested(refused(text, made))
    assert set(meant) <= set(asked), asked
    assert all(tensors(one, made) for one in asked)


@pytest.mark.parametrize(
    ("where", "text", "hint"),
    [
        (TORCH_BERT, "peft", "no adapters (LoRA and kin): apply the plan after they are added"),
        (TORCH_BERT, "bert.encoder.layer.12", "bert.encoder.layer holds: 0, 1, 2, 3"),
        (TORCH_BERT, "bert.encoder.layer.0.foo", "holds: attention, intermediate, output"),
        (TORCH_BERT, "running_mean", "running statistics are never parameters"),
        (TORCH_BERT, "zzz", "words that select something here: all, stem, neck, head"),
        (TORCH_BERT, "zzz", "`unifreeze show MODEL` lists them"),
        (TORCH_BERT, 're:"zzz"', "no name holds it anywhere"),
        (TORCH_BERT, 'type:"Dropout"', "layers of class Dropout hold no parameters"),
        (TORCH_BERT, 'at:"classifier"', "that is a native path, which is written without at"),
        (TORCH_BERT, "encoder[:2]", "blocks[:2] for its blocks, bert.encoder for a module"),
        (TORCH_BERT, "frozen", "select by place or kind"),
        (TORCH_BERT, "trainable", "select by place or kind"),
        (TORCH_BERT, "layer.11", "the model has 4 blocks: positions run from 0 to 3"),
        (TORCH_BERT, "encoder.layer.11", "the model has 4 blocks: positions run from 0 to 3"),
        (TORCH_BERT, "layers[11].output", "the model has 4 blocks: positions run from 0 to 3"),
        (TORCH_RESNET, "stage5", "the model has 4 stages: positions run from 0 to 3"),
        (TORCH_BERT, "bert.encoder.layer[0:0]", "a slice begins at its first number"),
        (TORCH_BERT, "head in bert.encodr", 'did you mean "in bert.encoder"?'),
        (TORCH_BERT, "bert.encoder in head", "write … & head"),
        (TORCH_RESNET, "layer5", "the model holds: layer1, layer2, layer3, layer4"),
        (PADDLE_RESNET, "layer4.1.conv9", "layer4.1 holds: conv1, conv2, conv3"),
        (PADDLE_RESNET, "layer4[0].conv9", "layer4.0 holds: conv1, conv2, conv3"),
    ],
)
def test_where_nothing_is_near_the_hint_says_what_there_is(where, text, hint):
    error = refused(text, network(*where))
    assert hint in error.hint
    assert not suggested(error) or "did you mean" in hint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("head & norm", "head: 2 parameters; norm: 22; no parameter is in both"),
        ("classifier - head", "classifier: 2 parameters; head: 2; none is left"),
        ("neck - pooler", "neck: 2 parameters; pooler: 2; none is left"),
        ("conv", "'conv' is convolutions"),
        ("adapter", "apply the plan after they are added"),
        ("blocks[2:2]", "nothing lies in [2:2] of the model's 4 blocks"),
        ("layers[1:0]", "nothing lies in [1:0] of the model's 4 blocks"),
        ("params[0:0]", "nothing lies in [0:0] of the model's 73 parameters"),
        ("children[3:]", "nothing lies in [3:] of the model's 3 direct children"),
        ("bert.encoder.layer[0:0]", "nothing lies in [0:0] of the children of bert.encoder.layer"),
        ("dropout", "dropout holds no parameters"),
    ],
)
def test_what_selects_nothing_though_every_part_is_known_says_why(text, reason):
    made = network(*TORCH_BERT)
    assert len(tensors("norm", made)) > 0
    error = refused(text, made)
    assert isinstance(error, UnmatchedSelectorError)
    assert re.sub(r"\d+", "N", reason) in re.sub(r"\d+", "N", error.context)


# Signs of other languages ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("head and norm", "head & norm"),
        ("head && norm", "head & norm"),
        ("head or norm", "head | norm"),
        ("head || norm", "head | norm"),
        ("head, norm", "head | norm"),
        ("head; norm", "head | norm"),
        ("head + norm", "head | norm"),
        ("not head", "~head"),
        ("!head", "~head"),
        ("all except head", "all - head"),
        ("all but head", "all - head"),
        ("all but not head", "all - head"),
        ("freeze: head", "head"),
        ("train head", "head"),
        ("'head | norm'", "head | norm"),
        ("blocks(0)", "blocks[0]"),
        ("blocks(0:3)", "blocks[0:3]"),
        ("blocks:0", "blocks[0]"),
        ("blocks [0]", "blocks[0]"),
        ("blocks[2:5", "blocks[2:5]"),
        ("blocks[0-5]", "blocks[0:6]"),
        ("blocks[0..5]", "blocks[0:6]"),
        ("blocks[0, 2]", "blocks[0] | blocks[2]"),
        ("blocks[last]", "blocks[-1]"),
        ("blocks[0.5]", "blocks[:50%]"),
        ("encoder.layer.[0-5].attention", "encoder.layer[0:6].attention"),
        ("encoder.layers.{0,1}", "encoder.layers.0 | encoder.layers.1"),
        ("model['head']", "model.head"),
        ("encoder.layer.", "encoder.layer"),
        ("encoder/layer", "encoder.layer"),
        ("blocks.0/linear.0", 'at:"blocks.0/linear.0"'),
        ("re:layer.*", 're:"layer.*"'),
        ('type:"LayerNorm', 'type:"LayerNorm"'),
        ("type:LayerNorm", 'type:"LayerNorm"'),
        ("size > 1e6", "size(> 1e6)"),
        ("size(>1M)", "size(> 1e6)"),
        ("^layer", 're:"layer.*"'),
        ("layer[0-9]+", r're:"(.*\.)?layer[0-9]+(\..*)?"'),
        ("(head", "head"),
        ("head)", "head"),
        ("(head | norm", "head | norm"),
        ("all - (head | norm", "all - (head | norm)"),
        ("type(LayerNorm)", 'type:"LayerNorm"'),
        ('type("LayerNorm")', 'type:"LayerNorm"'),
        ("type == 'LayerNorm'", 'type:"LayerNorm"'),
        ("first 3 blocks", "blocks[:3]"),
        ("the last 2 layers", "layers[-2:]"),
        ("first 50% of the blocks", "blocks[:50%]"),
        ("last stage", "stages[-1]"),
        ("encoder.layer.[01]", "encoder.layer.0 | encoder.layer.1"),
        ("encoder.layer.[10].output", "encoder.layer[10].output"),
        ("encoder.layer.[:2]", "encoder.layer[:2]"),
    ],
)
def test_a_sign_of_another_language_is_put_right(text, meant):
    with pytest.raises(SelectorSyntaxError) as caught:
        parse(text)
    assert suggested(caught.value) == [meant]
    assert parse(meant) is not None


@pytest.mark.parametrize("text", ["blocks[::2]", "blocks[0:10:2]", "head |", "@", "~", "a b c"])
def test_what_has_no_counterpart_is_not_put_right(text):
    with pytest.raises(SelectorSyntaxError) as caught:
        parse(text)
    assert not suggested(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (f"fc{wide('|')}head", "fc | head"),
        (f"fc{wide(';')}", "fc"),
        (f"fc{wide(',')} head", "fc | head"),
        (wide("(fc|head) & norm"), "(fc | head) & norm"),
        (wide("blocks[-2:]"), "blocks[-2:]"),
        (wide("type:") + "\u201cLayerNorm\u201d", 'type:"LayerNorm"'),
        ("fc\u3001head", "fc | head"),
        ("all \u2013 head", "all - head"),
    ],
)
def test_a_sign_of_another_keyboard_is_put_right(text, meant):
    with pytest.raises(SelectorSyntaxError) as caught:
        parse(text)
    assert suggested(caught.value) == [meant]
    assert parse(meant) is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [("(head", "a ( is not closed"), ("head)", "a ) closes nothing"), ("(a) b)", "come in pairs")],
)
def test_a_parenthesis_without_a_partner_is_named(text, reason):
    with pytest.raises(SelectorSyntaxError) as caught:
        parse(text)
    assert reason in caught.value.hint


def test_of_a_long_selector_only_the_place_is_shown():
    text = " | ".join(f"layer{n}" for n in range(150)) + " & & " + "x" * 5000
    with pytest.raises(SelectorSyntaxError) as caught:
        parse(text)
    assert len(str(caught.value)) < 800
    assert "layer149 & & x" in caught.value.context


# Any path, spoilt in any way ----------------------------------------------------------------

MODELS = {
    "text": lambda: spec(text_model(depth=4)),
    "two stacks": lambda: spec(encoder_decoder((3, 2))),
    "two towers": lambda: spec(two_towers((3, 2))),
    "several": lambda: several(student=text_model(depth=2), teacher=text_model(depth=3)),
    "bert": lambda: network(*TORCH_BERT),
    "paddle bert": lambda: network(*PADDLE_BERT),
    "resnet": lambda: network(*TORCH_RESNET),
    "t5": lambda: network("t5", "torch"),
}


def some_path(draw, made):
    """Draw a path of a model, perhaps with a slice in place of a number."""
    names = [*made.tree.paths[1:], *made.tree.names]
    pieces = draw.choice(names).split(".")
    numbers = [n for n, piece in enumerate(pieces) if n and piece.isdigit()]
    if numbers and draw.random() < 0.5:
        at = draw.choice(numbers)
        pieces[at - 1 : at + 1] = [pieces[at - 1] + draw.choice(["[:2]", "[-1:]", "[0]", "[1:]"])]
    return pieces


def is_there(path, made):
    try:
        return bool(tensors(path, made))
    except (ResolveError, SelectorSyntaxError):
        return False


def misspelt(draw, pieces):
    """Swap, drop, double or change a letter of one segment."""
    at = draw.randrange(len(pieces))
    name, bracket, index = pieces[at].partition("[")
    if len(name) < 5 or name.isdigit():
        return pieces
    n = draw.randrange(1, len(name) - 1)
    spoilt = draw.choice(
        [name[:n] + name[n + 1 :], name[:n] + name[n] + name[n:], name[:n] + "x" + name[n + 1 :]]
    )
    return [*pieces[:at], spoilt + bracket + index, *pieces[at + 1 :]]


SPOILT = {
    "no root": lambda draw, pieces: pieces[1:],
    "wrapped": lambda draw, pieces: [draw.choice(["module", "model", "base_model"]), *pieces],
    "misspelt": misspelt,
    "misspelt without a root": lambda draw, pieces: misspelt(draw, pieces[1:] or pieces),
    "in capitals": lambda draw, pieces: [*pieces[:-1], pieces[-1].upper()],
    "a level left out": lambda draw, pieces: pieces[:1] + pieces[2:] if pieces[2:] else pieces,
}


@pytest.mark.parametrize("way", SPOILT)
def test_a_spoilt_path_is_put_right_or_left_alone(way):
    """What is suggested exists, keeps every index, and mostly is what was meant."""
    draw, right, answered, wrong = random.Random(way), 0, 0, []
    for model in MODELS.values():
        made = model()
        for _ in range(20):
            pieces = some_path(draw, made)
            spoilt, meant = ".".join(SPOILT[way](draw, pieces)), ".".join(pieces)
            if not is_there(meant, made) or not spoilt or is_there(spoilt, made):
                continue
            asked = suggested(refused(spoilt, made))
            answered += 1
            right += any(tensors(one, made) >= tensors(meant, made) for one in asked)
            kept = re.findall(r"\[[^\]]*\]|(?<=\.)\d+(?=\.|$)", spoilt)
            for one in asked:
                assert tensors(one, made), f"{one} selects nothing"
                if not all(index.strip("[]") in one for index in kept):
                    wrong.append(f"{spoilt}: {one} loses an index")
    assert not wrong, "\n".join(wrong)
    assert answered >= 50
    assert right / answered > 0.9, f"{right} of {answered}"


PIECES = st.sampled_from(
    [
        *("bert", "encoder", "layer", "layers", "head", "norm", "LayerNorm", "_", "q_proj", "zzz"),
        *("**", "*", "?", "0", "12", "in", "re:", "type:", "at:", "path:", '"', "'", "size(", ")"),
        *(
            ".",
            "..",
            "[",
            "]",
            "[:2]",
            "[-1]",
            "[0-5]",
            "|",
            "&",
            "~",
            "-",
            " ",
            ",",
            "/",
            "^",
            "$",
        ),
        *("(", "{", "}", "+", "\\", "and", "not", "计划", "é", "\n", "\t", "%", ">", "1e6", "#"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=7).map("".join))
def test_whatever_is_written_is_an_answer_or_an_error_of_ours(text):
    for model in (MODELS["text"], MODELS["bert"], MODELS["several"]):
        error = error_of(text, model())
        if error is not None:
            assert error.hint or error.context
            assert len(str(error)) < 3000
            assert all(parse(one) for one in suggested(error))


def error_of(text, made):
    try:
        select(Selector(text), made, "rule 1")
    except UnifreezeError as error:
        return error
    return None


def test_words_are_alike_only_if_their_digits_are_equal():
    assert unlike("layer5", "layer4") == float("inf")
    assert unlike("fc1", "fc") == float("inf")
    assert unlike("conv_1", "conv1") < 0.2 < unlike("attn", "attention") < 0.5
    assert unlike("self", "self_attn") < 0.5
    assert unlike("lora", "layers") == unlike("ln", "lin2") == float("inf")


def test_words_of_other_libraries_stand_for_words_that_exist():
    from unifreeze._plan.selectors.hints import synonyms
    from unifreeze._plan.selectors.vocabulary import WORDS

    for selector in synonyms._MEANT:
        assert all(word in WORDS for word in selector.split(" | ")), selector
    assert meant_by("Layer_Norm") == ("norm",)
    assert never_selected("running_var")
    assert not meant_by("zzz")
    assert not never_selected("zzz")


def test_an_adapter_that_is_there_is_found_by_its_library_name():
    made = spec(module("Net", a=adapted(linear(4, 4)), b=linear(4, 2)))
    assert suggested(refused("peft", made)) == ["adapter"]
