"""What a description names is what the framework itself lists, each tensor once; or an error."""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.kits.paddle_nets import Stack as PaddleStack
from tests.support.kits.torch_nets import Stack as TorchStack
from unifreeze import FreezePlan
from unifreeze._modules.module_backend import ModuleBackend
from unifreeze._protocol import load_backend
from unifreeze.errors import DescriptionError, UnsupportedPlanError

BASES = {"torch": torch.nn.Module, "paddle": paddle.nn.Layer}
LINEARS = {"torch": torch.nn.Linear, "paddle": paddle.nn.Linear}
STACKS = {"torch": TorchStack, "paddle": PaddleStack}
LISTS = {"torch": torch.nn.ModuleList, "paddle": paddle.nn.LayerList}
DICTS = {"torch": torch.nn.ModuleDict, "paddle": paddle.nn.LayerDict}


@pytest.fixture
def fresh(framework) -> ModuleBackend:
    """A backend that has met no model, to be broken."""
    return type(load_backend(framework))()


def trainable(parameter):
    return not parameter.stop_gradient if hasattr(parameter, "stop_gradient") else (
        parameter.requires_grad
    )  # fmt: skip


# What a reader could leave out --------------------------------------------------------------------


def hide_children(reader, cls):
    """Read modules of a class as if nothing were below them."""
    dicts = reader.dicts
    reader.dicts = lambda m: ({}, *dicts(m)[1:]) if isinstance(m, cls) else dicts(m)


def hide_parameters(reader, cls):
    dicts = reader.dicts
    reader.dicts = lambda m: (dicts(m)[0], {}, dicts(m)[2]) if isinstance(m, cls) else dicts(m)


@pytest.mark.parametrize("kind", ["LISTS", "LINEARS"])
def test_a_reader_that_hides_something_is_found_out(framework, fresh, kind):
    cls = globals()[kind][framework]
    hide = hide_children if kind == "LISTS" else hide_parameters
    fresh.describe(STACKS[framework]())
    hide(fresh.reader, cls)
    with pytest.raises(DescriptionError, match=r"not reached: [\w.]+") as caught:
        fresh.describe(STACKS[framework]())
    assert "blocks.0.first.weight" in str(caught.value)


def test_a_wrapper_that_holds_more_than_it_wraps_is_found_out(framework, fresh):
    base = BASES[framework]

    class Around(base):
        def __init__(self):
            super().__init__()
            self.inside, self.more = LINEARS[framework](3, 3), LINEARS[framework](3, 3)

    inner = fresh.reader.inner
    fresh.reader.inner = lambda m: "inside" if isinstance(m, Around) else inner(m)
    model = DICTS[framework]({"first": Around(), "last": LINEARS[framework](3, 2)})
    with pytest.raises(DescriptionError, match=r"2 of .*first\.more\.weight"):
        fresh.describe(model)


def test_what_a_wrapper_around_a_model_of_paddle_holds_is_not_silently_left_out():
    """As in PyTorch, where prompts hang there."""
    from paddlenlp.peft import LoRAConfig, LoRAModel

    inner = paddle.nn.Sequential(paddle.nn.Linear(3, 3), paddle.nn.Linear(3, 2))
    inner.config = None
    around = LoRAModel.__new__(LoRAModel)
    paddle.nn.Layer.__init__(around)
    around.model, around.lora_config = inner, LoRAConfig(r=2, target_modules=["0"])
    uf.freeze(around, 'path:"0"').remove()
    around.prompt = around.create_parameter([4, 3])
    with pytest.raises(UnsupportedPlanError, match="LoRAModel: it holds parameters beside"):
        uf.freeze(around, 'path:"0"')


def test_state_that_is_a_parameter_elsewhere_is_refused(framework, fresh):
    role, model = fresh.reader.state_role, STACKS[framework]()
    model.head.weight = model.stem.weight
    fresh.reader.state_role = lambda m, leaf, t: leaf if m is model.head else role(m, leaf, t)
    fresh.reader.alike = lambda *_: None
    with pytest.raises(DescriptionError, match=r"head\.weight: kept as statistics"):
        fresh.describe(model)


# What the framework itself leaves out -----------------------------------------------------------


def scale(framework, width):
    if framework == "torch":
        return torch.nn.Parameter(torch.ones(width))
    return paddle.nn.Layer().create_parameter([width])


def equal_scales(framework, **equality):
    """A model whose two scales are layers of a class that a dataclass decorator has been put on."""
    base = BASES[framework]

    @dataclass(**equality)
    class Scale(base):
        width: int

        def __post_init__(self):
            base.__init__(self)
            self.factor = scale(framework, self.width)

    class Net(base):
        def __init__(self):
            super().__init__()
            self.one, self.head, self.other = Scale(3), LINEARS[framework](3, 2), Scale(3)

    return Net()


def test_modules_that_compare_equal_are_refused_with_the_reason(framework):
    """The framework lists one of them, so an optimizer built from its list trains one."""
    model = equal_scales(framework, unsafe_hash=True, repr=False)
    assert len(list(model.parameters())) == 3
    with pytest.raises(DescriptionError) as caught:
        uf.freeze(model, "head")
    text = str(caught.value)
    assert all(word in text for word in ("other.factor", "Scale", "__eq__", "eq=False"))
    assert all(map(trainable, model.parameters()))


def test_modules_that_cannot_be_hashed_are_described_whole(framework):
    """The framework itself cannot list them at all."""
    model = equal_scales(framework, repr=False)
    with pytest.raises(TypeError):
        list(model.parameters())
    spec = load_backend(framework).describe(model)
    assert {p.path for p in spec.parameters} == {
        "one.factor", "other.factor", "head.weight", "head.bias",
    }  # fmt: skip
    uf.freeze(model, "one")
    assert [trainable(m.factor) for m in (model.one, model.other)] == [False, True]


def test_modules_of_a_dataclass_told_by_identity_are_described(framework):
    model = equal_scales(framework, eq=False, repr=False)
    spec = load_backend(framework).describe(model)
    assert {p.path for p in spec.parameters} >= {"one.factor", "other.factor"}
    assert len(spec) == len(list(model.parameters())) == 4


def equal_models(framework):
    base = BASES[framework]

    @dataclass(unsafe_hash=True, repr=False)
    class Net(base):
        width: int

        def __post_init__(self):
            base.__init__(self)
            self.body, self.head = LINEARS[framework](3, 3), LINEARS[framework](3, self.width)

    return Net(2), Net(2)


def test_several_models_are_each_held_against_their_own_list(framework):
    """Two that compare equal are one to the framework once they are in a dictionary of modules."""
    student, teacher = equal_models(framework)
    if framework == "torch":  # Paddle goes into both, and leaves out what they hold themselves
        assert len(list(DICTS[framework]({"s": student, "t": teacher}).parameters())) == 4
    handle = uf.apply(FreezePlan().only("head in s"), {"s": student, "t": teacher})
    assert [trainable(p) for p in student.parameters()] == [False, False, True, True]
    assert not any(map(trainable, teacher.parameters()))
    assert len(handle.resolution.spec) == 8
    bad = equal_scales(framework, unsafe_hash=True, repr=False)
    with pytest.raises(DescriptionError, match=r"list of bad: .*bad\.other\.factor"):
        uf.apply(FreezePlan().freeze("all"), {"good": student, "bad": bad})


def test_a_list_of_ones_own_does_not_count(framework):
    """Some models give optimizers a part of their parameters alone."""
    base = STACKS[framework]

    class Partly(base):
        def parameters(self, *_args, **_named):
            return list(self.head.parameters())

        def named_parameters(self, *args, **named):
            return self.head.named_parameters(*args, **named)

    spec = load_backend(framework).describe(Partly())
    assert len(spec) == len(list(base().parameters())) - (4 if framework == "paddle" else 0)


def test_a_module_that_names_its_parts_itself_is_asked(framework):
    """A class that lists its modules in a way of its own is believed, and what it hides is told."""
    base, name = BASES[framework], {"torch": "named_modules", "paddle": "named_sublayers"}
    part = LINEARS[framework](3, 3)

    def nothing(self, *_args, **_named):
        return iter(())

    hidden = type("Hidden", (base,), {name[framework]: nothing})()
    hidden.part = part
    model = DICTS[framework]({"first": hidden, "last": LINEARS[framework](3, 2)})
    with pytest.raises(DescriptionError, match=r"leaves 2 parameters out .*first\.part\.weight"):
        load_backend(framework).describe(model)


def test_a_scripted_model_is_accounted_for():
    scripted = torch.jit.script(TorchStack())
    spec = load_backend("torch").describe(scripted)
    assert len(spec) == len(list(scripted.parameters()))
