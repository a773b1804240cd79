"""A network of two layers in both frameworks, and what parity finds between the two."""

import numpy as np
from paddle import nn as pnn
from torch import nn as tnn

import unifreeze as uf
from unifreeze._evidence import check_parity, make_record
from unifreeze._protocol import ProbeConfig

ROWS = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
HEAD = uf.FreezePlan().only("head")


class TorchNet(tnn.Module):
    """Layers by name, in the order given, and what is done with them."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


class PaddleNet(pnn.Layer):
    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


def two_layers(net, x):
    return net.head(net.body(x))


def torch_net(forward=two_layers, **changed):
    return TorchNet(forward, **{"body": tnn.Linear(6, 6), "head": tnn.Linear(6, 3), **changed})


def paddle_net(forward=two_layers, **changed):
    return PaddleNet(forward, **{"body": pnn.Linear(6, 6), "head": pnn.Linear(6, 3), **changed})


def findings(report, clause):
    return [
        (finding.severity, str(finding))
        for each in report.clauses
        if each.name == clause
        for finding in each.findings
    ]


def broken(report):
    return [clause.name for clause in report.clauses if not clause.holds]


def check(plan, model, other, **how):
    return check_parity(plan, model, other, batch=ROWS, **how)


def record(kit, plan=HEAD, **how):
    config = ProbeConfig(kit.plain.batch, **how)
    return make_record(plan, kit.plain.make(), kit.backend, config, device="cpu", name="plain")
