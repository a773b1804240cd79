"""What was trained as one file: what is in it, where it loads, and what it is refused by."""

import json
import os
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
import safetensors
import safetensors.numpy
import torch

import unifreeze as uf
from unifreeze._ports.weights import Named, open_weights, save_weights
from unifreeze.errors import UnknownFrameworkError, WeightFileError, WriteError

HEAD = uf.FreezePlan().only("head")
KEY = "unifreeze_trained"


def bits(kit, model):
    """Return every tensor of a model, to the bit."""
    live = kit.backend.objects(model)
    return {path: one.bits for path, one in kit.backend.fingerprint(model, live).items()}


def twin(kit, model, make=None):
    """Return a fresh model with the same values in all but the head, which is new."""
    other = (make or kit.plain.make)()
    for path in kit.backend.objects(model):
        if not path.startswith("head"):
            kit.backend.assign(other, path, kit.backend.tensor(model, path))
    return other


def move(kit, model, path):
    """Write other values into a tensor."""
    kit.backend.assign(model, path, kit.backend.tensor(model, path) + 1)


def mean_of(kit, model, layer):
    """Return the path of a norm's running mean."""
    leaf = {"torch": "running_mean", "paddle": "_mean"}[kit.backend.name]
    assert f"{layer}.{leaf}" in kit.backend.objects(model)
    return f"{layer}.{leaf}"


def refused(call, error=WeightFileError):
    with pytest.raises(error) as caught:
        call()
    assert caught.value.hint, caught.value
    return str(caught.value)


def header_of(file):
    with safetensors.safe_open(file, "np") as opened:
        return json.loads(opened.metadata()[KEY])


def rewritten(file, tensors=None, change=lambda header: header):
    """Write a file of ours again, with other tensors or another header."""
    with open_weights(file) as weights:
        metadata = dict(weights.metadata)
        named = {one.name: one for one in weights.named()}
        held = {name: weights.read(name) for name in weights}
    metadata[KEY] = json.dumps(change(json.loads(metadata[KEY])))
    rows = [Named(n, one.shape, one.dtype, lambda n=n: held[n]) for n, one in named.items()]
    if tensors is not None:
        rows = [
            Named(n, array.shape, str(array.dtype), lambda n=n: tensors[n])
            for n, array in tensors.items()
        ]
    save_weights(file, rows, metadata=metadata)


@pytest.fixture
def run(kit, tmp_path):
    """A model whose head was trained, and the file of it."""
    model = kit.plain.make()
    handle = HEAD.apply(model)
    for path in handle.resolution.trainable_paths:
        move(kit, model, path)
    handle.save_trained(tmp_path / "trained.safetensors")
    return SimpleNamespace(model=model, handle=handle, file=tmp_path / "trained.safetensors")


# What is in the file.


def test_safetensors_alone_reads_exactly_what_was_trained(run):
    state = run.handle.trainable_state_dict()
    found = safetensors.numpy.load_file(run.file)
    assert sorted(found) == ["head.bias", "head.weight"] == sorted(state["tensors"])
    assert all(np.array_equal(found[name], state["tensors"][name]) for name in found)
    header = header_of(run.file)
    assert header["base"] == state["base"]
    assert header["plan"] == HEAD.digest
    assert uf.FreezePlan.from_yaml(header["plan_text"]) == HEAD


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_file_keeps_the_dtype_and_every_bit(kit, dtype, tmp_path):
    def make():
        made = kit.plain.make()
        return (
            made.to(getattr(torch, dtype)) if kit.backend.name == "torch" else made.to(dtype=dtype)
        )

    model, file = make(), tmp_path / "trained.safetensors"
    move(kit, model, "head.weight")
    if kit.backend.name == "torch":
        model.head.bias.data.fill_(float("nan"))  # which has bits to keep, too
    HEAD.apply(model).save_trained(file)
    with open_weights(file) as weights:
        assert {weights.entry(name).dtype for name in weights} == {dtype}
    other = twin(kit, model, make)
    uf.load_trained(other, file)
    assert bits(kit, other) == bits(kit, model)
    if kit.backend.name == "torch":
        from safetensors.torch import load_file

        assert torch.equal(load_file(file)["head.weight"], model.head.weight)


class Odd(torch.nn.Module):
    """A scale without axes, and a matrix that does not lie in one piece."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(3, 3)
        self.scale = torch.nn.Parameter(torch.tensor(1.5))
        self.turned = torch.nn.Parameter(torch.randn(3, 4).t())
        self.empty = torch.nn.Parameter(torch.zeros(0, 3))

    def forward(self, x):
        return self.body(x) @ self.turned.t() * self.scale


class PaddleOdd(paddle.nn.Layer):
    """The same; Paddle's parameters always lie in one piece."""

    def __init__(self):
        super().__init__()
        self.body = paddle.nn.Linear(3, 3)
        self.scale = self.create_parameter([])
        self.turned = self.create_parameter([4, 3])

    def forward(self, x):
        return paddle.matmul(self.body(x), self.turned, transpose_y=True) * self.scale


@pytest.mark.parametrize("make", [Odd, PaddleOdd])
@pytest.mark.parametrize("half", [False, True])
def test_tensors_of_odd_shapes_come_back(make, half, tmp_path):
    def built():
        made = make()
        if half:
            made = made.bfloat16() if make is Odd else made.to(dtype="bfloat16")
        return made

    model, other = built(), built()
    handle = uf.FreezePlan().freeze("body").apply(model)
    other.set_state_dict(model.state_dict()) if make is PaddleOdd else other.load_state_dict(
        model.state_dict()
    )
    with torch.no_grad(), paddle.no_grad():
        model.scale.set_value(model.scale + 1) if make is PaddleOdd else model.scale.add_(1)
        model.turned.set_value(model.turned * 2) if make is PaddleOdd else model.turned.mul_(2)
    handle.save_trained(tmp_path / "odd.safetensors")
    assert set(uf.load_trained(other, tmp_path / "odd.safetensors")) >= {"scale", "turned"}
    for name in ("scale", "turned"):
        one, two = getattr(model, name), getattr(other, name)
        assert bool((one == two).all())
        assert tuple(one.shape) == tuple(two.shape)
    assert float(other.scale) == float(model.scale)


def test_statistics_that_moved_are_in_the_file_counters_too(kit, tmp_path):
    model, file = kit.plain.make(), tmp_path / "trained.safetensors"
    handle = uf.FreezePlan().only("head | blocks[-1]").apply(model)
    moved = [mean_of(kit, model, "blocks.1.norm")]
    moved += ["blocks.1.norm.num_batches_tracked"] * (kit.backend.name == "torch")
    for path in moved:
        move(kit, model, path)
    handle.save_trained(file)
    assert set(moved) <= set(safetensors.numpy.load_file(file))
    other = twin(kit, model)
    for path in moved:
        move(kit, other, path)
    assert set(moved) <= set(uf.load_trained(other, file))
    assert bits(kit, other) == bits(kit, model)


def test_a_tied_tensor_is_saved_once_and_loaded_into_both(kit, tmp_path):
    model, file = kit.tied.make(), tmp_path / "trained.safetensors"
    handle = uf.FreezePlan().freeze("middle").apply(model)
    move(kit, model, "embedding.weight")
    handle.save_trained(file)
    assert sorted(safetensors.numpy.load_file(file)) == ["embedding.weight", "output.bias"]
    other = twin(kit, model, kit.tied.make)
    move(kit, other, "embedding.weight")
    uf.load_trained(other, file)
    live = kit.backend.objects(other)
    assert live["output.weight"] is live["embedding.weight"]
    assert bits(kit, other) == bits(kit, model)


def test_a_plan_that_trains_nothing_makes_a_file_without_tensors(kit, tmp_path):
    model, file = kit.plain.make(), tmp_path / "nothing.safetensors"
    uf.FreezePlan().freeze("all").apply(model).save_trained(file)
    assert safetensors.numpy.load_file(file) == {}
    assert uf.load_trained(model, file) == ()
    move(kit, model, "head.bias")
    assert "head.bias: other values" in refused(lambda: uf.load_trained(model, file))


def test_a_run_with_phases_saves_what_it_has_trained_so_far(kit, tmp_path):
    plan = uf.FreezePlan.from_yaml(
        "unifreeze: 1\nphases:\n"
        "  - {name: head, rules: [{only: head}]}\n"
        '  - {name: top, at: {epoch: 1}, rules: [{only: "blocks[-1]"}]}\n'
    )
    model = kit.plain.make()
    handle = plan.apply(model)
    cls = {"torch": torch.optim.SGD, "paddle": paddle.optimizer.SGD}[kit.backend.name]
    kept = handle.optimizer(cls, lr=0.1)
    for epoch, some in ((0, "head.weight"), (1, "blocks.1.first.weight")):
        handle.step(epoch=epoch)
        file = tmp_path / f"{epoch}.safetensors"
        handle.save_trained(file)
        found = safetensors.numpy.load_file(file)
        assert set(found) == set(handle.trainable_state_dict()["tensors"])
        assert some in found
    assert "head.weight" in found, "the first phase trained it"
    assert kept is not None


def test_a_part_and_a_group_are_loaded_as_they_were_saved(kit, tmp_path):
    model, teacher = kit.plain.make(), kit.plain.make()
    part, group = tmp_path / "part.safetensors", tmp_path / "group.safetensors"
    handle = uf.FreezePlan().only("first").apply(model.blocks[0])
    handle.save_trained(part)
    assert sorted(safetensors.numpy.load_file(part)) == ["first.bias", "first.weight"]
    other = twin(kit, model)
    move(kit, other, "blocks.0.first.weight")
    uf.load_trained(other.blocks[0], part)
    assert bits(kit, other.blocks[0]) == bits(kit, model.blocks[0])
    handle.remove()
    both = {"student": model, "teacher": teacher}
    uf.FreezePlan().only("head in student").apply(both).save_trained(group)
    assert set(safetensors.numpy.load_file(group)) == {"student.head.weight", "student.head.bias"}
    again = {"student": twin(kit, model), "teacher": teacher}
    uf.load_trained(again, group)
    assert bits(kit, again["student"]) == bits(kit, model)


# Where it loads.


def test_it_loads_into_a_fresh_model_whose_head_is_another(kit, run):
    other = twin(kit, run.model)
    assert bits(kit, other) != bits(kit, run.model)
    flags = kit.backend.read(other)
    assert sorted(uf.load_trained(other, str(run.file))) == ["head.bias", "head.weight"]
    assert bits(kit, other) == bits(kit, run.model)
    assert kit.backend.read(other) == flags
    assert all(flags.values())


def test_plans_in_force_take_the_new_values_as_those_to_hold(kit, run):
    other = twin(kit, run.model)
    handle = uf.FreezePlan().freeze("head | blocks[0]").apply(other)
    flags = kit.backend.read(other)
    uf.load_trained(other, run.file)
    handle.verify()
    assert kit.backend.read(other) == flags
    move(kit, other, "head.bias")
    with pytest.raises(uf.FrozenDriftError, match=r"head\.bias: moved"):
        handle.verify()


def test_loading_does_not_hide_what_else_has_moved(kit, run):
    other = twin(kit, run.model)
    move(kit, other, "blocks.0.first.bias")
    handle = uf.FreezePlan().freeze("all").apply(other)
    kit.backend.assign(
        other, "blocks.0.first.bias", kit.backend.tensor(run.model, "blocks.0.first.bias")
    )
    uf.load_trained(other, run.file)
    with pytest.raises(uf.FrozenDriftError, match=r"blocks\.0\.first\.bias: moved"):
        handle.verify()


# What it is refused by.


def with_another_width(kit):
    return type(kit.plain.make())(5)


def test_another_base_is_refused_and_every_difference_named(kit, run):
    for path in ("blocks.0.first.weight", mean_of(kit, run.model, "blocks.1.norm")):
        other = twin(kit, run.model)
        move(kit, other, path)
        before = bits(kit, other)
        text = refused(lambda other=other: uf.load_trained(other, run.file))
        assert f"{run.file} was trained on another base: 1 tensor differs" in text
        assert f"{path}: other values than in the base" in text
        assert bits(kit, other) == before


def test_a_base_of_another_dtype_or_with_other_layers_is_refused(kit, run):
    other = twin(kit, run.model)
    kind = type(other.head)
    other.tail, other.blocks[0].second = kind(2, 2), kind(6, 6)
    text = refused(lambda: uf.load_trained(other, run.file))
    assert "was trained on another model: " in text
    assert "build the model as it was trained" in text
    assert "tail.weight: in the model, and not in the base" in text
    assert "blocks.0.second.weight: other values" in text
    one, lost = twin(kit, run.model), twin(kit, run.model)
    lost.blocks[1].second = type(lost.blocks)([])
    text = refused(lambda: uf.load_trained(lost, run.file))
    assert "blocks.1.second.bias: in the base, and not in the model" in text
    first = one.blocks[0].first
    first.half() if kit.backend.name == "torch" else first.to(dtype="float16")
    text = refused(lambda: uf.load_trained(one, run.file))
    assert "blocks.0.first.bias: float32[6] in the base, float16[6] in the model" in text


def test_everything_that_does_not_fit_is_told_at_once_and_nothing_is_written(kit, run):
    other = with_another_width(kit)
    other.head = type(other.head)(5, 3)
    trained = dict(safetensors.numpy.load_file(run.file))
    trained["head.bias"] = trained["head.bias"].astype("float16")
    extra = np.zeros(2, "float32")
    rewritten(
        run.file,
        {**trained, "blocks.0.first.bias": extra},
        lambda header: {**header, "digests": {**header["digests"], "gone": "", "lost.bias": ""}},
    )
    before = bits(kit, other)
    text = refused(lambda: uf.load_trained(other, run.file))
    assert "5 trained tensors do not fit" in text
    for line in (
        "lost.bias: was trained, and is not in the file",
        "blocks.0.first.bias: is in the file, and was not trained",
        "head.bias: float16[3] was trained, and is float32[3] in the model",
        "head.weight: float32[",
        "blocks.0.first.bias: float32[6] in the base, float32[5] in the model",
    ):
        assert line in text
    assert bits(kit, other) == before


def test_what_was_trained_apart_does_not_go_into_one_tensor(kit, tmp_path):
    model, other = kit.tied.make(), kit.tied.make()
    apart, file = type(model.output), tmp_path / "apart.safetensors"
    embedding = model.embedding
    model.output = apart(*tuple(embedding.weight.shape)[::-1])
    if kit.backend.name == "paddle":
        model.output.weight = model.create_parameter(list(embedding.weight.shape))
    uf.FreezePlan().freeze("middle").apply(model).save_trained(file)
    for path in ("middle.weight", "middle.bias"):
        kit.backend.assign(other, path, kit.backend.tensor(model, path))
    text = refused(lambda: uf.load_trained(other, file))
    assert "output.weight: is one tensor with embedding.weight in the model" in text


def test_nothing_is_written_if_one_tensor_cannot_be(kit, run, monkeypatch):
    other = twin(kit, run.model)
    before, assign = bits(kit, other), kit.backend.assign

    def failing(model, path, array):
        assign(model, path, array)
        if path == "head.bias" and not failing.failed:
            failing.failed = True
            raise RuntimeError("no room")

    failing.failed = False
    monkeypatch.setattr(kit.backend, "assign", failing)
    with pytest.raises(WriteError, match=r"refused to write head\.bias: no room"):
        uf.load_trained(other, run.file)
    assert bits(kit, other) == before


def test_the_other_framework_is_named_with_the_way_there(kit, run):
    name = kit.backend.name
    there = {"torch": "paddle", "paddle": "torch"}[name]
    rewritten(run.file, change=lambda header: {**header, "framework": there})
    text = refused(lambda: uf.load_trained(run.model, run.file))
    assert f"{run.file} was trained in {there}, and this model is of {name}" in text
    assert "uf.port_weights" in text


def test_a_file_that_is_not_ours_is_refused_with_the_way_to_load_it(kit, run):
    safetensors.numpy.save_file(safetensors.numpy.load_file(run.file), run.file)
    text = refused(lambda: uf.load_trained(run.model, run.file))
    assert "is not a file of handle.save_trained" in text
    assert f"safetensors.{kit.backend.name}.load_file" in text


@pytest.mark.parametrize("state", ["[]", "{}", '{"unifreeze_trained": 2}', "{"])
def test_a_broken_header_is_refused(kit, run, state):
    trained = safetensors.numpy.load_file(run.file)
    safetensors.numpy.save_file(trained, run.file, metadata={KEY: state})
    text = refused(lambda: uf.load_trained(run.model, run.file))
    assert text.startswith(f"{run.file} is ")
    assert "copy it again" in text


@pytest.mark.parametrize("key", ["base_tensors", "digests", "dtypes", "base", "framework"])
@pytest.mark.parametrize("value", [3, [], {"head.bias": 3}, None])
def test_a_part_of_a_state_that_cannot_be_read_is_named(run, key, value):
    state = run.handle.trainable_state_dict()
    rewritten(run.file, change=lambda header: {**header, key: value})
    for call in (
        lambda: uf.load_trained(run.model, run.file),
        lambda: run.handle.load_trainable_state_dict({**state, "digests": {}, key: value}),
    ):
        assert f"is damaged: {key} cannot be read" in refused(call)


def test_a_state_of_something_else_is_refused_with_where_to_get_one(run):
    state = run.handle.trainable_state_dict()
    for wrong in (
        {},
        run.model.state_dict(),
        {**state, "tensors": []},
        {**state, "dtypes": [], "base_tensors": 3},
        {**state, KEY: True},
    ):
        text = refused(lambda wrong=wrong: run.handle.load_trainable_state_dict(wrong))
        assert "handle.trainable_state_dict()" in text
    ragged = {**state, "tensors": {"head.bias": [[1.0], [2.0, 3.0]]}}
    assert "not fit this model" in refused(lambda: run.handle.load_trainable_state_dict(ragged))


@pytest.mark.parametrize("kind", ["pt", "pdparams"])
def test_a_file_of_a_framework_is_told_with_what_reads_it(kit, run, kind):
    path = run.file.with_suffix(f".{kind}")
    rows = [Named("head.bias", (3,), "float32", lambda: np.zeros(3, "float32"))]
    save_weights(path, rows)
    reader = {"pt": "torch.load(path", "pdparams": "paddle.load(path)"}[kind]
    assert reader in refused(lambda: uf.load_trained(run.model, path))


def test_a_file_that_was_damaged_is_refused(kit, run):
    whole, before = run.file.read_bytes(), bits(kit, run.model)
    run.file.write_bytes(whole[:-1])
    with pytest.raises(WeightFileError, match="not a valid safetensors file"):
        uf.load_trained(run.model, run.file)
    run.file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    text = refused(lambda: uf.load_trained(run.model, run.file))
    assert "was changed after it was saved" in text
    assert "head.bias: other values" in text or "head.weight: other values" in text
    assert bits(kit, run.model) == before


def test_a_folder_or_nothing_in_its_place_is_told_with_what_is_there(run):
    folder = run.file.parent
    for path, fact in ((folder, "is a folder"), (folder / "x.safetensors", "there is no file")):
        text = refused(lambda path=path: uf.load_trained(run.model, path))
        assert fact in text
        assert run.file.as_posix() in text


def test_a_place_where_no_file_can_stand_is_refused_with_one_that_can(kit, run, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    for path, fact, cure in (
        (tmp_path, "it is a folder", "trained.safetensors"),
        (tmp_path / "folder.safetensors", "it is a folder", "trained.safetensors"),
        (tmp_path / "head.pt", "is not named as a safetensors file", "head.safetensors"),
        (tmp_path / "head", "is not named as a safetensors file", "head.safetensors"),
        (tmp_path / "no" / "a.safetensors", "there is no folder", "mkdir(parents=True)"),
    ):
        text = refused(lambda path=path: run.handle.save_trained(path))
        assert fact in text
        assert cure in text


def test_a_failed_save_leaves_the_older_file(kit, run, monkeypatch):
    before = run.file.read_bytes()
    move(kit, run.model, "head.bias")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "no space")))
        with pytest.raises(WeightFileError, match=r"cannot write .*[Nn]o space"):
            run.handle.save_trained(run.file)
    assert run.file.read_bytes() == before
    assert list(run.file.parent.iterdir()) == [run.file]
    run.handle.save_trained(run.file)
    assert run.file.read_bytes() != before


def test_a_plan_that_has_ended_saves_nothing(run):
    run.handle.remove()
    with pytest.raises(uf.UnifreezeError, match="no longer in force"):
        run.handle.save_trained(run.file)


def test_what_has_no_values_is_neither_saved_nor_loaded_into(tmp_path):
    from tests.support.kits.torch_kit import Plain

    with torch.device("meta"):
        model = Plain()
    file = tmp_path / "trained.safetensors"
    assert "have no values here" in refused(lambda: HEAD.apply(model).save_trained(file))
    HEAD.apply(Plain()).save_trained(file)
    assert "has no values in the model" in refused(lambda: uf.load_trained(model, file))


class Complex(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(2, 2)
        self.turn = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex128))

    def forward(self, x):
        return self.body(x)


def test_a_dtype_that_the_format_lacks_is_refused_before_a_file_is_there(tmp_path):
    handle = uf.FreezePlan().freeze("body").apply(Complex())
    text = refused(lambda: handle.save_trained(tmp_path / "x.safetensors"))
    assert "turn (complex128)" in text
    assert not list(tmp_path.iterdir())


def test_what_is_not_a_model_is_refused_before_the_file_is_looked_for():
    with pytest.raises(UnknownFrameworkError, match="not a model"):
        uf.load_trained(torch.nn.Linear, "nowhere.safetensors")


def test_a_path_that_the_system_refuses_is_refused_in_words(kit, run, tmp_path):
    long = tmp_path / f"{'x' * 300}.safetensors"
    assert "a shorter name" in refused(lambda: run.handle.save_trained(long))
    assert "there is no file" in refused(lambda: uf.load_trained(run.model, "x" * 5000))
