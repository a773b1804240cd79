"""The words for towers: vision, audio, text, projector, action and image_decoder."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

import unifreeze as uf
from tests.support.tower_models import MODELS
from tests.support.tower_nets import WORDS as TOKENS
from tests.support.tower_nets import batch_for, networks
from tests.support.trees import several, stack, two_towers
from unifreeze._plan.selectors import evaluate, parse
from unifreeze._plan.selectors.vocabulary import TOWERS
from unifreeze.errors import OrderError, ResolveError, SelectorScopeError, UnmatchedSelectorError

FRAMEWORKS = ("torch", "paddle")
NETS = ("seeing", "merging", "hearing", "matching", "acting", "painting")
SEEING = {
    "vision": ("vision_tower.",),
    "projector": ("multi_modal_projector.",),
    "text": ("language_model.", "lm_head."),
}
PARTS = {
    "seeing": SEEING,
    "merging": {
        "vision": ("visual.patch_embed.", "visual.layers.", "visual.post_norm."),
        "projector": ("visual.merger.",),
        "text": ("language_model.", "lm_head."),
    },
    "hearing": {
        "audio": ("audio_tower.",),
        "projector": ("multi_modal_projector.",),
        "text": ("language_model.", "lm_head."),
    },
    "matching": {
        "vision": ("vision_model.",),
        "text": ("text_model.",),
        "projector": ("visual_projection.", "text_projection."),
    },
    "acting": {
        "vision": ("vision_tower.",),
        "projector": ("multi_modal_projector.",),
        "text": ("language_model.",),
        "action": ("expert_layers.", "action_in_proj.", "action_out_proj."),
    },
    "painting": {
        "vision": ("vision_tower.",),
        "projector": ("aligner.",),
        "text": ("language_model.", "lm_head."),
        "image_decoder": ("image_decoder.",),
    },
}


def odd(name):
    """Another name, which says nothing."""
    digits = hashlib.md5(name.encode()).hexdigest()[:8]
    return "z" + digits.translate(str.maketrans("abcdef0123456789", "ghjkpqvxyzghjkpq"))


def trained(model, selector, **more):
    """The names that train under `only`."""
    return set(uf.resolve(uf.FreezePlan().only(selector), model, **more).trainable_paths)


def selected(model, selector):
    """The names that a selector selects, those that never train among them."""
    spec = uf.resolve(uf.FreezePlan().train("all"), model).spec
    numbers = np.unique(spec.atoms.tensor[evaluate(parse(selector), spec)])
    return set(spec.paths_of(numbers))


def names(model):
    return [name for name, _ in model.named_parameters()]


def error_of(model, selector, **more):
    with pytest.raises((SelectorScopeError, UnmatchedSelectorError)) as caught:
        trained(model, selector, **more)
    return str(caught.value)


# Models of two libraries.


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_words_stand_for_the_modules_that_a_person_would_name(model):
    built = model.built()
    for word in model.parts:
        assert selected(built, word) == model.names(built, word), word


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_word_for_a_tower_that_the_model_lacks_is_refused(model):
    built = model.built()
    for word in set(TOWERS) - set(model.parts) - {"language"}:
        error = error_of(built, word)
        assert f"{word!r} selects nothing" in error
        assert "hint:" in error


def test_language_is_text():
    model = MODELS[0].built()
    assert trained(model, "language") == trained(model, "text")


# Small networks that run, in both frameworks.


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("net", NETS)
def test_words_mean_the_same_with_and_without_a_batch(net, framework):
    model = getattr(networks(framework), net)()
    for batch in (None, batch_for(net, framework)):
        for word, starts in PARTS[net].items():
            expected = {name for name in names(model) if name.startswith(starts)}
            assert trained(model, word, batch=batch) == expected, (word, batch is None)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("net", NETS)
def test_without_telling_names_a_batch_shows_the_same_towers(net, framework):
    """And without a batch they are the same, or refused: never others."""
    plain = getattr(networks(framework), net)()
    model = getattr(networks(framework, odd), net)()
    known = dict(zip(names(model), names(plain), strict=True))
    batch = batch_for(net, framework)
    for word, starts in PARTS[net].items():
        expected = {name for name in names(model) if known[name].startswith(starts)}
        if word != "action":  # it is a matter of words alone
            assert trained(model, word, batch=batch) == expected, word
        try:
            found = trained(model, word)
        except ResolveError:
            continue
        assert found == expected, word


def damaged(net, framework, seed):
    """A network with some names that say nothing, and parts registered in any order.

    Returns:
        The network, and the word for each of its parameters by name.
    """
    drawn, called = random.Random(seed), {}
    share = drawn.choice((0, 0.5, 1))

    def rename(name):
        return called.setdefault(name, odd(name) if drawn.random() < share else name)

    plain, model = getattr(networks(framework), net)(), getattr(networks(framework, rename), net)()
    words = {
        id(tensor): next((w for w, starts in PARTS[net].items() if name.startswith(starts)), "")
        for name, tensor in zip(names(plain), model.parameters(), strict=True)
    }
    held = "_modules" if framework == "torch" else "_sub_layers"
    modules = model.modules() if framework == "torch" else model.sublayers(include_self=True)
    for module in modules:
        parts = getattr(module, held)
        if not type(module).__name__.endswith("List") and drawn.random() < 0.7:
            order = list(parts)
            drawn.shuffle(order)
            for name in order:
                parts[name] = parts.pop(name)
    return model, {name: words[id(tensor)] for name, tensor in model.named_parameters()}


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("net", NETS)
def test_damaged_networks_are_read_right_or_refused(net, framework, seed):
    """With a batch the towers are right; without one they are right, refused, or found out."""
    model, words = damaged(net, framework, seed)
    batch = batch_for(net, framework)
    for word in set(PARTS[net]) - {"action"}:
        expected = {name for name, known in words.items() if known == word}
        assert trained(model, word, batch=batch) == expected, word
        try:
            found = trained(model, word)
        except ResolveError:
            continue
        if found != expected:
            handle = uf.FreezePlan().only(word).apply(model)
            with pytest.raises(OrderError):
                model(*batch)
            handle.remove()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_if_names_and_execution_disagree_execution_decides(framework):
    swapped = {"vision_tower": "language_model", "language_model": "vision_tower"}
    model = networks(framework, lambda name: swapped.get(name, name)).seeing()
    batch = batch_for("seeing", framework)
    seen = {name for name in names(model) if name.startswith("language_model.")}
    assert trained(model, "vision", batch=batch) == seen
    error = error_of(model, "vision")
    assert "its name says text, but its first layers read pictures" in error
    assert "give a batch" in error


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_projector_may_be_registered_anywhere(framework):
    model = networks(framework).seeing()
    children = model._modules if framework == "torch" else model._sub_layers
    children["multi_modal_projector"] = children.pop("multi_modal_projector")
    children["vision_tower"] = children.pop("vision_tower")
    expected = {name for name in names(model) if name.startswith("multi_modal_projector.")}
    assert trained(model, "projector") == expected
    assert trained(model, "projector", batch=batch_for("seeing", framework)) == expected


# `in`, neck and head.


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_in_reads_a_tower_as_the_whole_model(framework):
    model = networks(framework).seeing()
    assert {name.split(".")[2] for name in trained(model, "blocks[-2:] in language")} == {"2", "3"}
    assert {name.split(".")[2] for name in trained(model, "blocks[-2:] in vision")} == {"3", "4"}
    assert trained(model, "head in language") == {"lm_head.weight", "lm_head.bias"}
    assert trained(model, "norm in vision") < trained(model, "vision")
    assert trained(model, "all in projector") == trained(model, "projector")
    with pytest.raises(uf.UnifreezeError, match="goes past the end"):
        trained(model, "blocks[5] in vision")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_in_a_tower_whose_end_is_the_projector_there_is_no_head(framework):
    model = networks(framework).merging()
    assert trained(model, "head") == {"lm_head.weight", "lm_head.bias"}
    assert not any("merger" in name for name in trained(model, "all in vision"))
    assert trained(model, "backbone") == set(names(model)) - trained(model, "head")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_neck_is_of_one_tower(framework):
    made = networks(framework)
    assert trained(made.seeing(), "neck") == {
        "language_model.norm.weight",
        "language_model.norm.bias",
    }
    error = error_of(made.matching(), "neck")
    assert "'neck' could be of any of 2 towers" in error
    assert "neck in text or neck in vision" in error
    assert trained(made.matching(), "neck in vision") == {
        "vision_model.post_norm.weight",
        "vision_model.post_norm.bias",
    }


# Words and paths.


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_path_spelled_like_a_tower_is_quoted_and_a_notice_says_so(framework):
    """The module `text` lacks the head that belongs to the tower of text."""
    called = {"language_model": "text"}
    model = networks(framework, lambda name: called.get(name, name)).seeing()
    for selector in ("text", "all in text"):
        resolution = uf.resolve(uf.FreezePlan().only(selector), model)
        assert {name.split(".")[0] for name in resolution.trainable_paths} == {"text", "lm_head"}
        assert 'path:"text"' in "\n".join(resolution.notices), selector
    for selector in ('path:"text"', 'all in path:"text"'):
        assert {name.split(".")[0] for name in trained(model, selector)} == {"text"}
        assert str(uf.Selector(selector)) == selector
    assert len(trained(model, 'blocks[-1] in path:"text"')) == 14


def test_a_path_that_is_the_tower_gives_no_notice():
    called = {"vision_tower": "vision"}
    model = networks("torch", lambda name: called.get(name, name)).seeing()
    plan = uf.FreezePlan().only("blocks[-1] in vision")
    assert not uf.resolve(plan, model).notices


def test_of_several_models_each_has_its_towers():
    made = several(image=two_towers(), text=stack())
    chosen = evaluate(parse("vision"), made)
    found = {made.tree.names[name] for name in made.atoms.name[chosen]}
    assert found
    assert all(name.startswith("image.vision_model.") for name in found)


def test_after_in_the_name_of_one_of_several_models_is_that_model():
    models = {"text": networks("torch").seeing(), "vision": networks("torch").hearing()}
    resolution = uf.resolve(uf.FreezePlan().only("all in vision"), models)
    assert {path.split(".")[0] for path in resolution.trainable_paths} == {"vision"}


# Plain models.


def test_a_network_of_one_tower_names_it_and_leaves_the_classifier():
    from torchvision.models import resnet18

    model = resnet18()
    assert trained(model, "vision") == set(names(model)) - {"fc.weight", "fc.bias"}
    error = error_of(model, "text")
    assert "towers of the model: vision" in error
    assert "backbone" in error


@pytest.mark.parametrize("channels", [1, 4])
def test_pictures_that_may_be_spectrograms_are_not_guessed(channels):
    from torch import nn

    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    assert "nothing says which" in error_of(model, "vision")
    assert "nothing says which" in error_of(model, "audio")


def test_numbers_alone_have_no_tower():
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    for word in TOWERS:
        assert "selects nothing" in error_of(model, word)


def test_a_missing_tower_of_an_optional_rule_is_a_notice():
    model = networks("torch").hearing()
    plan = uf.FreezePlan().only("projector").freeze("vision", optional=True)
    assert "matches nothing" in "\n".join(uf.resolve(plan, model).notices)


def test_a_module_of_that_name_is_offered_where_the_word_means_nothing():
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.projector = nn.Linear(4, 4)
            self.out = nn.Linear(4, 2)

    assert 'path:"projector"' in error_of(Net(), "projector")
    assert trained(Net(), "all in projector") == {"projector.weight", "projector.bias"}
    with pytest.raises(UnmatchedSelectorError):
        trained(Net(), 'all in path:"vision"')


# Under a plan.


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_pass_of_words_alone_does_not_contradict_a_plan_for_the_projector(framework):
    model = networks(framework).seeing()
    handle = uf.FreezePlan().only("projector").apply(model)
    pixels, ids = batch_for("seeing", framework)
    # Words alone: the towers of pictures and the projector do not run.
    head, read = model.lm_head, model.language_model
    model.run = lambda get, ids: head(read(ids))
    model(ids)
    assert handle.verify()
    assert pixels is not None


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_order_that_execution_contradicts_is_refused_after_the_first_pass(framework):
    """Names and layers agree, but the layer that is called a projector works on the words."""
    model = networks(framework).seeing()
    run = model.run

    def words_projected(get, pixels, ids):
        out = run(get, pixels, ids)
        return get("image_proj")(out)

    layers = {"torch": "torch.nn", "paddle": "paddle.nn"}[framework]
    nn = __import__(layers, fromlist=["Linear"])
    model.image_proj = nn.Linear(TOKENS, 2)
    model.run = words_projected
    uf.FreezePlan().only("projector").apply(model)
    with pytest.raises(OrderError, match="projector"):
        model(*batch_for("seeing", framework))


def test_every_tensor_has_one_tower():
    for model in MODELS:
        spec = uf.resolve(uf.FreezePlan().train("all"), model.built()).spec
        towers = np.asarray(spec.towers.of_name)
        for number in range(len(spec)):
            found = set(towers[spec.tensor_of == number])
            assert len(found) == 1, (str(model), spec.paths_of([number]))
