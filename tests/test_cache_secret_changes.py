"""What changes a frozen weight, a flag, a mode or a cast is found, and within how many steps."""

import contextlib

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze.errors import CacheError, UnifreezeWarning

W = 16
ROWS = np.random.default_rng(0).standard_normal((8, W)).astype("float32")
HEAD = "unifreeze: 1\nrules: [{only: 'path:\"head\"'}]\n"
LAYERS = 3


def network(fw):
    """Three frozen layers with norms, a dropout that is off, and a head."""
    nn = fw.nn

    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.body = fw.List([nn.Linear(W, W) for _ in range(LAYERS)])
            self.norms = fw.List([fw.BatchNorm1D(W) for _ in range(LAYERS)])
            self.drop = nn.Dropout(0.5)
            self.head = nn.Linear(W, 2)

        def forward(self, x):
            for line, norm in zip(self.body, self.norms, strict=True):
                x = self.drop(norm(line(x)))
            return self.head(x)

    return Net()


def weight(model):
    return model.body[1].weight


def in_place(fw, model):
    with fw.no_grad():
        weight(model).mul_(2) if fw.name == "torch" else weight(model).scale_(2.0)


def by_data(fw, model):
    if fw.name == "torch":
        weight(model).data.mul_(2)
    else:
        weight(model).data = weight(model) * 2


def through_numpy(fw, model):
    if fw.name == "torch":
        weight(model).detach().numpy()[0] = 7
    else:
        array = weight(model).numpy() * 7
        weight(model).value().get_tensor().set(array, fw.lib.CPUPlace())


def copy_or_set_value(fw, model):
    with fw.no_grad():
        if fw.name == "torch":
            weight(model).copy_(weight(model) * 2)
        else:
            weight(model).set_value(weight(model).numpy() * 2)


def assign(fw, model):
    with fw.no_grad():
        fw.lib.assign(weight(model) * 2, weight(model))


def load(fw, model):
    values = {name: fw.tensor(value * 2) for name, value in nets.values_of(model).items()}
    fw.load(model, values)


def stepped(fw, model, optimizer_of):
    """Step an optimizer that was given a frozen weight by itself."""
    tensor = weight(model)
    flag = "requires_grad" if fw.name == "torch" else "stop_gradient"
    setattr(tensor, flag, fw.name == "torch")
    optimizer = optimizer_of([tensor])
    (tensor * 1).sum().backward()
    optimizer.step()
    fw.clear(optimizer)
    setattr(tensor, flag, fw.name != "torch")


def optimizer_step(fw, model):
    if fw.name == "torch":
        stepped(fw, model, lambda tensors: fw.AdamW(tensors, lr=0.1))
    else:
        stepped(fw, model, lambda tensors: fw.AdamW(0.1, parameters=tensors))


def fused_optimizer_step(fw, model):
    if fw.name == "torch":
        stepped(fw, model, lambda tensors: fw.AdamW(tensors, lr=0.1, fused=True))
    else:
        adam = fw.lib.optimizer.Adam
        stepped(fw, model, lambda tensors: adam(0.1, parameters=tensors, use_multi_tensor=True))


def running_statistics(fw, model):
    norm = model.norms[1]
    mean, var = (
        (norm.running_mean, norm.running_var)
        if fw.name == "torch"
        else (norm._mean, norm._variance)
    )
    fw.nn.functional.batch_norm(fw.tensor(ROWS), mean, var, training=True)


def cast(fw, model):
    double = fw.lib.float64 if fw.name == "torch" else "float64"
    model.body[1].to(dtype=double)


def flag_flipped(fw, model):
    for tensor in model.body[2].parameters():
        if fw.name == "torch":
            tensor.requires_grad_(True)
        else:
            tensor.stop_gradient = False


def mode_flipped(fw, model):
    model.drop.train()


def module_replaced(fw, model):
    model.body[1] = fw.nn.Linear(W, W)
    for tensor in model.body[1].parameters():
        tensor.requires_grad_(False) if fw.name == "torch" else setattr(
            tensor, "stop_gradient", True
        )


def autocast(fw, model):
    """Automatic casts are switched on for the rest of the block."""
    if fw.name == "torch":
        return fw.lib.autocast("cpu", fw.lib.bfloat16)
    return fw.lib.amp.auto_cast(dtype="bfloat16", level="O1")


AT_ONCE, WITHIN_A_ROUND = "at the next step", "once each frozen tensor had its turn"
WEIGHTS = {
    in_place: {"torch": AT_ONCE, "paddle": AT_ONCE},
    by_data: {"torch": WITHIN_A_ROUND, "paddle": WITHIN_A_ROUND},
    through_numpy: {"torch": WITHIN_A_ROUND, "paddle": WITHIN_A_ROUND},
    copy_or_set_value: {"torch": AT_ONCE, "paddle": WITHIN_A_ROUND},
    assign: {"paddle": AT_ONCE},
    load: {"torch": AT_ONCE, "paddle": WITHIN_A_ROUND},
    optimizer_step: {"torch": AT_ONCE, "paddle": WITHIN_A_ROUND},
    fused_optimizer_step: {"torch": WITHIN_A_ROUND, "paddle": WITHIN_A_ROUND},
    running_statistics: {"torch": WITHIN_A_ROUND, "paddle": WITHIN_A_ROUND},
    cast: {"torch": AT_ONCE, "paddle": AT_ONCE},
}
"""Ways that stop the run, with when each is found."""
SETTINGS = (flag_flipped, mode_flipped, module_replaced, autocast)
"""Ways after which rows of the new setting are used from the next step on."""


def rows_of(table):
    return [
        pytest.param(name, way, id=f"{name}-{way.__name__}")
        for way in table
        for name in (table[way] if isinstance(table, dict) else ("torch", "paddle"))
    ]


def prepared(name):
    fw = nets.framework_of(name)
    fw.seed(0)
    model = network(fw)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    model.eval()
    model(fw.tensor(ROWS))  # the plan itself watches the first pass
    return fw, model, handle


def steps_until_found(name, way):
    fw, model, handle = prepared(name)
    batch = fw.tensor(ROWS)
    with handle.cached() as run:
        for _ in range(4):
            model(batch)
        assert run.counts.hits == 24
        way(fw, model)
        for step in range(1, 100):
            try:
                model(batch)
            except CacheError as error:
                return step, str(error)
    return None, ""


@pytest.mark.parametrize(("name", "way"), rows_of(WEIGHTS))
def test_a_weight_that_changes_in_secret_is_found(name, way):
    step, said = steps_until_found(name, way)
    assert step is not None
    assert "is frozen, and has changed" in said
    assert "handle.verify()" in said
    frozen = len(network(nets.framework_of(name)).state_dict()) - 2
    assert step <= (1 if WEIGHTS[way][name] == AT_ONCE else frozen)


@pytest.mark.parametrize(("name", "way"), rows_of(SETTINGS))
def test_a_changed_setting_has_rows_of_its_own_at_once(name, way):
    fw, model, handle = prepared(name)
    batch = fw.tensor(ROWS)
    warned = pytest.warns(UnifreezeWarning, match="depends on chance")
    with handle.cached() as run, contextlib.ExitStack() as stack:
        for _ in range(3):
            model(batch)
        block = way(fw, model)
        with contextlib.nullcontext() if block is None else block:
            if way is mode_flipped:
                stack.enter_context(warned)
            fw.seed(5)
            got = [fw.floats(model(batch)).detach().numpy() for _ in range(3)]
            backend = handle._in_force.backend
            backend.runs_itself = True  # the model by itself
            fw.seed(5)
            want = [fw.floats(model(batch)).detach().numpy() for _ in range(3)]
            backend.runs_itself = False
    assert all(a.tobytes() == b.tobytes() for a, b in zip(got, want, strict=True))
    if way is mode_flipped:
        assert run.counts.uncached == 24
    else:
        assert (run.counts.misses, run.counts.hits) == (16, 32)


def test_the_watch_looks_at_weights_alone_so_that_a_usual_run_is_not_stopped(framework):
    fw, model, handle = prepared(framework)
    with handle.cached() as run:
        for _ in range(40):
            model(fw.tensor(ROWS))
    assert run.counts.hits == 8 * 39
