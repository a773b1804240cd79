"""What people freeze every day takes one rule or two, and means the same in both frameworks.

Each plan is a file under examples/. It is applied, and the flags are read back from the framework
itself; `tests/golden/plans/` says in canonical names what has to come out.
"""

import re

import numpy as np
import pytest

import unifreeze as uf
from tests.support.golden_plans import BY_WHAT_IS_FROZEN, PLANS, build, golden, load, title
from tests.support.zoo import ENCODER, FRAMEWORKS, ZOO, in_paddle, structure
from unifreeze._protocol import backend_for, load_backend

EVERYDAY = {
    "only the head": "recipes/head.yaml",
    "the last two blocks and the head": "recipes/last_two_blocks.yaml",
    "all but the embeddings": "recipes/all_but_embeddings.yaml",
    "biases only": "resnet/biases.yaml",
    "biases and the head": "recipes/biases.yaml",
    "norms only": "recipes/norms.yaml",
    "the first 70 % of the blocks": "recipes/first_70_percent.yaml",
    "layer4 and fc by their native names": "resnet/native_names.yaml",
    "everything in a teacher": "recipes/teacher.yaml",
    "a student and a teacher at once": "recipes/student_and_teacher.yaml",
    "the vision tower of two": "recipes/vision_tower.yaml",
    "adapters and the head": "recipes/adapters.yaml",
    "the embeddings and the first ten blocks": "ernie/top_two_blocks.yaml",
}
CASES = [
    pytest.param(plan, network, id=f"{what}, {title(network)}")
    for what, plan in EVERYDAY.items()
    for network in PLANS[plan]
]


def flags(model):
    """Every parameter's flag by native name, read off the tensor itself."""
    backend = backend_for(model)
    held = backend.group(model) if isinstance(model, dict) else model
    tensors = backend.objects(held)
    paths = [parameter.path for parameter in backend.describe(held).parameters]
    return {path: trains(tensors[path]) for path in paths}


def trains(tensor):
    return not tensor.stop_gradient if hasattr(tensor, "stop_gradient") else tensor.requires_grad


def listed(plan, network):
    return golden(plan)[title(network)].splitlines()[1:]


@pytest.mark.parametrize("plan", EVERYDAY.values(), ids=EVERYDAY)
def test_it_takes_one_rule_or_two(plan):
    assert 1 <= len(load(plan).rules) <= 2


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("plan", "network"), CASES)
def test_the_flags_read_back_are_those_of_the_golden_file(plan, network, framework):
    model = build(network, framework)
    before = flags(model)
    handle = uf.apply(load(plan), model)
    now = flags(model)
    names = {row.path: row.name for row in handle.resolution.spec.parameters}
    shown = {names[path] for path, flag in now.items() if flag != (plan in BY_WHAT_IS_FROZEN)}
    assert shown == set(listed(plan, network))
    handle.verify()
    handle.remove()
    assert flags(model) == before


NATIVE = {
    ("recipes/head.yaml", "resnet50"): r"fc\.(weight|bias)",
    ("recipes/head.yaml", "vgg16"): r"classifier\.[036]\.(weight|bias)",
    ("recipes/head.yaml", "bert"): r"classifier\.(weight|bias)",
    ("recipes/last_two_blocks.yaml", "resnet50"): r"(layer4\.[12]|fc)\..*",
    (
        "recipes/last_two_blocks.yaml",
        "ernie",
    ): (r"(ernie\.encoder\.layers?\.[23]|ernie\.pooler|classifier)\..*"),
    ("recipes/all_but_embeddings.yaml", "ernie"): r"(?!ernie\.embeddings\.).*",
    ("recipes/all_but_embeddings.yaml", "bart"): r"(?!.*(shared|embed)).*",
    ("resnet/biases.yaml", "resnet50"): r".*\.bias",
    ("recipes/norms.yaml", "resnet50"): r"(.*\.)?(bn\d|downsample\.1)\.(weight|bias)",
    ("recipes/norms.yaml", "ernie"): r".*(LayerNorm|layer_norm|norm\d)\.(weight|bias)",
    ("recipes/first_70_percent.yaml", "resnet50"): r"(layer3\.[45]|layer4\.\d|fc)\..*",
    ("resnet/native_names.yaml", "resnet50"): r"(layer4|fc)\..*",
}
"""What trains, said once more as a pattern over the native names of both ports."""


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("plan", "network"), NATIVE)
def test_what_trains_is_what_its_native_names_say(plan, network, framework):
    model = build(network, framework)
    uf.apply(load(plan), model)
    named = {path: bool(re.fullmatch(NATIVE[plan, network], path)) for path in flags(model)}
    assert flags(model) == named


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_wrapper_of_several_devices_is_frozen_by_the_same_plan(framework):
    plain, wrapped = build("resnet50", framework), build("resnet50 in data parallel", framework)
    for model in (plain, wrapped):
        uf.apply(load("recipes/last_two_blocks.yaml"), model)
    assert flags(wrapped) == flags(plain)


@pytest.fixture(scope="module")
def both_ernies():
    return {framework: structure("ernie", framework) for framework in FRAMEWORKS}


def test_no_layer_of_the_two_ernies_has_the_same_native_name(both_ernies):
    one, other = (
        {path for path in flags(model) if ".encoder." in path} for model in both_ernies.values()
    )
    assert len(one) == len(other) == 12 * 16
    assert not one & other


def test_the_two_ernies_register_their_layers_in_different_orders(both_ernies):
    one, other = (list(flags(model)) for model in both_ernies.values())
    ported = [in_paddle("ernie", path) for path in one]
    assert sorted(ported) == sorted(other)
    assert ported != other


@pytest.mark.parametrize(
    ("rule", "count"), [("embeddings", 6), ("blocks[:10]", 160), ("embeddings | blocks[:10]", 166)]
)
def test_a_rule_freezes_the_same_parameters_of_both_ernies_at_full_size(both_ernies, rule, count):
    frozen = {}
    for framework, model in both_ernies.items():
        handle = uf.freeze(model, rule)
        frozen[framework] = {path for path, flag in flags(model).items() if not flag}
        handle.remove()
    assert len(frozen["torch"]) == count
    assert {in_paddle("ernie", path) for path in frozen["torch"]} == frozen["paddle"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_teacher_drops_nothing_while_its_student_does(framework):
    models = {name: ZOO["bert"].build[framework](**ENCODER) for name in ("student", "teacher")}
    handle = uf.apply(load("recipes/teacher.yaml"), models)
    backend = load_backend(framework)
    same = {}
    for name, model in models.items():
        model.train()
        runs = [backend.run(model, ZOO["bert"].batch()) for _ in range(2)]
        one, other = (np.asarray(backend.to_array(first_of(out).detach())) for out in runs)
        same[name] = np.array_equal(one, other)
    assert same == {"student": False, "teacher": True}
    handle.remove()


def first_of(outputs):
    return outputs[0] if isinstance(outputs, tuple) else getattr(outputs, "logits", outputs)
