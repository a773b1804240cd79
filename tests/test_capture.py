"""From a model's flags back to the plan that says so: exact, short, and right in the other port."""

import re
from pathlib import Path
from statistics import median

import numpy as np
import pytest

import unifreeze as uf
from tests.support import trees, zoo
from unifreeze._authoring.capture import capture_spec, shortest_plan, translate_spec
from unifreeze._authoring.capture.plan_search import unfrozen
from unifreeze._protocol import load_backend
from unifreeze._resolution import resolve_spec
from unifreeze.errors import OptimizerError, PlanError, TieConflictError

OTHER = {"torch": "paddle", "paddle": "torch"}


def set_flag(framework, tensor, trains):
    if framework == "torch":
        tensor.requires_grad = trains
    else:
        tensor.stop_gradient = not trains


def named(framework, model):
    """Every parameter by native name, in order of registration: what a loop goes through."""
    backend = load_backend(framework)
    objects = backend.objects(model)
    return [(name, objects[name]) for name in backend.describe(model).tree.names]


def frozen_names(plan, model):
    return set(plan.resolve(model).frozen_names)


# Pure ---------------------------------------------------------------------------------------


def rules_of(spec, trainable):
    return [str(rule) for rule in shortest_plan(spec, np.asarray(trainable)).rules]


def decided(spec, plan):
    return resolve_spec(plan, unfrozen(spec)).trainable


def flags(spec, *rules):
    """What a plan written by hand decides, as a mask."""
    plan = uf.FreezePlan()
    for verb, what in rules:
        plan = getattr(plan, verb)(what)
    return decided(spec, plan)


@pytest.mark.parametrize(
    ("tree", "rules"),
    [
        ("conv_net", [("only", "head")]),
        ("conv_net", [("only", "stages[-1] | head")]),
        ("conv_net", [("freeze", "stem")]),
        ("conv_net", [("freeze", "params[:10]")]),
        ("conv_net", [("only", "head"), ("train", "norm & bias")]),
        ("text_model", [("freeze", "embeddings")]),
        ("text_model", [("freeze", "blocks[:3]")]),
        ("text_model", [("freeze", "blocks[:3]"), ("train", "norm")]),
        ("text_model", [("freeze", "blocks[:3] & (query | value)")]),
        ("encoder_decoder", [("freeze", "encoder[:2]")]),
        ("image_model", [("freeze", "attention")]),
        ("two_towers", [("freeze", "all in vision_model")]),
        ("two_towers", [("freeze", "blocks[0] in text_model")]),
        ("plain_conv_net", [("only", "classifier")]),
        ("mixture", [("only", 'at:"blocks.0/expert.1"')]),
    ],
)
def test_a_plan_as_people_write_it_comes_back_no_longer_than_it_was(tree, rules):
    spec = trees.spec(trees.MODELS[tree]())
    wanted = flags(spec, *rules)
    plan = shortest_plan(spec, wanted)
    assert np.array_equal(decided(spec, plan), wanted)
    assert len(plan.rules) <= len(rules)
    # Parentheses may be written out: blocks[:3] & query | blocks[:3] & value.
    assert len("".join(map(str, plan.rules))) <= 1.4 * len("".join(map(": ".join, rules)))


@pytest.mark.parametrize("tree", trees.MODELS)
def test_all_and_nothing_are_said_outright(tree):
    spec = trees.spec(trees.MODELS[tree]())
    assert rules_of(spec, np.ones(len(spec), bool)) == ["train: all"]
    assert rules_of(spec, np.zeros(len(spec), bool)) == ["freeze: all"]


@pytest.mark.parametrize("tree", trees.MODELS)
def test_any_freezing_comes_back_from_whatever_flags_the_model_has(tree):
    spec = trees.spec(trees.MODELS[tree]())
    generator = np.random.default_rng(len(tree))
    for share in (0.03, 0.5, 0.97):
        wanted = generator.random(len(spec)) < share
        plan = shortest_plan(spec, wanted)
        for found in (np.ones(len(spec), bool), wanted):
            assert np.array_equal(resolve_spec(plan, spec.with_found(found)).trainable, wanted)


@pytest.mark.parametrize("tree", trees.MODELS)
def test_a_freezing_comes_back_in_native_names_too(tree):
    spec = trees.spec(trees.MODELS[tree]())
    wanted = np.random.default_rng(1).random(len(spec)) < 0.7
    plan = shortest_plan(spec, wanted, native_names=True)
    assert np.array_equal(decided(spec, plan), wanted)
    assert "at:" not in str(plan.rules)


def test_a_parameter_that_is_never_trained_needs_no_rule():
    root = trees.text_model()
    root.children["text"].children["embeddings"].children["position_embeddings"].own["weight"] = (
        trees.Weight(5, 8, trainable=False, fixed="a fixed position table")
    )
    spec = trees.spec(root)
    assert rules_of(spec, spec.found) == ["train: all"]
    assert rules_of(spec, spec.found & decided(spec, uf.FreezePlan().freeze("embeddings"))) == [
        "freeze: embeddings"
    ]


def test_a_tied_tensor_is_captured_by_whichever_name_says_it_best():
    spec = trees.spec(trees.text_model())
    (tied,) = {n for n in spec.tensor_of if list(spec.tensor_of).count(n) > 1}
    wanted = np.ones(len(spec), bool)
    wanted[tied] = False
    assert rules_of(spec, wanted) in (["freeze: tied"], ["freeze: word_embeddings"])
    assert np.array_equal(decided(spec, shortest_plan(spec, ~wanted)), ~wanted)


def test_a_fused_tensor_is_never_split():
    spec = trees.spec(trees.image_model())
    names = [row.path for row in spec.parameters]
    wanted = np.asarray(["qkv" not in name for name in names])
    plan = shortest_plan(spec, wanted)
    assert np.array_equal(decided(spec, plan), wanted)


def test_a_long_list_is_written_in_several_rules_and_loads_again():
    spec = trees.spec(trees.encoder_decoder((8, 8)))
    wanted = np.random.default_rng(0).random(len(spec)) < 0.5
    found = capture_spec(spec, wanted, title="Captured")
    assert len(found.plan.rules) > 3
    assert uf.FreezePlan.from_yaml(found.text) == found.plan
    assert max(map(len, found.text.splitlines())) <= 110


def test_tensors_that_share_memory_cannot_be_told_apart():
    tree = trees.tree(trees.conv_net())
    tree.shared = [(0, 1)]
    spec = trees.derive(tree)
    wanted = np.ones(len(spec), bool)
    wanted[0] = False
    with pytest.raises(TieConflictError):
        shortest_plan(spec, wanted)


def test_each_rule_says_what_it_takes():
    spec = trees.spec(trees.conv_net())
    text = capture_spec(spec, flags(spec, ("only", "head")), title="Captured").text
    assert text.splitlines()[0].startswith("# Captured: 60 of 62 parameters frozen")
    assert "# freezes all but 2 parameters, 330 values: fc" in text
    assert text.endswith('  - only: "head"\n')


def test_a_neutral_loop_is_not_called_a_substring_loop():
    spec = trees.spec(trees.conv_net())
    for wanted in (flags(spec, ("freeze", "stem")), flags(spec, ("only", "stages[-1] | head"))):
        assert capture_spec(spec, wanted, title="Captured").notes == ()


def test_a_substring_loop_is_noticed_only_where_it_fits_exactly():
    spec = trees.spec(trees.conv_net())
    names = [row.path for row in spec.parameters]
    wanted = np.asarray(["conv1" not in name and "layer1" not in name for name in names])
    (note,) = capture_spec(spec, wanted, title="Captured").notes
    assert "'conv1', 'layer1'" in note
    wanted[-1] = False
    assert capture_spec(spec, wanted, title="Captured").notes == ()


# Random freezings, and the loops of the tutorials ---------------------------------------------

SMALL = ("bert", "ernie", "t5", "bart", "resnet50")


@pytest.fixture(scope="module")
def models():
    """Small networks in both frameworks, without values where that takes time."""
    built = {}

    def get(name, framework, *, full=False):
        key = name, framework, full
        if key not in built:
            bare = full or name == "resnet50"
            built[key] = (zoo.structure if bare else zoo.runnable)(name, framework)
        return built[key]

    return get


def is_shared_by_both(models, name):
    one, other = (
        load_backend(framework).describe(models(name, framework)) for framework in zoo.FRAMEWORKS
    )
    return {row.name for row in one.parameters} == {row.name for row in other.parameters}


@pytest.mark.parametrize("framework", zoo.FRAMEWORKS)
@pytest.mark.parametrize("name", SMALL)
def test_twenty_random_freezings_of_each_network_come_back_here_and_in_the_other_framework(
    models, name, framework
):
    model, other = models(name, framework), models(name, OTHER[framework])
    assert is_shared_by_both(models, name)
    backend = load_backend(framework)
    generator = np.random.default_rng(len(name))
    for number in range(20):
        share = (0.02, 0.1, 0.5, 0.9, 0.98)[number % 5]
        for _, tensor in named(framework, model):
            set_flag(framework, tensor, bool(generator.random() < share))
        found = uf.capture(model)
        read = {path for path, trains in backend.read(model).items() if not trains}
        assert set(found.plan.resolve(model).frozen_paths) == read
        for _, tensor in named(OTHER[framework], other):
            set_flag(OTHER[framework], tensor, True)
        assert frozen_names(found.plan, other) == frozen_names(found.plan, model)
        assert uf.FreezePlan.from_yaml(found.text) == found.plan


def numbered_below(most):
    return lambda name: (m := re.search(r"layers?\.(\d+)\.", name)) and int(m[1]) < most


def holds(*texts):
    return lambda name: any(text in name for text in texts)


def starts(*children):
    return lambda name: name.split(".")[0] in children


LOOPS = {
    "the first ten parameters": ("resnet50", None),
    "names with conv1, bn1 or layer1": ("resnet50", holds("conv1", "bn1", "layer1")),
    "all but layer4": ("resnet50", lambda name: "layer4" not in name),
    "all but layer4 and fc": ("resnet50", lambda name: not holds("layer4", "fc")(name)),
    "all but the last layer": ("resnet50", lambda name: "fc" not in name),
    "children below 6": ("resnet50", starts("conv1", "bn1", "layer1", "layer2")),
    "every bn": ("resnet50", holds("bn")),
    "features": ("vgg16", starts("features")),
    "features below 10": (
        "vgg16",
        lambda name: starts("features")(name) and int(name.split(".")[1]) < 10,
    ),
    "encoder layers below 10": ("bert", numbered_below(10)),
    "embeddings": ("bert", holds("embeddings")),
    "embeddings and layers below 10": (
        "bert",
        lambda name: "embeddings" in name or numbered_below(10)(name),
    ),
    "all but the classifier": ("bert", lambda name: "classifier" not in name),
    "ernie: encoder layers below 10": ("ernie", numbered_below(10)),
    "ernie: all but the classifier": ("ernie", lambda name: "classifier" not in name),
}


def run_loop(framework, model, freezes):
    for number, (name, tensor) in enumerate(named(framework, model)):
        frozen = number < 10 if freezes is None else bool(freezes(name))
        set_flag(framework, tensor, not frozen)


@pytest.mark.parametrize("framework", zoo.FRAMEWORKS)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_of_the_tutorials_comes_back_here_and_in_the_other_framework(
    models, loop, framework
):
    network, freezes = LOOPS[loop]
    model, other = (models(network, one, full=True) for one in (framework, OTHER[framework]))
    run_loop(framework, model, freezes)
    plan = uf.capture(model).plan
    read = load_backend(framework).read(model)
    assert set(plan.resolve(model).trainable_paths) == {p for p, trains in read.items() if trains}
    run_loop(OTHER[framework], other, lambda name: False)
    assert frozen_names(plan, other) == frozen_names(plan, model)
    # In both, the loop means the same set, so the plan says what the loop would there.
    run_loop(OTHER[framework], other, freezes)
    assert uf.capture(other).plan.rules == plan.rules


def test_the_median_plan_of_those_loops_is_short(models):
    lengths, terms = [], []
    for network, freezes in LOOPS.values():
        model = models(network, "torch", full=True)
        run_loop("torch", model, freezes)
        rules = uf.capture(model).plan.rules
        lengths.append(len(rules))
        terms.append(sum(str(rule).count(" | ") + 1 for rule in rules))
    assert median(lengths) <= 3
    assert max(lengths) <= 3
    assert max(terms) <= 4, "a rule must not hide a list"


@pytest.mark.parametrize("framework", zoo.FRAMEWORKS)
def test_what_a_substring_loop_took_beyond_its_intent_stands_in_the_text(models, framework):
    model = models("resnet50", framework, full=True)
    run_loop(framework, model, holds("conv1", "bn1", "layer1"))
    text = " ".join(uf.capture(model).text.replace("#", " ").split())
    assert "'conv1', 'bn1', 'layer1' anywhere in a name freezes these 72 tensors" in text
    assert "33 are in conv1, bn1 and layer1 themselves" in text
    assert "If only those were meant: freeze: stem | stages[0]" in text


@pytest.mark.parametrize("framework", zoo.FRAMEWORKS)
def test_a_prefix_that_takes_ten_and_eleven_is_noticed(models, framework):
    model = models("bert", framework, full=True)
    run_loop(framework, model, holds("layer.1", "layers.1"))
    (note,) = uf.capture(model).notes
    assert "freezes these 48 tensors; 16 are in layer" in note
    assert note.endswith("If only those were meant: freeze: blocks[1]")


# Translation --------------------------------------------------------------------------------


def test_a_plan_in_native_names_becomes_neutral_and_native_again(models):
    one, other = (load_backend(f).describe(models("bert", f, full=True)) for f in zoo.FRAMEWORKS)
    plan = uf.FreezePlan().freeze("bert.encoder.layer[0:10]").freeze("bert.embeddings")
    neutral = translate_spec(plan, one, other).plan
    assert [str(rule) for rule in neutral.rules] == ["freeze: embeddings | blocks[:10]"]
    theirs = translate_spec(plan, one, other, native=True).plan
    wanted = set(resolve_spec(plan, unfrozen(one)).frozen_names)
    assert set(resolve_spec(neutral, unfrozen(other)).frozen_names) == wanted
    assert set(resolve_spec(theirs, unfrozen(other)).frozen_names) == wanted
    assert "bert.encoder.layers[" in str(theirs.rules[0].choice)
    back = translate_spec(theirs, other, one).plan
    assert back.rules == neutral.rules


def test_policies_are_carried_over_and_what_is_not_is_named():
    spec = trees.spec(trees.conv_net())
    plan = uf.FreezePlan().only("fc").with_norm_stats("update").with_dropout("off")
    found = translate_spec(plan.with_group("fc", lr_scale=2), spec, spec)
    assert found.plan == uf.FreezePlan().only("head").with_norm_stats("update").with_dropout("off")
    assert "groups" in found.notes[0]


def test_a_plan_whose_rules_are_all_in_phases_is_translated_a_phase_at_a_time():
    plan = uf.FreezePlan.from_yaml("{unifreeze: 1, phases: [{name: a, rules: [{only: fc}]}]}")
    spec = trees.spec(trees.perceptron())
    with pytest.raises(PlanError, match=r"take one phase of it: plan.in_phase\(0\)"):
        translate_spec(plan, spec, spec)


def test_two_networks_with_nothing_in_common_cannot_be_translated():
    plan = uf.FreezePlan().freeze('path:"0"')
    with pytest.raises(PlanError, match="no parameter in common"):
        translate_spec(plan, trees.spec(trees.perceptron()), trees.spec(trees.module("Net")))


# What flags do not say ----------------------------------------------------------------------


@pytest.fixture
def lab(framework):
    """The small network of the contract, and how its framework trains it."""
    return Lab(framework)


class Lab:
    def __init__(self, framework):
        from importlib import import_module

        self.framework = framework
        self.kit = import_module(f"tests.support.kits.{framework}_kit").kit
        self.backend, self.batch = self.kit.backend, self.kit.plain.batch
        self.model = self.kit.plain.make()
        self.objects = self.backend.objects(self.model)

    def paths(self, *starts):
        names = self.backend.describe(self.model).tree.names
        return [name for name in names if name.startswith(starts)]

    def optimizer(self, paths, **more):
        tensors = [self.objects[path] for path in paths]
        if self.framework == "torch":
            import torch

            return torch.optim.SGD(tensors, lr=0.1, **more)
        import paddle

        if more.pop("grouped", False):
            tensors = [{"params": tensors[:1]}, {"params": tensors[1:]}]
        return paddle.optimizer.Momentum(0.1, parameters=tensors, **more)

    def backward(self):
        out = self.backend.run(self.model, self.batch)
        out.square().mean().backward()

    def step(self, optimizer, *, clear):
        self.backward()
        optimizer.step()
        if clear:
            (optimizer.zero_grad if self.framework == "torch" else optimizer.clear_grad)()

    def detach(self, module):
        """Cut the gradient behind a module, as `no_grad` around it would."""
        if self.framework == "torch":
            module.register_forward_hook(lambda _m, _i, out: out.detach())
        else:
            module.register_forward_post_hook(lambda _m, _i, out: out.detach())

    def state(self):
        prints = self.backend.fingerprint(self.model, self.backend.objects(self.model))
        return (
            {path: one.bits for path, one in prints.items()},
            self.backend.read(self.model),
            self.backend.gradients(self.model),
            self.backend.training(self.model),
        )


def test_what_is_left_out_of_the_optimizer_is_frozen_and_the_note_says_so(lab):
    found = uf.capture(lab.model, optimizer=lab.optimizer(lab.paths("head")))
    assert set(found.plan.resolve(lab.model).trainable_paths) == {"head.weight", "head.bias"}
    assert "left out of the optimizer" in found.notes[0]
    assert uf.capture(lab.model).plan.rules[0] == uf.FreezePlan().train("all").rules[0]


def test_parameters_in_several_groups_of_an_optimizer_are_found():
    lab = Lab("paddle")
    found = uf.capture(lab.model, optimizer=lab.optimizer(lab.paths("head"), grouped=True))
    assert set(found.plan.resolve(lab.model).trainable_paths) == {"head.weight", "head.bias"}


def test_an_optimizer_of_another_model_is_refused(lab):
    other = Lab(lab.framework)
    with pytest.raises(PlanError, match="holds none of the model's parameters"):
        uf.capture(lab.model, optimizer=other.optimizer(other.paths("head")))
    with pytest.raises(OptimizerError, match="cannot say what an object updates"):
        uf.capture(lab.model, optimizer=object())


def test_what_no_gradient_reaches_is_frozen_and_the_model_is_as_it_was(lab):
    lab.detach(lab.model.blocks[1])
    lab.backward()
    before = lab.state()
    found = uf.capture(lab.model, batch=lab.batch)
    assert set(found.plan.resolve(lab.model).trainable_paths) == {"head.weight", "head.bias"}
    assert "12 parameters require gradients and run, but get none" in found.notes[0]
    assert lab.state() == before


def test_a_layer_that_never_runs_stays_trainable_with_a_note(lab):
    spare = type(lab.model.head)(6, 2)
    lab.model.spare = spare
    lab.objects = lab.backend.objects(lab.model)
    found = uf.capture(lab.model, batch=lab.batch)
    assert str(found.plan.rules[0]) == "train: all"
    assert "this batch never reaches them" in found.notes[0]
    lab.detach(lab.model.blocks[0])
    found = uf.capture(lab.model, batch=lab.batch)
    frozen = set(found.plan.resolve(lab.model).frozen_paths)
    assert frozen == set(lab.paths("blocks.0"))


@pytest.mark.parametrize("clear", [False, True])
def test_what_is_put_back_after_each_step_is_frozen(lab, clear):
    optimizer = lab.optimizer(lab.paths("blocks", "head"))
    kept = lab.paths("blocks.0")

    def step():
        before = {path: lab.backend.tensor(lab.model, path) for path in kept}
        lab.step(optimizer, clear=clear)
        for path, value in before.items():
            lab.backend.assign(lab.model, path, value)

    values = lab.state()[0]
    found = uf.capture(lab.model, step=step)
    assert set(found.plan.resolve(lab.model).frozen_paths) == set(kept)
    assert "bit for bit the same after a step" in found.notes[0]
    assert ("may have been none" in found.notes[0]) == clear
    assert lab.state()[0] == values


def test_a_step_that_moves_nothing_shows_nothing(lab):
    found = uf.capture(lab.model, step=lambda: None)
    assert str(found.plan.rules[0]) == "train: all"
    assert "moved nothing" in found.notes[0]


def norms(lab):
    return [block.norm for block in lab.model.blocks]


def freeze_in_a_loop(lab, *starts):
    for path in lab.paths(*starts):
        set_flag(lab.framework, lab.objects[path], False)


def test_statistics_that_move_in_the_source_are_let_move(lab):
    lab.model.train()
    freeze_in_a_loop(lab, "blocks")
    found = uf.capture(lab.model)
    assert found.plan.norm_stats == "update"
    assert "statistics of 2 frozen layers move" in found.notes[-1]
    assert uf.FreezePlan.from_yaml(found.text) == found.plan


def test_statistics_that_hold_in_the_source_hold_by_default(lab):
    lab.model.train()
    freeze_in_a_loop(lab, "blocks")
    for norm in norms(lab):
        norm.eval()
    found = uf.capture(lab.model)
    assert found.plan.norm_stats == "hold"
    assert "norm_stats stays hold" in found.notes[-1]


def test_a_norm_that_trains_in_inference_mode_holds_all(lab):
    lab.model.train()
    for norm in norms(lab):
        norm.eval()
    freeze_in_a_loop(lab, "blocks.0")
    assert uf.capture(lab.model).plan.norm_stats == "hold_all"


def test_norms_that_differ_are_told_apart_by_selector(lab):
    lab.model.train()
    freeze_in_a_loop(lab, "blocks")
    norms(lab)[0].eval()
    found = uf.capture(lab.model)
    resolution = found.plan.resolve(lab.model)
    assert [resolution.spec.tree.paths[n] for n in resolution.held] == ["blocks.0.norm"]


def test_a_model_in_inference_mode_says_nothing_of_its_statistics(lab):
    lab.model.eval()
    freeze_in_a_loop(lab, "blocks")
    found = uf.capture(lab.model)
    assert found.plan.norm_stats == "hold"
    assert "as a whole is in inference mode" in found.notes[-1]


def test_global_statistics_in_paddle_hold():
    lab = Lab("paddle")
    lab.model.train()
    freeze_in_a_loop(lab, "blocks")
    for norm in norms(lab):
        norm._use_global_stats = True
    assert uf.capture(lab.model).plan.norm_stats == "hold"


def test_a_plan_in_force_is_captured_as_itself(lab):
    lab.model.train()
    handle = uf.FreezePlan().only("head").apply(lab.model)
    lab.model.train()
    found = uf.capture(lab.model)
    assert found.plan == handle.plan
    handle.remove()
    assert str(uf.capture(lab.model).plan.rules[0]) == "train: all"


def test_several_models_are_captured_as_one(lab):
    other = lab.kit.plain.make()
    freeze_in_a_loop(lab, "")
    found = uf.capture({"teacher": lab.model, "student": other})
    spec = found.plan.resolve({"teacher": lab.model, "student": other})
    assert all(path.startswith("teacher.") for path in spec.frozen_paths)
    assert all(path.startswith("student.") for path in spec.trainable_paths)


def test_a_capture_is_written_to_a_file_that_loads(lab, tmp_path):
    freeze_in_a_loop(lab, "blocks.0")
    found = uf.capture(lab.model)
    found.save(tmp_path / "plan.yaml")
    assert uf.FreezePlan.load(tmp_path / "plan.yaml") == found.plan
    assert f"{found}\n" == found.text
    with pytest.raises(PlanError, match="cannot be written"):
        found.save(tmp_path / "none" / "plan.yaml")


def test_the_plan_in_the_readme_is_what_is_captured(models):
    page = Path(__file__).parent.parent / "docs" / "en" / "capture.md"
    shown = re.search(r"```yaml\n(# Captured.*?)```", page.read_text("utf-8"), re.S)[1]
    model = models("resnet50", "torch", full=True)
    run_loop("torch", model, lambda name: not holds("layer4", "fc")(name))
    assert uf.capture(model).text == shown
