"""State that is no floating number: whole numbers are saved, complex ones held and saved, too."""

import copy

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from unifreeze._protocol import backend_for
from unifreeze.errors import FrozenDriftError, WeightFileError

ROWS = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")


class TorchActNorm(torch.nn.Module):
    """Glow's: it initialises itself on the first batch, and notes that it has."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))
        self.register_buffer("seen", torch.tensor(0), persistent=False)

    def forward(self, x):
        if not self.initialized:
            with torch.no_grad():
                self.weight.copy_(1 / (x.std(0) + 1e-6))
                self.initialized.fill_(1)
        self.seen += 1
        return self.weight * x


class PaddleActNorm(paddle.nn.Layer):
    """The same in Paddle."""

    def __init__(self):
        super().__init__()
        ones = paddle.nn.initializer.Constant(1.0)
        self.weight = self.create_parameter([4], default_initializer=ones)
        self.register_buffer("initialized", paddle.zeros([], "uint8"))
        self.register_buffer("seen", paddle.zeros([], "int64"), persistable=False)

    def forward(self, x):
        if not int(self.initialized):
            with paddle.no_grad():
                paddle.assign(1 / (x.std(0) + 1e-6), self.weight)
                paddle.assign(paddle.ones([], "uint8"), self.initialized)
        self.seen += 1
        return self.weight * x


class TorchComplexNorm(torch.nn.Module):
    """It keeps the running mean of a spectrum."""

    def __init__(self, dtype="complex64"):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.register_buffer("mu", torch.zeros(4, dtype=getattr(torch, dtype)))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.mu.lerp_(torch.fft.fft(x.mean(0)).to(self.mu.dtype), 0.1)
        return self.weight * (x - torch.fft.ifft(self.mu).real.to(x.dtype))


class PaddleComplexNorm(paddle.nn.Layer):
    """The same in Paddle."""

    def __init__(self, dtype="complex64"):
        super().__init__()
        ones = paddle.nn.initializer.Constant(1.0)
        self.weight = self.create_parameter([4], default_initializer=ones)
        self.register_buffer("mu", paddle.zeros([4]).astype(dtype))

    def forward(self, x):
        if self.training:
            with paddle.no_grad():
                now = paddle.fft.fft(x.mean(0)).astype(self.mu.dtype)
                paddle.assign(self.mu * 0.9 + now * 0.1, self.mu)
        return self.weight * (x - paddle.fft.ifft(self.mu).real().astype(x.dtype))


class Torch:
    act, complex_norm = TorchActNorm, TorchComplexNorm
    sequential, linear = torch.nn.Sequential, torch.nn.Linear
    rows = staticmethod(lambda: torch.tensor(ROWS))


class Paddle:
    act, complex_norm = PaddleActNorm, PaddleComplexNorm
    sequential, linear = paddle.nn.Sequential, paddle.nn.Linear
    rows = staticmethod(lambda: paddle.to_tensor(ROWS))


@pytest.fixture(params=[Torch, Paddle], ids=["torch", "paddle"])
def side(request):
    return request.param


def glow(side):
    top = side.sequential(side.act(), side.linear(4, 2))
    return side.sequential(side.linear(4, 4), side.act(), top)


def network(side, *dtype):
    return side.sequential(side.linear(4, 4), side.complex_norm(*dtype), side.linear(4, 2))


def value(model, path):
    return backend_for(model).tensor(model, path)


TOP = uf.FreezePlan().only('path:"2"')


def test_a_layer_that_trains_keeps_its_note_that_it_was_initialised(side, tmp_path):
    model = glow(side)
    other = copy.deepcopy(model)
    handle = TOP.apply(model)
    model.train()
    model(side.rows())
    handle.save_trained(tmp_path / "trained.safetensors")
    state = handle.trainable_state_dict()
    assert set(state["tensors"]) == {
        "2.0.weight",
        "2.0.initialized",
        "2.1.weight",
        "2.1.bias",
    }, "the frozen layer's note is not what was trained, and what is not persistent is scratch"
    third = copy.deepcopy(other)
    for path in ("1.weight",):  # this one initialises itself in spite of the plan
        for one in (other, third):
            backend_for(one).assign(one, path, value(model, path))
    uf.load_trained(other, tmp_path / "trained.safetensors")
    TOP.apply(third).load_trainable_state_dict(state)
    for one in (other, third):
        assert value(one, "2.0.initialized") == 1
        assert str(value(one, "2.0.initialized").dtype) == "uint8"
        np.testing.assert_array_equal(value(one, "2.0.weight"), value(model, "2.0.weight"))


def test_a_note_that_two_layers_share_is_saved_once(side):
    model = side.sequential(side.linear(4, 4), side.act())
    model[0].register_buffer("flags", model[1].initialized)
    handle = uf.FreezePlan().train("all").apply(model)
    state = handle.trainable_state_dict()
    assert "0.flags" in state["tensors"]
    assert "1.initialized" not in state["tensors"]
    handle.load_trainable_state_dict(state)


def test_the_best_values_of_a_phase_have_the_note_too(side, tmp_path):
    plan = uf.FreezePlan.from_yaml(
        "{unifreeze: 1, phases: [{name: top, rules: [{only: 'path:\"2\"'}]}, {name: more, "
        "when: {metric: loss, stalled_for: 1}, restore_best: true, add: [{train: all}]}]}"
    )
    model = glow(side)
    model.train()
    model(side.rows())  # the frozen layer initialises itself
    handle = plan.apply(model)
    handle.optimizer(torch.optim.SGD if side is Torch else paddle.optimizer.SGD, lr=0.1)
    handle.keep_best(tmp_path)
    handle.step(epoch=0)
    handle.step(epoch=1, metrics={"loss": 1.0})
    backend = backend_for(model)
    backend.assign(model, "2.0.initialized", np.zeros([], np.uint8))
    assert handle.step(epoch=2, metrics={"loss": 2.0})
    assert value(model, "2.0.initialized") == 1


def test_a_complex_running_statistic_of_a_frozen_layer_holds_and_is_verified(side):
    model = network(side)
    handle = TOP.apply(model)
    model.train()
    model(side.rows())
    assert not np.abs(value(model, "1.mu")).any()
    assert handle.verify().states == 1
    backend_for(model).assign(model, "1.mu", np.full(4, 1 + 1j, np.complex64))
    with pytest.raises(FrozenDriftError, match=r"1\.mu: moved"):
        handle.verify()


def test_a_complex_running_statistic_that_moves_is_saved(side, tmp_path):
    model = network(side)
    other = copy.deepcopy(model)
    handle = uf.FreezePlan().only('path:"1"').apply(model)
    model.train()
    model(side.rows())
    assert np.abs(value(model, "1.mu")).any()
    handle.save_trained(tmp_path / "trained.safetensors")
    uf.load_trained(other, tmp_path / "trained.safetensors")
    np.testing.assert_array_equal(value(other, "1.mu"), value(model, "1.mu"))


def test_what_safetensors_cannot_hold_is_refused_in_words(side, tmp_path):
    model = network(side, "complex128")
    handle = uf.FreezePlan().only('path:"1"').apply(model)
    with pytest.raises(WeightFileError, match=r"1\.mu \(complex128\)"):
        handle.save_trained(tmp_path / "trained.safetensors")
