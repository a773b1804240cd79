"""Batches given as text: in Python as on the command line, wherever a batch is taken."""

import inspect
from typing import Any

import numpy as np
import pytest

import unifreeze as uf
from tests.support.public_names import public_callables, trainer_callbacks
from tests.support.wrong_types import World, good
from unifreeze._cli.find_model import read_batch
from unifreeze._protocol import Batch
from unifreeze._protocol.batches import is_made_up
from unifreeze.errors import TargetError

TAKERS = [
    one
    for one in public_callables()
    if "batch" in {row.name for row in one.parameters} and one.annotation("batch") is Any
]


@pytest.fixture(scope="module", params=["torch", "paddle"])
def world(request, tmp_path_factory):
    return World(request.param, tmp_path_factory.mktemp("world"))


def text_of(world):
    return f"float32[{','.join(map(str, world.batch.shape))}]"


def plain(batch):
    args = [(array.dtype, array.tolist()) for array in batch.args]
    return args, {name: (array.dtype, array.tolist()) for name, array in batch.kwargs.items()}


def refused(batch):
    with pytest.raises(TargetError) as caught:
        Batch.of(batch)
    return caught.value


@pytest.mark.parametrize(
    ("batch", "specs"),
    [
        ("float32[2,3]", ["float32[2,3]"]),
        (["float32[2,3]", "float32[2,3]"], ["float32[2,3]", "float32[2,3]"]),
        (("ids=int64[2,4]<1:9>",), ["ids=int64[2,4]<1:9>"]),
        ({"ids": "int64[2,4]<1:9>", "mask": "bool[2]"}, ["ids=int64[2,4]<1:9>", "mask=bool[2]"]),
        ({"torch": "int64[2]<0:9>", "b": "bool[1]"}, ["torch=int64[2]<0:9>", "b=bool[1]"]),
    ],
)
@pytest.mark.parametrize("seed", [0, 5])
def test_a_text_is_the_batch_that_the_command_line_makes_of_it(batch, specs, seed):
    assert plain(Batch.of(batch, seed=seed)) == plain(read_batch(specs, seed=seed))


def test_texts_stand_beside_arrays():
    ones = np.ones((2, 3), np.float32)
    batch = Batch.of([ones, "float32[2,3]", "mask=bool[2]"])
    assert batch.args[0] is ones
    assert np.array_equal(batch.args[1], Batch.of(["float32[1]", "float32[2,3]"]).args[1])
    assert set(batch.kwargs) == {"mask"}
    assert Batch.of({"x": ones, "y": "int64[2]<0:5>"}).kwargs["x"] is ones


B = "float32[2,3]"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"pixel_values": B}, {"image": B}),
        (B, {"x": B}),
        ("image=float32[2,3]", "float64[2,3]"),
        ({"ids": "int64[2,3]<0:9>", "x": B}, [B, "ids=int64[2,3]<0:9>"]),
        ({"x": B, "y": B}, {"y": B, "x": B}),
        ({"x": B, "y": B}, [B, B]),
    ],
)
def test_texts_are_the_same_numbers_on_both_sides_whatever_inputs_are_called(one, other):
    sides = Batch.for_sides({"torch": one, "paddle": other}, ("torch", "paddle"))
    shown = [[*side.args, *side.kwargs.values()] for side in sides]
    if isinstance(one, dict) and isinstance(other, dict) and set(one) == set(other):
        shown = [[side.kwargs[name] for name in one] for side in sides]
    orders = [sorted(arrays, key=lambda array: array.dtype.kind) for arrays in shown]
    for here, there in zip(*orders, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-6)
    first = orders[0]
    assert len(first) < 2 or not np.array_equal(*first), "two inputs are not the same"


def test_a_file_is_read_by_its_name_or_path(tmp_path):
    np.savez(tmp_path / "batch.npz", np.ones(2), mask=np.zeros(3))
    for given in (tmp_path / "batch.npz", str(tmp_path / "batch.npz"), [tmp_path / "batch.npz"]):
        assert plain(Batch.of(given)) == plain(Batch((np.ones(2),), {"mask": np.zeros(3)}))
    with pytest.raises(TargetError, match="cannot read the batch"):
        Batch.of(tmp_path / "nothing.npz")


@pytest.mark.parametrize("batch", ["A fine film.", ["A fine film."], {"text": "A fine film."}])
def test_sentences_are_told_to_go_through_a_tokenizer(batch):
    error = refused(batch)
    assert "A fine film." in error.fact
    assert 'dict(tokenizer(sentences, return_tensors="np"))' in error.hint
    assert "float32[2,3,64,64]" in error.hint


def test_a_text_with_a_slip_in_it_is_told_the_forms_alone():
    for batch in ("float32[2,3", {"ids": "ids=int64[2]<0:5>"}, ["int64[2]"], ["x=bool[1]"] * 2, ""):
        assert "tokenizer" not in refused(batch).hint
        assert refused(batch).hint


def test_the_functions_that_take_a_batch_are_found():
    named = {"apply", "freeze", "resolve", "capture", "suggest", "pair", "port_weights"}
    assert {str(one) for one in TAKERS} >= named | {"check_parity", "check_step", "compare_plans"}


@pytest.mark.parametrize("public", TAKERS, ids=str)
def test_every_function_that_takes_a_batch_takes_a_text(world, public):
    given = {"batch": text_of(world)}
    if str(public) == "suggest":
        given["examples"] = 2000
    on = [world.instance(public.owner.__name__)] if public.is_method else []
    for row in public.parameters:
        if row.default is row.empty and row.name not in given and row.kind is not row.VAR_KEYWORD:
            given[row.name] = good(world, public, row.name)
    public.function(*on, **given)


def test_the_adapters_of_trainers_take_a_text(world):
    for public in trainer_callbacks(world.framework):
        public.function(uf.FreezePlan().only("head"), batch=text_of(world))
        with pytest.raises(TargetError, match="cannot be read"):
            public.function(uf.FreezePlan().only("head"), batch="floats, please")


def test_what_is_drawn_goes_by_the_seed_as_on_the_command_line(tmp_path):
    world = World("torch", tmp_path)
    for check in (uf.pair, uf.check_step, uf.check_parity):
        seen = []
        one, other = world.model(), world.model()
        one.register_forward_pre_hook(lambda _, inputs, to=seen: to.append(inputs[0].numpy()))
        first = () if check is uf.pair else (uf.FreezePlan().only("head"),)
        check(*first, one, other, batch=text_of(world), seed=7)
        drawn = Batch.of(text_of(world), seed=7).args[0]
        assert seen
        assert all(np.allclose(array, drawn) for array in seen if array.dtype == drawn.dtype)
        assert any(np.array_equal(array, drawn) for array in seen), check


def test_a_plan_measured_on_random_numbers_says_so(world):
    model, shape = world.model(), ",".join(map(str, world.batch.shape))
    (name,) = inspect.signature(model.forward).parameters
    batch = {name: f"float32[{shape}]", "y": f"int64[{world.batch.shape[0]}]<0:2>"}
    assert is_made_up(batch)
    said = uf.suggest(model, batches=[batch], labels="y").text()
    assert "made-up numbers" in said
    arrays = [Batch.of(batch)]
    assert "made-up numbers" not in uf.suggest(model, batches=arrays, labels="y").text()


def test_a_batch_that_is_larger_than_memory_is_refused_with_its_size():
    with pytest.raises(TargetError, match=r"memory: it takes 37,252,903\.0 GiB"):
        Batch.of("float32[10000000,1000,1000,1000]")


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_framework_takes_is_what_is_refused(seed):
    with pytest.raises(TargetError, match="is not a seed"):
        Batch.of("float32[2]", seed=seed)


def test_a_tensor_of_bfloat16_is_refused_with_what_makes_an_array_of_it(world):
    if world.framework == "torch":
        tensor = world.tensor().bfloat16()
    else:
        tensor = world.tensor().astype("bfloat16")
    with pytest.raises(TargetError) as caught:
        Batch.of(tensor)
    assert Batch.of(eval(caught.value.hint, {"tensor": tensor})).args[0].dtype == np.float32
