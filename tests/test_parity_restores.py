"""Parity leaves live models, their plans and the random numbers as they were."""

import random

import numpy as np
import paddle
import pytest
import torch
from paddle import nn as pnn

import unifreeze as uf
from tests.support.two_nets import HEAD, check, paddle_net
from unifreeze._evidence import check_parity
from unifreeze._protocol import ProbeConfig, load_backend
from unifreeze.errors import TargetError


def snapshot(model, backend):
    """Everything about a live model that a check must leave alone."""
    objects = backend.objects(model)
    return {
        "bits": {p: d.bits for p, d in backend.fingerprint(model, objects).items()},
        "identity": {path: id(tensor) for path, tensor in objects.items()},
        "flags": backend.read(model),
        "gradients": {
            path: None if (gradient := backend.get_gradient(tensor)) is None
            else backend.to_array(gradient).tobytes()
            for path, tensor in objects.items()
            if path in backend.read(model)
        },
        "modes": backend.modes(backend.walk(model)),
        "attributes": [sorted(vars(module)) for module in backend.walk(model).modules],
    }  # fmt: skip


def random_states():
    return (
        torch.random.get_rng_state().numpy().tobytes(),
        str([state.current_seed() for state in paddle.get_rng_state()]),
        paddle.rand([4]).numpy().tobytes(),
        random.getstate(),
        np.random.get_state()[1].tobytes(),
    )


def used(kit):
    """A model in the middle of a life: gradients, moved statistics, odd flags and modes."""
    model = kit.plain.make()
    backend = kit.backend
    walk = backend.walk(model)
    backend.train_mode(model)
    output = backend.run(model, kit.plain.batch)
    backend.backward([output], [np.ones((8, 3), np.float32)])
    backend.set_flag(walk.tensors[0], False)
    modes = backend.modes(walk)
    modes[-1], modes[2] = False, False
    backend.set_modes(walk, modes)
    return model


def test_live_models_are_left_as_they_were(kits):
    models = [used(kit) for kit in kits.values()]
    backends = [kit.backend for kit in kits.values()]
    before = [snapshot(m, b) for m, b in zip(models, backends, strict=True)]
    assert any(before[0]["gradients"].values())
    paddle.seed(7)
    states = random_states()
    paddle.seed(7)
    check(HEAD, *models)
    assert random_states() == states
    assert [snapshot(m, b) for m, b in zip(models, backends, strict=True)] == before


def test_live_models_are_left_as_they_were_when_the_check_fails(kits):
    for kit in kits.values():
        model = used(kit)
        before = snapshot(model, kit.backend)
        with pytest.raises(TargetError):
            kit.backend.probe(
                model,
                uf.resolve(HEAD, model),
                ProbeConfig(kit.plain.batch, outputs=("nowhere",)),
            )
        assert snapshot(model, kit.backend) == before


def test_a_plan_in_force_is_left_in_force(kits):
    for kit in kits.values():
        model = kit.plain.make()
        found = snapshot(model, kit.backend)
        handle = uf.apply(uf.FreezePlan().freeze("blocks"), model)
        before = snapshot(model, kit.backend)
        check(HEAD, model, model)
        assert snapshot(model, kit.backend) == before
        handle.verify()
        handle.remove()
        assert snapshot(model, kit.backend) == found


def test_the_mode_asked_for_is_left_alone_under_a_plan(kits):
    for kit in kits.values():
        model = kit.plain.make()
        model.eval()
        handle = uf.apply(uf.FreezePlan().freeze("blocks"), model)
        check(HEAD, model, model)
        handle.remove()
        assert not any(kit.backend.modes(kit.backend.walk(model))), kit.backend.name


def test_a_sparse_gradient_is_refused_and_left_as_it_was():
    table = pnn.Embedding(11, 6, sparse=True)
    model = paddle_net(lambda net, x: net.head(net.body(net.table(x))), table=table)
    ids = np.array([1, 2, 2, 3])
    model(paddle.to_tensor(ids)).sum().backward()
    backend = load_backend("paddle")
    gradient = model.table.weight.grad
    whole = np.zeros((11, 6), np.float32)
    np.add.at(whole, gradient.rows(), gradient.numpy())
    with pytest.raises(TargetError, match="adamw, with which parity is shown, cannot train this"):
        check_parity(uf.FreezePlan().freeze("body"), model, model, batch=ids)
    assert np.array_equal(backend.to_array(model.table.weight.grad), whole)
    assert check_parity(uf.FreezePlan().freeze("table"), model, model, batch=ids).holds
