"""Every public function and method, given what beginners give: refused in words, with the cure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import unifreeze as uf
from tests.support.public_names import Public, public_callables, public_classes, trainer_callbacks
from tests.support.wrong_types import HEAD, INSTANCES, PHASES, World, good, wrong_values
from unifreeze._arguments import checked, checked_methods, in_words
from unifreeze._arguments.fitting import misfit, plain_types
from unifreeze.errors import ArgumentError, UnifreezeError, UnknownNameError

CALLABLES = public_callables()
PUBLIC_CLASSES = [
    kind
    for kind in (getattr(uf, name) for name in uf.__all__)
    if inspect.isclass(kind) and not issubclass(kind, Exception)
]
LONGEST = 1000
"""Characters that a message about one argument may have."""


@pytest.fixture(scope="module", params=["torch", "paddle"])
def world(request, tmp_path_factory):
    return World(request.param, tmp_path_factory.mktemp("world"))


def objects_of(world: World, public: Public) -> list[Any]:
    """Return what a method is called on: an object, or nothing if it is not a method."""
    if not public.is_method:
        return []
    kind = public.owner.__name__
    return [world.handle() if kind == "Handle" else world.instance(kind)]


def call_with(world: World, public: Public, on: list[Any], **given: Any) -> None:
    """Call with right values but for those given."""
    args, kwargs = [*on], {}
    for row in public.parameters:
        if row.kind is row.VAR_POSITIONAL:
            args += [given[row.name]] if row.name in given else []
        elif row.kind is not row.VAR_KEYWORD and (row.name in given or row.default is row.empty):
            value = given[row.name] if row.name in given else good(world, public, row.name)
            if row.kind is row.KEYWORD_ONLY:
                kwargs[row.name] = value
            else:
                args.append(value)
    result = public.function(*args, **kwargs)
    if hasattr(result, "__enter__"):
        with result:
            pass


def what_is_wrong_with(call, named: str = "") -> str:
    """Return what is wrong with how a call is refused; "" if nothing is.

    Args:
        call: The call.
        named: How the message must call what was called.
    """
    try:
        call()
    except UnifreezeError as error:
        text = str(error)
        if named and not text.startswith(f"{named}()"):
            return f"is not told of {named}: {text}"
        if not error.hint:
            return f"has no cure: {text}"
        if len(text) > LONGEST or " object at 0x" in text:
            return f"is not short: {text[:300]}"
        return ""
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"[:300]
    return "is accepted"


@pytest.mark.parametrize("public", CALLABLES, ids=str)
def test_a_value_of_a_wrong_type_is_refused_with_the_cure(world, public):
    found, on = [], objects_of(world, public)
    for parameter in public.parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for name, value in wrong_values(world, public, parameter.name).items():
            given = {parameter.name: value}
            mistake = what_is_wrong_with(lambda given=given: call_with(world, public, on, **given))
            found += [f"{parameter.name}: {name} {mistake}"] if mistake else []
    assert not found, "\n".join(found)


@pytest.mark.parametrize("public", CALLABLES, ids=str)
def test_an_argument_that_there_is_not_is_refused(world, public):
    kinds = {row.kind for row in public.parameters}
    on = objects_of(world, public)
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        call = partial(public.function, *on, no_such_argument=1)
        assert not what_is_wrong_with(call, named=str(public))
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        call = partial(public.function, *on, *range(20))
        assert not what_is_wrong_with(call, named=str(public))


@pytest.mark.parametrize("kind", PUBLIC_CLASSES, ids=lambda kind: kind.__name__)
def test_no_class_is_made_of_what_it_is_not_made_of(kind):
    for call in (lambda: kind(3), lambda: kind("x.json", 3), lambda: kind(no_such_part=1)):
        mistake = what_is_wrong_with(call)
        assert not mistake, f"{kind.__name__}: {mistake}"


def test_the_callbacks_of_trainers_refuse_what_is_not_a_plan(world):
    for public in trainer_callbacks(world.framework):
        for parameter in ("plan", "batch", "keep_values"):
            for name, value in wrong_values(world, public, parameter).items():
                if (parameter, name) == ("plan", "a handle"):
                    continue
                given = {parameter: value}
                mistake = what_is_wrong_with(lambda p=public, g=given: call_with(world, p, [], **g))
                assert not mistake, f"{public}: {parameter}: {name} {mistake}"


# What the cure says -------------------------------------------------------------------------


def refused(call) -> str:
    with pytest.raises(UnifreezeError) as caught:
        call()
    return str(caught.value)


def test_the_cure_is_the_line_that_a_colleague_would_write(world):
    model, handle = world.model(), HEAD.apply(world.model())
    sgd = world.optimizers.SGD
    for call, cure in (
        (lambda: uf.freeze(model, ["head", "norm"]), '"head | norm"'),
        (lambda: HEAD.freeze(("head", "norm")), '"head | norm"'),
        (lambda: HEAD.with_group(["bias", "norm"], lr_scale=2), '"bias | norm"'),
        (lambda: uf.Selector(["bias", "norm"]), '"bias | norm"'),
        (lambda: uf.freeze(model, "head", "norm"), '"head | norm"'),
        (lambda: uf.freeze("backbone", model), "in another order: freeze(model, what"),
        (lambda: uf.apply(model, HEAD), "in another order: apply(plan, model"),
        (lambda: uf.freeze(model, waht="head"), "did you mean what="),
        (lambda: uf.apply("a/plan.yaml", model), "FreezePlan.load('a/plan.yaml')"),
        (lambda: uf.apply("head", model), "FreezePlan().freeze('head')"),
        (lambda: uf.apply(HEAD.document(), model), "FreezePlan.from_document("),
        (lambda: uf.FreezePlan("head"), 'FreezePlan().only("head")'),
        (lambda: uf.FreezePlan({"rules": []}), "FreezePlan.from_document("),
        (lambda: HEAD.with_group("all"), "lr_scale, weight_decay or layer_decay"),
        (lambda: HEAD.with_dropout("of"), 'did you mean "off"?'),
        (lambda: handle.step(epoch="3"), "without quotes: epoch=3"),
        (lambda: handle.step(epoch=0, metrics=[1]), 'metrics={"val_loss": 0.41}'),
        (lambda: handle.optimizer("adam"), "the class itself"),
        (lambda: handle.optimizer(sgd, lr=1e-3, params=[1]), "leave params out"),
        (lambda: handle.optimizer(sgd, model.parameters(), lr=1e-3), "leave the parameters out"),
        (lambda: HEAD.with_group("head", lr=1), "lr_scale=0.1"),
        (lambda: HEAD.with_group("head", wd=0), "did you mean weight_decay="),
        (lambda: HEAD.phase("b", epoch=3), 'at={"epoch": 3}'),
        (lambda: HEAD.phase("b", learning_rate=1), "did you mean lr="),
        (lambda: HEAD.phase("b", 3), 'at={"epoch": 5}'),
        (lambda: handle.step(3), "by name: epoch=3 or step=3"),
        (lambda: uf.suggest(model, 2000), "by name: examples=2000"),
        (lambda: uf.FreezePlan.apply(model), 'FreezePlan().only("head").apply('),
        (lambda: uf.FreezePlan.from_document("unifreeze: 1"), "FreezePlan.from_yaml(text)"),
        (lambda: uf.FreezePlan.from_document("plan.yaml"), "FreezePlan.load('plan.yaml')"),
        (lambda: uf.FreezePlan.from_yaml("plan.yaml"), "FreezePlan.load('plan.yaml')"),
        (lambda: uf.FreezePlan.from_yaml({"unifreeze": 1}), "FreezePlan.from_document("),
        (lambda: uf.FreezePlan.load("unifreeze: 1\nrules: []\n"), "FreezePlan.from_yaml(text)"),
        (lambda: uf.apply("unifreeze: 1\n", model), "FreezePlan.from_yaml(text)"),
        (lambda: uf.port_file(model, "a.pt", 3), "uf.port_weights("),
        (lambda: handle.save_trained(None), "run/trained.safetensors"),
        (lambda: uf.load_trained(model, None), "run/trained.safetensors"),
        (lambda: handle.load_trainable_state_dict([]), "handle.trainable_state_dict()"),
        (lambda: handle.save_trained("~/a.safetensors"), ".expanduser()"),
        (lambda: uf.FreezePlan.load("~/plan.yaml"), "Path('~/plan.yaml').expanduser()"),
        (lambda: handle.save_trained("a\0b.safetensors"), "with an r before it"),
        (lambda: HEAD.save("a\0b.yaml"), "with an r before it"),
        (lambda: PHASES.apply(world.model()).keep_best("x" * 300), "a shorter name"),
        (lambda: HEAD.save("x" * 300), "a shorter name"),
        (lambda: handle.optimizer(sgd, lr="1e-3"), "without quotes: lr=1e-3"),
        (lambda: handle.optimizer(sgd, lr=1e-3, weight_dcay=1), "did you mean weight_decay="),
        (lambda: handle.optimizer(dict), "AdamW, lr=1e-3)"),
        (lambda: uf.freeze(type(model), "head"), f"model = {type(model).__name__}("),
        (lambda: uf.freeze([model, model], "head"), '{"student": …, "teacher": …}'),
        (lambda: uf.freeze({"w": world.tensor()}, "head"), "pass the model"),
        (lambda: uf.freeze(world.wrong["a state dict"], "head"), "pass the model"),
        (lambda: uf.freeze(handle, "head"), "its .model"),
        (lambda: uf.pair({"a": model}, model, batch=world.batch), "give one of them"),
        (lambda: uf.FreezePlan.only("head"), "FreezePlan().only(…)"),
        (lambda: uf.Handle.verify(), "handle.verify(…)"),
        (lambda: uf.Handle.step(model, epoch=0), "handle.step(…)"),
        (lambda: uf.capture(model, step=lambda batch: None), "step=lambda: "),
        (
            lambda: uf.compare_plans({"a": HEAD}, type(model), lambda m: 1, len),
            "train(model, handle)",
        ),
        (lambda: uf.compare_plans([HEAD], lambda: 3, lambda m, h: 1, len), "torch.nn.Module"),
        (lambda: uf.pair(model, model), "batch=np.zeros("),
        (lambda: uf.Selector("head") | 3, '"head | blocks[-2:]"'),
        (lambda: HEAD.with_norm_stats(["norm", "at"]), 'policy=[{"hold": "norm | at"}]'),
        (lambda: uf.FreezePlan().only({}), '"torch": "layer4"'),
        (lambda: uf.unfreeze(model), "handle.remove()"),
        (lambda: uf.verify(model), "handle.verify("),
        (lambda: uf.Freeze(model), "uf.freeze"),
        (lambda: handle.resolution.why("hed.*"), '"head.'),
    ):
        message = refused(call)
        assert cure in message.partition("hint: ")[2] or cure in message.splitlines()[-1], message


def test_what_is_out_of_range_is_refused_before_anything_runs(world):
    model, batch = world.model(), world.batch
    for call in (
        lambda: uf.check_parity(HEAD, model, model, batch=batch, steps=0),
        lambda: uf.check_parity(HEAD, model, model, batch=batch, seed=-1),
        lambda: uf.pair(model, model, batch=batch, seed=-1),
        lambda: uf.check_step(HEAD, model, model, batch=batch, steps=-1),
        lambda: uf.suggest(model, examples=0),
        lambda: uf.compare_plans([HEAD], world.model, lambda m, h: 1, len, repeats=0),
        lambda: HEAD.resolve(model).reason(10**6),
        lambda: world.instance("RunReport").to_csv(world.folder / "nowhere" / "rows.csv"),
    ):
        assert not what_is_wrong_with(call)


def test_a_step_of_numpy_is_a_step(world):
    handle = world.handle()
    handle.step(epoch=np.int64(0), metrics={"val_loss": np.float32(0.5)})
    state = handle.state_dict()
    assert type(state["schedule"]["epoch"]) is int
    assert type(state["history"]["epoch"]) is int


def test_the_other_frameworks_optimizer_is_refused(world):
    other = World({"torch": "paddle", "paddle": "torch"}[world.framework], world.folder)
    handle = world.handle()
    message = refused(lambda: handle.attach(other.optimizer()))
    assert f"one of {world.framework}'s own optimizers" in message
    assert "optimizer class" in refused(lambda: handle.optimizer(other.optimizers.SGD, lr=0.1))


def test_what_is_not_a_model_of_its_framework_is_said_to_be_none(world):
    for value in (world.tensor(), world.optimizer()):
        message = refused(lambda value=value: uf.freeze(value, "all"))
        assert f"is not a model of {world.framework}" in message


def test_an_unknown_public_name_is_an_attribute_that_is_not_there():
    assert not hasattr(uf, "unfreeze_all")
    with pytest.raises(AttributeError, match="nothing called 'unfreeze_all'"):
        _ = uf.unfreeze_all
    with pytest.raises(UnknownNameError, match=r"did you mean uf\.FreezePlan"):
        _ = uf.Plan


# Long objects -------------------------------------------------------------------------------


def test_every_public_class_is_written_in_one_short_line(world):
    for kind in public_classes():
        if kind.__name__ in INSTANCES:
            text = repr(world.instance(kind.__name__))
            assert len(text.splitlines()) == 1, text
            assert len(text) <= 200, f"{kind.__name__}: {len(text)} characters: {text[:300]}"


def test_a_plan_with_many_rules_is_still_one_short_line():
    plan = HEAD
    for number in range(300):
        plan = plan.freeze(f"blocks[{number}] & norm")
    assert len(repr(plan)) <= 200
    assert repr(HEAD) == 'FreezePlan().only("head")'
    assert str(plan).splitlines()[-1] == '- freeze: "blocks[299] & norm"'
    assert uf.FreezePlan.from_yaml(str(PHASES)) == PHASES


# The decorator itself -----------------------------------------------------------------------


@checked
def example(
    count: int,
    names: Mapping[str, tuple[int, ...]] | None = None,
    *rest: str,
    mode: Literal["min", "max"] = "min",
    rate: float = 1.0,
    **more: bool,
) -> int:
    """Return the count."""
    return count


@pytest.mark.parametrize(
    ("args", "kwargs", "fact"),
    [
        ((True,), {}, "count is True, and should be a whole number"),
        ((1, {"a": (1, "2")}), {}, "names['a'][1] is '2', and should be a whole number"),
        ((1, {3: ()}), {}, "names's key 3 should be text"),
        ((1, [1]), {}, "names is [1], and should be a mapping or None"),
        ((1, None, "a", 4), {}, "rest is 4, and should be text"),
        ((1,), {"mode": "least"}, 'mode is \'least\', and should be "min" or "max"'),
        ((1,), {"rate": "1"}, "rate is '1', and should be a number"),
        ((1,), {"rate": np.ones(3)}, "rate is an array, and should be a number"),
        ((1,), {"other": 1}, "more is 1, and should be True or False"),
        ((), {}, "missing a required argument: 'count'"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(args, kwargs, fact):
    with pytest.raises(ArgumentError) as caught:
        example(*args, **kwargs)
    assert caught.value.fact == f"example(): {fact}"
    assert isinstance(caught.value, TypeError)


def test_numbers_of_numpy_and_iterators_are_taken_as_they_are():
    @checked
    def total(values: Iterable[int], rate: float) -> float:
        return rate * sum(values)

    assert example(np.int64(3), {"a": (1, 2)}, "x", rate=np.float32(2), other=True) == 3
    assert total(iter([1, 2]), np.ones(())) == 3


def test_a_checked_function_is_still_itself():
    assert example.__name__ == "example"
    assert example.__doc__ == "Return the count."
    assert list(inspect.signature(example).parameters)[:2] == ["count", "names"]


def test_methods_are_checked_with_the_constructor_and_classmethods():
    @checked_methods
    class Thing:
        def __init__(self, size: int) -> None:
            self.size = size

        @classmethod
        def of(cls, size: int) -> Thing:
            return cls(size)

        def grow(self, by: int) -> int:
            return self.size + by

        def _private(self, by: int) -> int:
            return by

    assert Thing.of(2).grow(3) == 5
    assert Thing(1)._private("x") == "x"
    for call in (lambda: Thing("1"), lambda: Thing.of("1"), lambda: Thing(1).grow(None)):
        assert "should be a whole number" in refused(call)


@pytest.mark.parametrize(
    "annotation",
    [int, float, bool, str, int | None, str | Path, float | Mapping[str, int], Any, uf.FreezePlan,
     Literal["min"], type, Callable[[], Any], list[str], tuple[int, ...] | None, uf.Selector | str],
)  # fmt: skip
def test_what_fits_at_a_glance_fits(world, annotation):
    plain = plain_types(annotation)
    for value in [*world.wrong.values(), 1.5, 2, True, "min", Path("x"), np.int64(3)]:
        if plain is None or type(value) in plain:
            assert misfit(value, annotation) is None


def test_annotations_are_written_in_words():
    assert in_words(uf.Selector | str) == "a selector"
    assert in_words(list[int] | None) == "a list or None"
    assert in_words(type | bool) == "a class or True or False"
