"""Layers of a user's own that keep state: what decides whether it holds still, and what is told."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from unifreeze._protocol import load_backend
from unifreeze.errors import OrderError

ROWS = np.random.default_rng(0).standard_normal((8, 4)).astype("float32") + 2


class TorchNorm(torch.nn.Module):
    """A batch norm with an activation that trains, written by hand."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.bias = torch.nn.Parameter(torch.zeros(4))
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))
        self.act = torch.nn.PReLU()

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        x = torch.nn.functional.batch_norm(x, mean, var, self.weight, self.bias, self.training)
        return self.act(x)


class PaddleNorm(paddle.nn.Layer):
    """The same in Paddle, its statistics in buffers."""

    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([4])
        self.bias = self.create_parameter([4], is_bias=True)
        self.register_buffer("running_mean", paddle.zeros([4]))
        self.register_buffer("running_var", paddle.ones([4]))
        self.act = paddle.nn.PReLU()

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        x = paddle.nn.functional.batch_norm(x, mean, var, self.weight, self.bias, self.training)
        return self.act(x)


class TorchRunning(torch.nn.Module):
    """Takes a running mean off its input; it has no parameters."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.level.lerp_(x.detach().mean(0), 0.1)
        return x - self.level


class PaddleRunning(paddle.nn.Layer):
    """The same in Paddle."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", paddle.zeros([4]))

    def forward(self, x):
        if self.training:
            self.level.set_value(0.9 * self.level + 0.1 * x.detach().mean(0))
        return x - self.level


class TorchBook(torch.nn.Module):
    """A code book that follows what it sees: a frozen table beside sizes in a buffer."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(6, 4)
        self.embedding.weight.requires_grad = False
        self.register_buffer("sizes", torch.ones(6))

    def forward(self, x):
        if self.training:
            self.sizes.mul_(0.9)
            self.embedding.weight.data.lerp_(x.detach().mean(0), 0.1)
        return x + self.embedding.weight.mean(0)


class PaddleBook(paddle.nn.Layer):
    """The same in Paddle."""

    def __init__(self):
        super().__init__()
        self.embedding = paddle.nn.Embedding(6, 4)
        self.embedding.weight.stop_gradient = True
        self.register_buffer("sizes", paddle.ones([6]))

    def forward(self, x):
        if self.training:
            self.sizes.set_value(0.9 * self.sizes)
            table = self.embedding.weight
            table.set_value(0.9 * table + 0.1 * x.detach().mean(0))
        return x + self.embedding.weight.mean(0)


class Torch:
    """What these tests build of PyTorch."""

    linear, stack, dropout = torch.nn.Linear, torch.nn.Sequential, torch.nn.Dropout
    module, norm, running, book = torch.nn.Module, TorchNorm, TorchRunning, TorchBook
    bare = staticmethod(lambda: torch.nn.BatchNorm1d(4, affine=False))
    known = staticmethod(lambda: torch.nn.BatchNorm1d(4))

    @staticmethod
    def run(net):
        return net.train()(torch.tensor(ROWS)).detach().numpy()

    @staticmethod
    def freeze(layer):
        layer.requires_grad_(False)


class Paddle:
    """What these tests build of Paddle."""

    linear, stack, dropout = paddle.nn.Linear, paddle.nn.Sequential, paddle.nn.Dropout
    module, norm, running, book = paddle.nn.Layer, PaddleNorm, PaddleRunning, PaddleBook
    bare = staticmethod(lambda: paddle.nn.BatchNorm1D(4, weight_attr=False, bias_attr=False))
    known = staticmethod(lambda: paddle.nn.BatchNorm1D(4))

    @staticmethod
    def run(net):
        net.train()
        return net(paddle.to_tensor(ROWS)).numpy()

    @staticmethod
    def freeze(layer):
        for parameter in layer.parameters():
            parameter.stop_gradient = True


@pytest.fixture(params=[Torch, Paddle], ids=["torch", "paddle"])
def side(request):
    return request.param


def moves(side, net, layer):
    """Whether a forward pass in training mode moves a layer's state."""

    def bits():
        return {n: t.numpy().tobytes() for n, t in layer.state_dict().items()}

    before = bits()
    side.run(net)
    return bits() != before


# A norm without parameters between frozen layers -----------------------------------------------


def mlp(side):
    return side.stack(
        side.stack(side.linear(4, 4), side.bare(), side.linear(4, 4)), side.linear(4, 2)
    )


@pytest.mark.parametrize(
    ("frozen", "held"),
    [('path:"0"', True), ('path:"0.0" | path:"0.2"', True), ('path:"0.0"', False)],
)
def test_a_norm_between_frozen_layers_holds_though_its_zone_trains_in_part(side, frozen, held):
    net = mlp(side)
    assert uf.FreezePlan().freeze(frozen).resolve(net).spec.units[-1].label == "head"
    handle = uf.FreezePlan().freeze(frozen).apply(net)
    assert moves(side, net, net[0][1]) != held
    handle.verify()


def test_a_norm_between_a_frozen_encoder_and_a_linear_probe_updates(side):
    probe = side.stack(side.bare(), side.linear(4, 2))
    net = side.stack(side.stack(side.linear(4, 4), side.linear(4, 4)), probe)
    uf.FreezePlan().freeze("all").train('path:"1"').apply(net)
    assert moves(side, net, net[1][0])


# Whose parameters decide -----------------------------------------------------------------------


def test_a_users_norm_is_judged_by_its_own_parameters(side):
    net = side.stack(side.linear(4, 4), side.norm(), side.linear(4, 2))
    handle = uf.FreezePlan().freeze("all").train('path:"1.act"').apply(net)
    assert not moves(side, net, net[1])
    assert handle.verify().states == 2
    uf.FreezePlan().freeze('path:"1.act"').apply(net)
    assert moves(side, net, net[1])


@pytest.mark.parametrize("parametrized", [False, True])
def test_attention_with_a_spectral_norm_is_judged_by_its_own_parameters(parametrized):
    namespace = torch.nn.utils.parametrizations if parametrized else torch.nn.utils
    attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
    net = torch.nn.ModuleDict({"a": namespace.spectral_norm(attention, "in_proj_weight")})
    net["head"] = torch.nn.Linear(4, 2)
    handle = uf.FreezePlan().train("all").freeze('re:"a.*(in_proj|original).*"').apply(net)
    before = {n: t.clone() for n, t in net.named_buffers()}
    x = torch.randn(2, 5, 4)
    net.train()["a"](x, x, x)
    assert all(torch.equal(t, before[n]) for n, t in net.named_buffers())
    assert set(handle.resolution.trainable_paths) >= {"a.out_proj.weight", "head.weight"}
    assert handle.verify().states == 2


def test_a_spectral_norm_goes_by_its_layer_and_not_by_those_beside_it():
    spectral = torch.nn.utils.parametrizations.spectral_norm
    net = torch.nn.Sequential(torch.nn.Conv1d(4, 4, 1), spectral(torch.nn.Conv1d(4, 4, 1)))
    net.append(torch.nn.Conv1d(4, 4, 1))
    handle = uf.FreezePlan().freeze('path:"1"').apply(net)
    net.train()(torch.randn(2, 4, 5))
    assert handle.verify().states == 2


# Code books ------------------------------------------------------------------------------------


def book_net(side):
    return side.stack(side.linear(4, 4), side.book(), side.linear(4, 4), side.linear(4, 2))


BOOKS = [
    ("trained around", uf.FreezePlan().freeze('path:"0"').train('path:"1" | path:"2"'), False),
    ("one before", uf.FreezePlan().train("all").freeze('path:"0"'), False),
    ("both beside", uf.FreezePlan().freeze('path:"0" | path:"2"'), True),
    ("named", uf.FreezePlan().freeze('path:"1"'), True),
    ("only", uf.FreezePlan().only('path:"3"'), True),
]


@pytest.mark.parametrize(("plan", "held"), [r[1:] for r in BOOKS], ids=[r[0] for r in BOOKS])
def test_a_code_book_holds_where_a_rule_or_what_is_beside_it_freezes_it(side, plan, held):
    net = book_net(side)
    handle = plan.apply(net)
    assert moves(side, net, net[1]) != held
    handle.verify()
    saved = handle.trainable_state_dict()["tensors"]
    assert ("1.embedding.weight" in saved) != held


# What was found frozen -------------------------------------------------------------------------


def found_frozen(side, make):
    """A network with a frozen layer with state beside layers that train."""
    net = side.stack(side.linear(4, 4), side.stack(side.linear(4, 4), make(), side.linear(4, 2)))
    side.freeze(net[1][1])
    return net


@pytest.mark.parametrize("kind", ["known", "norm"])
def test_a_norm_found_frozen_holds_and_a_notice_says_how_to_let_it_update(side, kind):
    net = found_frozen(side, getattr(side, kind))
    handle = uf.FreezePlan().freeze('path:"0.bias"').apply(net)
    assert not moves(side, net, net[1][1])
    (notice,) = [n for n in handle.resolution.notices if "found frozen" in n]
    assert notice.startswith("1 layer holds its statistics though no rule names them")
    line = notice.partition("update: ")[2]
    text = f"{{unifreeze: 1, rules: [{{freeze: 'path:\"0.bias\"'}}], {line}}}"
    handle = uf.FreezePlan.from_yaml(text).apply(net)
    assert moves(side, net, net[1][1])
    assert not handle.resolution.notices


def test_no_notice_where_a_rule_or_the_policy_decides(side):
    base = uf.FreezePlan().freeze('path:"0.bias"')
    plans = (base.freeze('path:"1.1"'), base.with_norm_stats("hold_all"), base.train('path:"1.1"'))
    for plan in plans:
        assert "found frozen, and" not in str(plan.resolve(found_frozen(side, side.bare)))
        notices = plan.resolve(found_frozen(side, side.known)).notices
        assert not [n for n in notices if "though no rule" in n]


def test_other_state_found_frozen_is_told_with_the_rule_that_lets_it_move():
    net = found_frozen(Torch, lambda: torch.nn.utils.spectral_norm(torch.nn.Linear(4, 4)))
    (notice,) = uf.FreezePlan().freeze('path:"0.bias"').resolve(net).notices
    assert notice.startswith("1 layer holds its other state though no rule names them")
    assert notice.endswith('to let it move: train: path:"1.1"')


def test_dropout_stays_live_in_frozen_parts_that_no_rule_is_about(side):
    def part():
        return side.stack(side.linear(4, 4), side.dropout(0.5))

    net = side.stack(side.stack(part(), part()), part(), side.linear(4, 2))
    side.freeze(net[0])
    side.freeze(net[1])
    resolution = uf.FreezePlan().freeze('path:"0.1.0"').with_dropout("off").resolve(net)
    paths = resolution.spec.tree.paths
    assert {paths[n] for n in resolution.quiet} == {"0", "0.1", "0.1.0", "0.1.1"}


# What norm_stats reaches -----------------------------------------------------------------------

POLICIES = [
    (uf.FreezePlan().train("all").with_norm_stats("hold_all"), True),
    (uf.FreezePlan().only('path:"2"').with_norm_stats("update"), False),
    (uf.FreezePlan().train("all").with_norm_stats([{"hold": 'path:"1"'}]), True),
    (uf.FreezePlan().only('path:"2"').with_norm_stats([{"update": 'path:"1"'}]), False),
]


@pytest.mark.parametrize(("plan", "held"), POLICIES)
@pytest.mark.parametrize("bare", [False, True])
def test_the_policy_reaches_norms_of_a_users_own(side, plan, held, bare):
    layer = side.norm()
    if bare:
        layer.weight = layer.bias = None
    net = side.stack(side.linear(4, 4), layer, side.linear(4, 2))
    handle = plan.apply(net)
    assert moves(side, net, net[1]) != held
    handle.verify()


# Registered out of order -----------------------------------------------------------------------


def shuffled(side):
    class Net(side.module):
        def __init__(self):
            super().__init__()
            self.last = side.linear(4, 2)
            self.level, self.first, self.second = side.running(), side.linear(4, 4), mlp(side)[0][0]

        def forward(self, x):
            return self.last(self.second(self.first(self.level(x))))

    return Net()


def test_a_layer_with_state_that_is_registered_out_of_order_is_an_order_error(side):
    net = shuffled(side)
    plan = uf.FreezePlan().only('path:"last"')
    plan.apply(net)
    with pytest.raises(OrderError, match="hold in one of the two alone: level"):
        side.run(net)
    handle = plan.apply(net, batch=ROWS)
    assert not moves(side, net, net.level)
    assert handle.verify().states == 1


def test_a_layer_with_state_that_never_runs_is_no_order_error(side):
    class Net(side.module):
        def __init__(self):
            super().__init__()
            self.last = side.linear(4, 2)
            self.level, self.first = side.running(), side.linear(4, 4)

        def forward(self, x):
            return self.last(self.first(x))

    net = Net()
    handle = uf.FreezePlan().only('path:"last"').apply(net)
    side.run(net)
    handle.verify()


# What computes otherwise than the layer it is called, or derived from ---------------------------


def test_a_batch_norm_that_is_only_called_frozen_is_held():
    class FrozenBatchNorm1d(torch.nn.BatchNorm1d):
        pass

    net = torch.nn.Sequential(torch.nn.Linear(4, 4), FrozenBatchNorm1d(4), torch.nn.Linear(4, 2))
    Torch.freeze(net[1])
    handle = uf.FreezePlan().only('path:"2"').apply(net)
    assert not moves(Torch, net, net[1])
    assert handle.verify().states == 3


class ByMode(paddle.nn.BatchNorm1D):
    """A batch norm with a forward of its own that asks for the mode."""

    def forward(self, x):
        mean, variance = self._mean, self._variance
        return paddle.nn.functional.batch_norm(
            x, mean, variance, self.weight, self.bias, training=self.training
        )


@pytest.mark.parametrize("copied", [False, True])
def test_a_batch_norm_with_a_forward_of_its_own_computes_what_it_does_in_inference(copied):
    net = paddle.nn.Sequential(paddle.nn.Linear(4, 4), ByMode(4), paddle.nn.Linear(4, 2))
    Paddle.run(net)
    net.eval()
    expected = net(paddle.to_tensor(ROWS)).numpy()
    handle = uf.FreezePlan().only('path:"2"').apply(net)
    each = copy.deepcopy(net) if copied else net
    assert not moves(Paddle, each, each[1])
    np.testing.assert_array_equal(Paddle.run(each), expected)
    assert each[1].training
    handle.verify()
    handle.remove()
    assert moves(Paddle, net, net[1])


def test_a_batch_norm_with_a_forward_of_its_own_holds_under_to_static():
    net = paddle.nn.Sequential(paddle.nn.Linear(4, 4), ByMode(4), paddle.nn.Linear(4, 2))
    handle = uf.FreezePlan().only('path:"2"').apply(net)
    traced = paddle.jit.to_static(net)
    for _ in range(2):
        Paddle.run(traced)
    assert handle.verify().states == 2


def recurrent(framework):
    if framework == "torch":
        layer = torch.nn.utils.spectral_norm(torch.nn.LSTM(4, 5), "weight_hh_l0")
        return torch.nn.ModuleDict({"r": layer, "o": torch.nn.Linear(5, 2)})
    layer = paddle.nn.LSTM(4, 5)
    paddle.nn.utils.spectral_norm(layer, "weight_hh_l0")
    return paddle.nn.LayerDict({"r": layer, "o": paddle.nn.Linear(5, 2)})


def vectors(net):
    """The vectors of a spectral norm after a pass that gradient comes back from."""
    net.train()
    make = torch.tensor if isinstance(net, torch.nn.Module) else paddle.to_tensor
    net["o"](net["r"](make(ROWS[None]))[0]).sum().backward()
    return [net["r"].state_dict()[f"weight_hh_l0_{end}"].numpy().tobytes() for end in "uv"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_a_spectral_norm_on_a_recurrent_layer_makes_no_steps_while_it_is_frozen(framework):
    net = recurrent(framework)
    first = vectors(net)
    handle = uf.FreezePlan().only('path:"o"').apply(net)
    assert vectors(net) == first
    assert handle.verify().states == 2
    twin = copy.deepcopy(net)
    assert vectors(twin) == first
    uf.unpin(twin)
    assert vectors(twin) != first
    assert vectors(net) == first
    handle.remove()
    assert vectors(net) != first


# Statistics among PyTorch's parameters ----------------------------------------------------------


class OldNorm(torch.nn.Module):
    """Keeps its mean as a parameter that does not train."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.running_mean = torch.nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, x):
        if self.training:
            self.running_mean.data.lerp_(x.detach().mean(0), 0.1)
        return self.weight * (x - self.running_mean)


class OldSpectral(torch.nn.Module):
    """Spectral norm as many GANs have it: its vectors are parameters of what it wraps."""

    def __init__(self):
        super().__init__()
        self.module = layer = torch.nn.Linear(4, 4)
        layer.weight_bar = torch.nn.Parameter(layer.weight.data)
        layer.weight_u, layer.weight_v = (
            torch.nn.Parameter(torch.randn(4), requires_grad=False) for _ in "uv"
        )
        del layer._parameters["weight"]

    def forward(self, x):
        layer = self.module
        weight, u, v = layer.weight_bar, layer.weight_u, layer.weight_v
        v.data = torch.nn.functional.normalize(weight.data.t() @ u.data, dim=0)
        u.data = torch.nn.functional.normalize(weight.data @ v.data, dim=0)
        layer.weight = weight / (u @ (weight @ v))
        return layer(x)


def test_statistics_among_parameters_are_state_that_holds_in_a_frozen_part():
    for plan, held in (
        (uf.FreezePlan().only('path:"2"'), True),
        (uf.FreezePlan().train("all").freeze('path:"0"'), False),
    ):
        net = torch.nn.Sequential(torch.nn.Linear(4, 4), OldNorm(), torch.nn.Linear(4, 2))
        handle = plan.apply(net)
        optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)
        before = net[1].running_mean.clone()
        net.train()(torch.tensor(ROWS)).sum().backward()
        optimizer.step()
        assert torch.equal(net[1].running_mean, before) == held
        assert handle.verify().states == held
        assert not net[1].running_mean.requires_grad


def test_vectors_of_a_spectral_norm_among_parameters_are_never_trained():
    net = torch.nn.Sequential(OldSpectral(), torch.nn.Linear(4, 2))
    handle = uf.FreezePlan().train("all").apply(net)
    net.train()(torch.tensor(ROWS)).sum().backward()
    assert net[0].module.weight_u.grad is None
    handle.verify()
    handle = uf.FreezePlan().only('path:"1"').apply(net)
    net.train()(torch.tensor(ROWS))
    handle.verify()
    (notice,) = handle.resolution.notices
    assert notice.startswith("left alone, its spectral norm makes steps in any mode")


def test_double_precision_leaves_statistics_among_parameters_in_their_place():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), OldNorm(), torch.nn.Linear(4, 2))
    backend, mean = load_backend("torch"), net[1].running_mean
    with backend.double(backend.walk(net)):
        assert net[1].running_mean is mean
        assert mean.dtype == torch.float64
    assert net[1].running_mean is mean
    assert mean.dtype == torch.float32
