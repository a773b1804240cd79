"""Every recipe is resolved, applied, trained and verified in both frameworks, in all its phases.

Two steps of AdamW with weight decay in each phase, on small builds of the real architectures. Long
schedules are not waited for: epochs jump to the one before a phase begins, and then to that one.
"""

import contextlib
import io
import re
import runpy
import sys
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support import sides, tower_nets, zoo
from tests.support.golden_plans import EXAMPLES
from tests.support.pairs import text
from tests.support.zoo import FRAMEWORKS, ZOO
from unifreeze._numerics.outputs import tensors_in
from unifreeze._plan import After, When
from unifreeze._protocol import Batch, load_backend

RECIPES = EXAMPLES / "recipes"
DEEP = {"num_hidden_layers": 12}
"""As many layers as a base model has; a few units wide."""
CLASSES = 5


# Networks.


def resnet18(framework):
    """ResNet-18 at an eighth of its width, with the same values in both frameworks.

    In double precision, so that what is chosen by measuring gradients is the same in both, too.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = narrow("resnet18", "torch", 8).double()
    if framework == "torch":
        return model
    made = narrow("resnet18", "paddle", 8)
    made.to(dtype="float64")
    state = {}
    for path, tensor in model.state_dict().items():
        path = path.replace("running_mean", "_mean").replace("running_var", "_variance")
        state[path] = tensor.numpy().T if path == "fc.weight" else tensor.numpy()
    made.set_state_dict({path: state[path] for path in made.state_dict()})
    return made


def vgg16(framework):
    """VGG-16 at a thirty-second of its width."""
    return narrow("vgg16", framework, 32)


def narrow(name, framework, by):
    """Build a network of torchvision's or paddle.vision's with fewer channels and units."""
    if framework == "torch":
        with torch.device("meta"):
            model = getattr(import_torchvision().models, name)(num_classes=CLASSES)
        from torch.nn import BatchNorm2d, Conv2d, Linear
    else:
        with paddle.LazyGuard():
            model = getattr(paddle.vision.models, name)(num_classes=CLASSES)
        from paddle.nn import BatchNorm2D as BatchNorm2d
        from paddle.nn import Conv2D as Conv2d
        from paddle.nn import Linear

    def replace(parent):
        for part, layer in list(parent.named_children()):
            if isinstance(layer, Conv2d):
                settings = [getattr(layer, at, None) or getattr(layer, f"_{at}") for at in WINDOW]
                bias = NO_BIAS[framework] if layer.bias is None else {}
                made = Conv2d(*sizes(layer), *settings, **bias)
            elif isinstance(layer, Linear):
                made = Linear(*sizes(layer))
            elif isinstance(layer, BatchNorm2d):
                made = BatchNorm2d(layer.weight.shape[0] // by)
            else:
                replace(layer)
                continue
            setattr(parent, part, made)

    def sizes(layer):
        """Inputs and outputs; pictures have three colours and answers have classes."""
        given, made = layer.weight.shape[:2]
        if isinstance(layer, Conv2d) or framework == "torch":
            given, made = made, given
        return [size if size in (3, CLASSES) else size // by for size in (given, made)]

    replace(model)
    return model


WINDOW = ("kernel_size", "stride", "padding")
NO_BIAS = {"torch": {"bias": False}, "paddle": {"bias_attr": False}}


def of_zoo(name, framework, **more):
    return ZOO[name].build[framework](**{**ZOO[name].sizes, **more})


def tokens(framework):
    """RoBERTa that tags words."""
    build = {"torch": text.torch_model, "paddle": text.paddle_model}[framework]
    return build("RobertaForTokenClassification", "encoder", **DEEP)


def two(framework):
    return {"student": of_zoo("bert", framework), "teacher": of_zoo("ernie", framework)}


PICTURES = Batch((np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype("float32"),))
NETWORKS = {
    "resnet18": (resnet18, PICTURES),
    "vgg16": (vgg16, PICTURES),
    "roberta for tokens": (tokens, zoo.text()),
    "student and teacher": (two, zoo.text()),
    "bert of 12 layers": (partial(of_zoo, "bert", **DEEP), zoo.text()),
    **{
        name: (partial(of_zoo, name), ZOO[name].batch())
        for name in ("bert", "ernie", "bart", "clip", "gpt2 for classification", "bert with lora")
    },
}
NETWORKS |= {
    name: (build, Batch(tower_nets.arrays_for(batch)))
    for name, (build, batch) in tower_nets.NETWORKS.items()
}
FOR = {
    "action_only": ["a network that acts"],
    "audio_frozen": ["a network that hears"],
    "experts_only": ["a mixture of experts"],
    "language_frozen": ["a network that sees", "a network that hears"],
    "language_lora": ["a network that sees, with lora"],
    "language_lora_and_projector": ["a network that sees, with lora"],
    "last_vision_blocks_and_projector": ["a network that sees", "a network that merges patches"],
    "projector_only": ["a network that sees", "a network that hears"],
    "projector_then_language": ["a network that sees"],
    "rates_by_tower": ["a network that sees"],
    "router_frozen": ["a mixture of experts"],
    "towers_locked": ["a network that matches"],
    "upper_language_and_projector": ["a network that sees"],
    "vision_frozen": ["a network that sees"],
    "adapters": ["bert with lora"],
    "adaptive_share": ["resnet18", "bert"],
    "all_but_embeddings": ["ernie", "bart"],
    "biases": ["resnet18", "bert"],
    "by_gradient": ["resnet18"],
    "cats_and_dogs": ["resnet18"],
    "classifier": ["resnet18", "vgg16", "bert"],
    "embeddings": ["ernie"],
    "first_70_percent": ["resnet18", "ernie"],
    "first_and_last_children": ["resnet18"],
    "first_eight_layers": ["bert of 12 layers"],
    "first_ten_parameters": ["resnet18", "vgg16", "bert"],
    "gradual_unfreezing": ["roberta for tokens"],
    "head": ["resnet18", "vgg16", "bert"],
    "head_then_top": ["resnet18", "ernie"],
    "last_block_of_vgg": ["vgg16"],
    "last_stage": ["resnet18"],
    "last_two_blocks": ["resnet18", "ernie", "gpt2 for classification"],
    "lisa": ["bert"],
    "lora_with_frozen_norms": ["bert with lora"],
    "named_layers": ["bert"],
    "new_words": ["bert", "bart"],
    "norm_statistics_held": ["resnet18"],
    "norm_statistics_moving": ["resnet18"],
    "norms": ["resnet18", "ernie"],
    "rates_by_depth": ["bert"],
    "rates_by_stage": ["resnet18"],
    "stop_on_rise": ["resnet18"],
    "student_and_teacher": ["student and teacher"],
    "teacher": ["student and teacher"],
    "vision_tower": ["clip"],
}
"""Each recipe, and networks that it is for."""
OTHERS_DIFFER = {"vision_tower"}
"""Recipes after which the two ports train other tensors, of those that the plan is not about."""
CASES = [(recipe, network) for recipe, networks in FOR.items() for network in networks]


# A run of a recipe in one framework.


class Run:
    """A recipe on a network of one framework, from its first phase to its last."""

    def __init__(self, recipe, network, framework):
        build, self.batch = NETWORKS[network]
        self.backend = load_backend(framework)
        self.backend.seed(0)
        self.models = build(framework)
        plan = uf.FreezePlan.load(RECIPES / f"{recipe}.yaml")
        self.handle = uf.apply(plan, self.models)
        self.optimizer = self.handle.optimizer(
            adamw(framework), weight_decay=0.01, **({} if plan.phases else {"lr": 1e-3})
        )
        tensors = self.backend.objects(self.handle.model)
        parameters = {row.path for row in self.handle.resolution.spec.parameters}
        self.tensors = {path: tensor for path, tensor in tensors.items() if path in parameters}
        self.statistics = {
            path: tensor for path, tensor in tensors.items() if re.search(STATISTICS, path)
        }
        self.place = {"epoch": 0, "step": 0}
        self.timeline = []

    def whole(self):
        """Train in every phase; return what trained in each, and what it was called."""
        phases = self.handle.plan.phases
        for number in range(len(phases)):
            self.enter(phases[number])
            assert self.handle.phase.name == phases[number].name
            if not self.handle.stopped:
                self.check_two_steps()
        if not phases:
            self.check_two_steps()
        self.handle.verify()
        return self.timeline

    def enter(self, phase):
        """Go on to where a phase begins, and see that it begins neither sooner nor later."""
        step, entry = self.handle.step, phase.entry
        if entry is None:
            step(**self.place)
        elif isinstance(entry, When):
            for report in range(entry.reports + 1):
                self.place["epoch"] += 1
                value = 1.0 + (report if entry.turn == "risen" else 0)
                began = step(epoch=self.place["epoch"], metrics={entry.metric: value})
                assert began == (report == entry.reports)
        else:
            here = self.place[entry.unit] if isinstance(entry, After) else 0
            self.place[entry.unit] = here + entry.count
            assert not step(**{entry.unit: here + entry.count - 1})
            assert step(**{entry.unit: here + entry.count})

    def check_two_steps(self):
        """Train two steps; what may train moves, and everything else keeps every byte."""
        resolution = self.handle.resolution
        trainable = set(resolution.trainable_paths)
        before, counted, reached = values(self.tensors), values(self.statistics), set()
        for _ in range(2):
            self.backward()
            gradients = {path for path, tensor in self.tensors.items() if gradient(tensor)}
            assert gradients <= trainable
            reached |= gradients
            self.optimizer.step()
            (getattr(self.optimizer, "clear_grad", None) or self.optimizer.zero_grad)()
        moved = different(before, values(self.tensors))
        assert reached
        assert reached <= moved <= trainable
        assert different(counted, values(self.statistics)) == self.free_statistics(trainable)
        self.timeline.append((resolution.trainable_names, resolution.frozen_names))

    def free_statistics(self, trainable):
        """Return the statistics that are to move: of norms that train, unless the plan says."""
        norm_stats = self.handle.plan.norm_stats
        if norm_stats != "hold":
            return set(self.statistics) if norm_stats == "update" else set()
        owners = {path.rpartition(".")[0] for path in trainable}
        return {path for path in self.statistics if path.rpartition(".")[0] in owners}

    def backward(self):
        models = self.models.values() if isinstance(self.models, dict) else [self.models]
        loss = 0.0
        for model in models:
            model.train()
            result = as_users_do(self.backend, model, self.batch)
            for tensor in tensors_in(result, self.backend.is_tensor):
                loss = loss + (tensor**2).mean()
        loss.backward()


def as_users_do(backend, model, batch):
    """Call a model past the backend's own passes, which no plan takes notice of."""
    like = backend.anchor(model)
    named = {name: backend.from_input(array, like) for name, array in batch.kwargs.items()}
    return model(*(backend.from_input(array, like) for array in batch.args), **named)


STATISTICS = r"\.(running_mean|running_var|num_batches_tracked|_mean|_variance)$"


def values(tensors):
    return {path: np.array(tensor.detach().numpy()) for path, tensor in tensors.items()}


def different(before, after):
    return {path for path in before if before[path].tobytes() != after[path].tobytes()}


def adamw(framework):
    return {"torch": torch.optim, "paddle": paddle.optimizer}[framework].AdamW


def gradient(tensor):
    return tensor.grad is not None and bool((tensor.grad != 0).any())


def test_every_recipe_has_networks_that_it_is_trained_on():
    assert sorted(FOR) == sorted(file.stem for file in RECIPES.glob("*.yaml"))
    assert all(FOR.values())


@pytest.mark.parametrize(("recipe", "network"), CASES)
def test_a_recipe_trains_what_it_says_and_nothing_else_in_both_frameworks(recipe, network):
    one, other = (Run(recipe, network, framework).whole() for framework in FRAMEWORKS)
    kept = 1 if recipe in OTHERS_DIFFER else 0
    assert [names[kept] for names in one] == [names[kept] for names in other]
    assert all(names[kept] for names in one)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("recipe", "moving"),
    [("head", False), ("norm_statistics_held", False), ("norm_statistics_moving", True)],
)
def test_statistics_are_held_or_move_as_the_recipe_is_called(recipe, moving, framework):
    run = Run(recipe, "resnet18", framework)
    before = values(run.statistics)
    run.check_two_steps()
    assert len(before) >= 40
    assert different(before, values(run.statistics)) == (set(before) if moving else set())


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_each_stage_has_a_rate_of_its_own(framework):
    handle = Run("rates_by_stage", "resnet18", framework).handle
    zones = {row.path: row.name.partition("/")[0] for row in handle.resolution.spec.parameters}
    rates = {zones[path]: group.lr_scale for group in handle.groups() for path in group.paths}
    slow, middle = (
        ["stem", *(f"blocks.{n}" for n in range(4))],
        [f"blocks.{n}" for n in range(4, 8)],
    )
    assert rates == {**dict.fromkeys(slow, 0.01), **dict.fromkeys(middle, 0.1), "head": 1}


# The programs beside the recipes.


def printed(program, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_module(f"examples.recipes.{program}", run_name="__main__")
    return out.getvalue().splitlines()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_cats_and_dogs_go_through_three_phases(framework, monkeypatch):
    *epochs, verified = printed(f"cats_and_dogs_{framework}", monkeypatch=monkeypatch)
    wanted = ["head"] * 5 + ["layer4"] * 10 + ["everything"] * 5
    assert [line.split()[:2] for line in epochs] == [
        [str(epoch), phase] for epoch, phase in enumerate(wanted)
    ]
    assert verified.startswith("unchanged")


def annealed(side, handle, annealing):
    """An optimizer, and the scheduler of the program's."""
    if side is sides.Torch:
        optimizer = side.sgd(handle)
        return optimizer, side.optimizers.lr_scheduler.LambdaLR(optimizer, annealing)
    scheduler = side.optimizers.lr.LambdaDecay(1e-3, annealing)
    return side.sgd(handle, lr=scheduler), scheduler


@pytest.mark.parametrize("side", sides.SIDES)
def test_cats_and_dogs_are_annealed_by_the_scheduler_of_the_program(side, monkeypatch):
    program = import_module(f"examples.recipes.cats_and_dogs_{side.__name__.lower()}")
    monkeypatch.setattr(sides, "ROWS", PICTURES.args[0].astype("float64"))
    model = resnet18(side.__name__.lower())
    handle = program.PLAN.apply(model)
    optimizer, scheduler = annealed(side, handle, program.annealing)
    rates = []
    for epoch in range(program.EPOCHS):
        handle.step(epoch=epoch)
        before = sides.values(model)
        gradients = side.train(model, optimizer)
        after = sides.values(model)
        scheduler.step()
        decay = 0.0 if epoch < 5 else 1e-4
        pulled = {path: g + decay * before[path] for path, g in gradients.items()}
        step = sum(((before[path] - after[path]) * pulled[path]).sum() for path in pulled)
        rates.append(step / sum((g**2).sum() for g in pulled.values()))
    cosine = [(1 + np.cos(np.pi * epoch / 5)) / 2 for epoch in range(5)]
    wanted = [1e-3] * 5 + [1e-4] * 10 + [1e-5 * factor for factor in cosine]
    assert rates == pytest.approx(wanted, rel=1e-5)


LORA = {
    "torch": r"bert\.encoder\.layer\.\d\.attention\.self\.(query|value)",
    "paddle": r"bert\.encoder\.layers\.\d\.self_attn\.(q|v)_proj",
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_plan_says_where_lora_goes_and_what_trains_beside_it(framework, monkeypatch):
    import_torchvision()
    lora = SimpleNamespace(**runpy.run_module("examples.recipes.lora"))
    assert lora.SIZES["num_hidden_layers"] == 4
    found = lora.layers(ZOO["bert"].build[framework](**lora.SIZES))
    assert len(found) == 8
    assert all(re.fullmatch(LORA[framework], name) for name in found)
    lines = printed("lora", framework, monkeypatch=monkeypatch)
    # The pooler has a bias, too.
    adapters, biases, head = 8 * 2 * 4 * 16, 4 * (5 * 16 + 32) + 16, (16 + 1) * 2
    shown = [line for line in lines if line.startswith("trainable params")]
    assert len(shown) == 1
    assert shown[0].startswith(f"trainable params: {adapters + biases + head:,} ")
    assert lines[-1].startswith("unchanged: ")
